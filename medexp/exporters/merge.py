"""Base and adapter as one set of weights, a tensor at a time, and as a Transformers checkpoint of
files of a GiB.

Each matrix is merged in float32 and rounded once, as PEFT's merge_and_unload does on the same base.
An NF4 base is dequantised: those are the weights that the adapter was trained against, so no second
download and no second model.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medexp.config.command_options import MergedDtype
from medexp.errors import ModelError
from medexp.exporters.base_checkpoint import BaseCheckpoint
from medexp.models import adapter_files as artifact
from medexp.models import lora_math
from medexp.system.units import GIB
from medexp.tracking.artifact_names import ADAPTER_WEIGHTS

MAX_SHARD_BYTES = GIB  # of an exported file: what is gathered in memory before it is written


class MergedWeights:
    """The weights of `base` with the adapter in `folder` merged in."""

    def __init__(self, base: BaseCheckpoint, folder: Path):
        self.base = base
        self.scale = lora_math.compute_scale(artifact.read_adapter_config(folder))
        self._file = folder / ADAPTER_WEIGHTS
        # of a tensor, by part: the key in the adapter's file
        self._changes: dict[str, dict[str, str]] = {}
        for key in artifact.read_tensor_shapes(folder):
            name, part = lora_math.parse_tensor_key(key)
            self._changes.setdefault(name, {})[part] = key
        if unknown := sorted(set(self._changes) - set(base.tensors)):
            raise ModelError(
                f"the adapter changes {unknown[0]} and the base in {base.folder} has no such tensor"
            )

    @property
    def names(self) -> Sequence[str]:
        """Every tensor, in the order in which it is read fastest."""
        return list(self.base.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self.base.tensors[name].shape

    def tensor(self, name: str) -> Any:
        """A merged tensor in float32; what the adapter leaves alone comes as it is stored."""
        if name not in self._changes:
            return self.base.tensor(name)
        change = self._change(name)
        if "replaced" in change:
            return change["replaced"]
        weight = self.base.tensor(name).float()
        weight = weight.addmm_(change["lora_B"], change["lora_A"], alpha=self.scale)
        if "lora_magnitude_vector" in change:
            weight.mul_((change["lora_magnitude_vector"] / weight.norm(dim=1)).unsqueeze(1))
        return weight

    def _change(self, name: str) -> dict[str, Any]:
        from safetensors import safe_open

        with safe_open(self._file, framework="pt") as file:
            return {part: file.get_tensor(key).float() for part, key in self._changes[name].items()}


def estimate_merged_bytes(base: BaseCheckpoint) -> int:
    """What a merged checkpoint in 16 bits takes on the disk."""
    return 2 * sum(tensor.elements for tensor in base.tensors.values())


def write_merged(
    merged: MergedWeights, folder: Path, dtype: MergedDtype, advance: Callable[[int], None]
) -> None:
    """Write model*.safetensors, their index and config.json to `folder`; `advance` is told of every
    tensor.

    Raises: ModelError if a weight is too large for float16.
    """
    import torch
    from safetensors.torch import save_file

    precision = getattr(torch, dtype.value)
    files = _plan_shards(merged)
    for file, names in files.items():
        gathered = {}
        for name in names:
            gathered[name] = _cast(name, merged.tensor(name), precision)
            advance(1)
        save_file(gathered, folder / file, metadata={"format": "pt"})
        del gathered
    if len(files) > 1:
        index = {
            "metadata": {"total_size": estimate_merged_bytes(merged.base)},
            "weight_map": _make_weight_map(files),
        }
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    write_config(merged.base.config, folder, dtype)


def write_config(config: Mapping[str, Any], folder: Path, dtype: MergedDtype) -> None:
    """config.json of the base without its quantisation and its makers' paths."""
    left_out = ("quantization_config", "_name_or_path", "_model_name_or_path", "torch_dtype")
    kept = {name: value for name, value in config.items() if name not in left_out}
    (folder / "config.json").write_text(
        json.dumps(kept | {"dtype": dtype.value}, indent=2, sort_keys=True) + "\n"
    )


def write_generation_config(base: BaseCheckpoint, folder: Path) -> None:
    """generation_config.json of the base, where it has one."""
    file = base.folder / "generation_config.json"
    if file.is_file():
        kept = {
            name: value
            for name, value in json.loads(file.read_text()).items()
            if name != "_from_model_config"
        }
        (folder / file.name).write_text(json.dumps(kept, indent=2) + "\n")


def _cast(name: str, tensor: Any, precision: Any) -> Any:
    import torch

    cast = tensor.to(precision).contiguous()
    if precision is torch.float16 and not bool(torch.isfinite(cast).all()):
        raise ModelError(
            f"{name} holds a value that float16 cannot; export with export.dtype=bfloat16"
        )
    return cast


def _plan_shards(merged: MergedWeights) -> dict[str, list[str]]:
    """The names of the files to write and of the tensors in each, at most FILE_BYTES unless one
    tensor is larger.
    """
    groups: list[list[str]] = []
    filled = MAX_SHARD_BYTES
    for name in merged.names:
        size = 2 * merged.base.tensors[name].elements
        if filled + size > MAX_SHARD_BYTES:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    return {
        f"model-{number:05}-of-{len(groups):05}.safetensors": names
        for number, names in enumerate(groups, 1)
    }


def _make_weight_map(files: Mapping[str, Sequence[str]]) -> dict[str, str]:
    return {name: file for file, names in files.items() for name in names}
