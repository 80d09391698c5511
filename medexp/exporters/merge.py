"""Base and adapter merged a tensor at a time, and written as a Transformers checkpoint in files of
a GiB.

Each matrix is merged in float32 and rounded once, as PEFT's merge_and_unload does on the same base.
An NF4 base is dequantised. Those are the weights that the adapter was trained against, so neither a
second download nor the 16-bit original is needed.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medexp.config.command_options import MergedDtype
from medexp.errors import ModelError
from medexp.exporters.base_checkpoint import BaseCheckpoint
from medexp.models import adapter_files, lora_math
from medexp.system.units import GIB
from medexp.tracking.artifact_names import ADAPTER_WEIGHTS

# Of an exported file, whose tensors are all in memory before it is written.
MAX_SHARD_BYTES = GIB


class MergedWeights:
    """The weights of `base` with the adapter in `folder` merged in."""

    def __init__(self, base: BaseCheckpoint, folder: Path):
        self.base = base
        self.scale = lora_math.compute_scale(adapter_files.read_adapter_config(folder))
        self._file = folder / ADAPTER_WEIGHTS
        # For a tensor and a part of LoRA (lora_A, ...): the key in the adapter's file.
        self._changes: dict[str, dict[str, str]] = {}
        for key in adapter_files.read_tensor_shapes(folder):
            name, part = lora_math.parse_tensor_key(key)
            self._changes.setdefault(name, {})[part] = key
        if unknown := sorted(set(self._changes) - set(base.tensors)):
            raise ModelError(
                f"the adapter changes {unknown[0]} and the base in {base.folder} has no such tensor"
            )

    @property
    def names(self) -> Sequence[str]:
        """Every tensor, in the order of the files, in which they are read fastest."""
        return list(self.base.tensors)

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self.base.tensors[name].shape

    def load_tensor(self, name: str) -> Any:
        """Return a merged tensor in float32; one that the adapter leaves alone as it is stored."""
        if name not in self._changes:
            return self.base.load_tensor(name)
        change = self._change(name)
        if "replaced" in change:
            return change["replaced"]
        weight = self.base.load_tensor(name).float()
        weight = weight.addmm_(change["lora_B"], change["lora_A"], alpha=self.scale)
        if "lora_magnitude_vector" in change:
            weight.mul_((change["lora_magnitude_vector"] / weight.norm(dim=1)).unsqueeze(1))
        return weight

    def _change(self, name: str) -> dict[str, Any]:
        from safetensors import safe_open

        with safe_open(self._file, framework="pt") as file:
            return {part: file.get_tensor(key).float() for part, key in self._changes[name].items()}


def estimate_merged_bytes(base: BaseCheckpoint) -> int:
    """Return how many bytes a merged checkpoint in 16 bits takes on the disk."""
    return 2 * sum(tensor.num_elements for tensor in base.tensors.values())


def write_merged(
    merged: MergedWeights, folder: Path, dtype: MergedDtype, advance: Callable[[int], None]
) -> None:
    """Write model*.safetensors, their index and config.json to `folder`.

    `advance` is called with 1 after every tensor.

    Raises: ModelError if a weight is too large for float16.
    """
    import torch
    from safetensors.torch import save_file

    precision = getattr(torch, dtype.value)
    files = _plan_shards(merged)
    for file, names in files.items():
        tensors = {}
        for name in names:
            tensors[name] = _cast(name, merged.load_tensor(name), precision)
            advance(1)
        save_file(tensors, folder / file, metadata={"format": "pt"})
        # Before the next file is gathered, so that only one is in memory.
        del tensors
    if len(files) > 1:
        index = {
            "metadata": {"total_size": estimate_merged_bytes(merged.base)},
            "weight_map": _make_weight_map(files),
        }
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    write_config(merged.base.config, folder, dtype)


def write_config(config: Mapping[str, Any], folder: Path, dtype: MergedDtype) -> None:
    """Write config.json of the base without its quantisation and its makers' paths."""
    left_out = ("quantization_config", "_name_or_path", "_model_name_or_path", "torch_dtype")
    merged_config = {name: value for name, value in config.items() if name not in left_out}
    merged_config["dtype"] = dtype.value
    text = json.dumps(merged_config, indent=2, sort_keys=True) + "\n"
    (folder / "config.json").write_text(text)


def write_generation_config(base: BaseCheckpoint, folder: Path) -> None:
    """Write generation_config.json of the base, where it has one."""
    file = base.folder / "generation_config.json"
    if file.is_file():
        generation_config = json.loads(file.read_text())
        generation_config.pop("_from_model_config", None)
        (folder / file.name).write_text(json.dumps(generation_config, indent=2) + "\n")


def _cast(name: str, tensor: Any, precision: Any) -> Any:
    import torch

    cast = tensor.to(precision).contiguous()
    if precision is torch.float16 and not bool(torch.isfinite(cast).all()):
        raise ModelError(
            f"{name} holds a value that float16 cannot; export with export.dtype=bfloat16"
        )
    return cast


def _plan_shards(merged: MergedWeights) -> dict[str, list[str]]:
    """Return the names of the tensors in each file, by the file's name.

    A file has at most MAX_SHARD_BYTES, unless a single tensor is larger.
    """
    shards: list[list[str]] = []
    shard_bytes = MAX_SHARD_BYTES
    for name in merged.names:
        tensor_bytes = 2 * merged.base.tensors[name].num_elements
        if shard_bytes + tensor_bytes > MAX_SHARD_BYTES:
            shards.append([])
            shard_bytes = 0
        shards[-1].append(name)
        shard_bytes += tensor_bytes
    if len(shards) == 1:
        return {"model.safetensors": shards[0]}
    return {
        f"model-{number:05}-of-{len(shards):05}.safetensors": names
        for number, names in enumerate(shards, 1)
    }


def _make_weight_map(files: Mapping[str, Sequence[str]]) -> dict[str, str]:
    return {name: file for file, names in files.items() for name in names}
