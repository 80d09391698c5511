"""A run as flat names and plain values (`lora.r` -> 16): what MLflow keeps as parameters, and what tells two runs apart."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from enum import Enum

from medexp.config.schema import RunConfig

Value = str | int | float | bool | None | list[object]
_NOT_THE_EXPERIMENT = ("tracking.", "training.resume", "training.save_steps")


def flatten(run: RunConfig) -> dict[str, Value]:
    """Every leaf of `run` under its dotted name, enums as their values."""
    return dict(_leaves("", asdict(run)))


def fingerprint(run: RunConfig, data_digest: str) -> str:
    """Twelve hex digits that two runs share when they are the same command on the same cases.

    Where results are kept and how often checkpoints are written does not count; everything else does.
    """
    leaves = {name: value for name, value in flatten(run).items() if not name.startswith(_NOT_THE_EXPERIMENT)}
    text = json.dumps([leaves, data_digest], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _leaves(prefix: str, value: object) -> Iterator[tuple[str, Value]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(f"{prefix}.{name}" if prefix else str(name), inner)
    elif isinstance(value, list) and any(isinstance(inner, Mapping) for inner in value):
        yield from _leaves(prefix, {str(place): inner for place, inner in enumerate(value)})
    elif isinstance(value, Enum):
        yield prefix, value.value
    elif value is None or isinstance(value, str | int | float | bool | list):
        yield prefix, value
