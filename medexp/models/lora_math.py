"""What an adapter does to a matrix of its base, from its adapter_config.json and the base's
declared shape. Arithmetic only.

W' = W + scale * B A, scale = alpha / r, or alpha / sqrt(r) where it is rank-stabilised
(Kalajdzievski 2023, arXiv:2312.03732); with DoRA W' = m * (W + scale * B A) / |W + scale * B A|,
the norm over each row (Liu et al. 2024, arXiv:2402.09353).
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medexp.config.families.sizes import list_linear_sizes
from medexp.config.schema import ModelShape

_PREFIX = "base_model.model."
_PART = re.compile(r"\.(lora_A|lora_B)\.weight$|\.(lora_magnitude_vector)$")
_BASE_LAYER = ".base_layer."
_KNOWN = (  # settings of PEFT that are read here, or leave W' as it is above
    "r", "lora_alpha", "use_rslora", "use_dora", "bias", "lora_dropout", "target_modules",
    "exclude_modules", "layers_to_transform", "layers_pattern", "eva_config", "megatron_core",
    "qalora_group_size", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path",
    "revision", "inference_mode",
)  # fmt: skip
_KNOWN_VALUES: Mapping[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "init_lora_weights": (True, False, "gaussian", "eva"),  # others begin with another W
}


def compute_scale(config: Mapping[str, Any]) -> float:
    """Return the factor that B A is multiplied with."""
    rank: int = config["r"]
    alpha: float = config["lora_alpha"]
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def find_unsupported_settings(config: Mapping[str, Any]) -> list[str]:
    """Return the settings of an adapter that change W' in ways that are not written here, or are
    not known: an older or a newer PEFT's."""
    asked = {name: value for name, value in config.items() if value and name not in _KNOWN}
    return [
        f"{name}={value}"
        for name, value in asked.items()
        if value not in _KNOWN_VALUES.get(name, ())
    ]


def parse_tensor_key(key: str) -> tuple[str, str]:
    """Return the tensor of the base that `key` of an adapter changes, and how: lora_A, lora_B,
    lora_magnitude_vector or replaced."""
    name = key.removeprefix(_PREFIX)
    part = _PART.search(name)
    if part is not None:
        return f"{name[: part.start()]}.weight", part[1] or part[2]
    return name.replace(_BASE_LAYER, "."), "replaced"


def find_misfits(
    shapes: Mapping[str, Sequence[int]], rank: int, shape: ModelShape
) -> Iterator[str]:
    """Return what in an adapter's tensors (`shapes` by key) is not of `rank` and `shape`, one
    sentence each."""
    for key, found in shapes.items():
        name, part = parse_tensor_key(key)
        match = re.fullmatch(r"model\.layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)\.(weight|bias)", name)
        size = list_linear_sizes(shape).get(match[2]) if match else None
        if match is None or size is None or int(match[1]) >= shape.layers:
            yield (
                f"{name} is not a projection of the base, which has layers 0 to {shape.layers - 1}"
            )
            continue
        columns, rows = size
        wanted = {"lora_A": [rank, columns], "lora_B": [rows, rank]}.get(part, [rows])
        if list(found) != wanted:
            yield f"{part} of {name} is {_by(found)} and the base needs {_by(wanted)}"


def _by(sides: Sequence[int]) -> str:
    return " x ".join(map(str, sides))
