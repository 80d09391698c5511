"""The adapter as a folder: safetensors, adapter_config.json with the absolute base, the tokenizer, and the run that made it."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medexp.config.flatten import shown
from medexp.config.schema import Lora
from medexp.errors import ModelError, listing
from medexp.models.adapter_model import Tuned, Weights
from medexp.models.lora_math import unsupported
from medexp.system.files import written_whole

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_AS_TRAINED = {  # PEFT's names, and what an adapter has that is older than one of them
    "lora_alpha": ("lora.alpha", 8),
    "use_rslora": ("lora.rank_stabilised", False),
    "use_dora": ("lora.dora", False),
    "bias": ("lora.bias", "none"),
}


def save_adapter(tuned: Tuned, folder: Path, composed_yaml: str) -> Path:
    """Write the adapter to `folder`, whole or not at all; an adapter already there is replaced. Returns `folder`."""
    with written_whole(folder) as half_done:
        tuned.network.save_pretrained(half_done, save_embedding_layers=False)
        tuned.tokenizer.save_pretrained(half_done)
        (half_done / "run.yaml").write_text(composed_yaml, encoding="utf-8")
    return folder


def check_adapter(folder: Path, lora: Lora, weights: Weights, key: str = "lora.start_from") -> None:
    """Is the adapter in `folder`, which `key` names, one of this base, rank, modules and scale, with DoRA and biases as here?

    Raises: ModelError saying what it was trained on instead.
    """
    file = folder / CONFIG
    if not file.is_file():
        raise ModelError(f"{key}={folder} holds no adapter_config.json; give the folder of a PEFT adapter")
    config = json.loads(file.read_text())
    if config.get("base_model_name_or_path") != weights.location:
        raise ModelError(
            f"the adapter in {folder} was trained on {config.get('base_model_name_or_path')} and this run's base is "
            f"{weights.location}; choose that model, or another {key}"
        )
    if config.get("r") != lora.r or set(config.get("target_modules") or ()) != set(lora.target_modules):
        raise ModelError(
            f"the adapter in {folder} has rank {config.get('r')} on {listing(sorted(config.get('target_modules') or ()))}; "
            "set lora.r and lora.target_modules to the same"
        )
    _check_scale(config, lora, folder, key)


def _check_scale(config: Mapping[str, Any], lora: Lora, folder: Path, key: str) -> None:
    """Raises: ModelError where the same weights would be another change of the base than the one that was trained."""
    ours = {"lora_alpha": lora.alpha, "use_rslora": lora.rank_stabilised, "use_dora": lora.dora, "bias": lora.bias.value}
    theirs = {name: config.get(name, older) for name, (_, older) in _AS_TRAINED.items()}
    if other := [f"{_AS_TRAINED[name][0]}={shown(theirs[name])}" for name in ours if theirs[name] != ours[name]]:
        raise ModelError(f"the adapter in {folder} was trained with {' '.join(other)}; set the same here, or choose another {key}")
    if found := unsupported(config):
        raise ModelError(f"the adapter in {folder} has {found[0]}, which medexp does not train; choose another {key}")


def parameters(folder: Path) -> int | None:
    """How many parameters the adapter in `folder` has; None where it has no safetensors."""
    return sum(map(math.prod, shapes(folder).values())) if (folder / WEIGHTS).is_file() else None


def shapes(folder: Path) -> dict[str, list[int]]:
    """The shape of every tensor of the adapter in `folder`, read from the head of its file alone."""
    from safetensors import safe_open

    with safe_open(folder / WEIGHTS, framework="np") as opened:
        return {key: opened.get_slice(key).get_shape() for key in opened.keys()}  # noqa: SIM118


def adapter_config(folder: Path) -> dict[str, Any]:
    """What PEFT keeps of the adapter in `folder` beside its weights.

    Raises: ModelError if the weights are not there, as after a copy that was cut off.
    """
    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"{folder} holds no {WEIGHTS}; give the folder of a whole PEFT adapter")
    found: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    return found


def write_adapter_config(config: dict[str, Any], folder: Path) -> None:
    """Write `config` as PEFT reads it."""
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
