"""A run as flat names and plain values (`lora.r` -> 16): what MLflow keeps as parameters, and what
tells two runs apart.
"""

import hashlib
import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from enum import Enum
from pathlib import Path

from medexp.config.former_values import FORMER_VALUES
from medexp.config.schema import GROUP_NAMES, RunConfig

Value = str | int | float | bool | None | list[object]
# What `dataset.faulty` leaves out, the digest of the cases tells. Several cards take the very steps
# of one, so a run goes on with more or fewer of them. Likelihoods are measured beside
# everything else and change none of it, so what was begun without them goes on with them.
_NOT_THE_EXPERIMENT = (
    "tracking.",
    "training.resume",
    "training.save_steps",
    "evaluation.reuse_base",
    "evaluation.likelihoods",
    "evaluation.verifier",
    "dataset.faulty",
    "hardware.cards",
    "hardware.measured_steps",
)
# Of a card, measured or published: nothing but predictions is made of them.
_RATES = ("hardware.matmul_tflops", "hardware.memory_gb_per_s", "hardware.host_link_gb_per_s")
_TELLING = (
    "lora.r", "training.learning_rate", "training.max_seq_tokens", "model.name", "dataset.name",
    "prompt.name", "training.max_steps", "training.epochs", "training.micro_batch",
    "training.accumulation", "training.seed", "lora.alpha", "lora.dropout", "lora.target_modules",
    "lora.start_from", "training.optimizer", "training.schedule", "training.warmup_steps",
    "training.weight_decay", "model.quantisation", "model.path", "dataset.held_out",
    "dataset.max_cases", "dataset.held_out_from.name", "hardware.name", "hardware.vram_ceiling_gib",
)  # fmt: skip
# Newer keys of these groups are told where they are set.
_RECIPE = ("lora.", "training.")
_TELLING_OF_A_PART = (".name", ".weight", ".path")


def flatten(config: RunConfig) -> dict[str, Value]:
    """Return every leaf of `config` under its dotted name, enums as their values."""
    return dict(list_leaves("", {name: asdict(getattr(config, name)) for name in GROUP_NAMES}))


def is_of_experiment(name: str) -> bool:
    """Return whether the setting of this dotted name changes what comes out. Where results are kept
    and how a run is taken up again do not.
    """
    return not name.startswith(_NOT_THE_EXPERIMENT)


def is_of_identity(name: str) -> bool:
    """Return whether the setting of this dotted name tells one command from another."""
    return is_of_experiment(name) and name not in _RATES


def comparable_params(config: RunConfig, overrides: Sequence[str]) -> dict[str, Value]:
    """Return the leaves of `config` that a person compares runs by, the most telling first, and
    those that `overrides` name; no nulls, and none that a user may set otherwise when the run is
    continued (`fingerprint` leaves them out, and MLflow lets no parameter change: where the machine
    or its plan has another value by then, a tag says so).

    The whole config is kept beside them as config/composed.yaml.
    """
    leaves = {
        name: value for name, value in _extract_experiment(config).items() if value is not None
    }
    named = [override.lstrip("+").partition("=")[0] for override in overrides]
    first = [*_TELLING[:6], *named, *_TELLING]
    newer = [name for name in FORMER_VALUES if name.startswith(_RECIPE)]
    is_set = (name for name in newer if not _is_at_former_value(name, leaves.get(name)))
    order = [*first, *is_set, *filter(_tells_of_a_part, leaves)]
    return {name: leaves[name] for name in order if name in leaves}


def _tells_of_a_part(name: str) -> bool:
    return name.startswith("dataset.mixture.") and name.endswith(_TELLING_OF_A_PART)


def extract_identity(config: RunConfig) -> dict[str, Value]:
    """Return what two runs share when they are the same command, wherever they are started.

    Every leaf of the experiment as it was asked for, whatever memory the machine has and whatever
    plan fits it; a file of the project, or of medexp, by its place there.
    """
    filled = {name: value for name, value in flatten(config).items() if is_of_identity(name)}
    project, package = Path(config.tracking.root or ".").parent, Path(__file__).parents[1]
    homes, leaves = {str(project): ".", str(package): "medexp"}, filled | config.asked
    return {
        name: _relocate(value, homes)
        for name, value in leaves.items()
        if not _is_at_former_value(name, value)
    }


def _is_at_former_value(name: str, value: Value) -> bool:
    """Return whether a newer key is at what medexp did before there was the key: that makes no
    other run.
    """
    return name in FORMER_VALUES and value == FORMER_VALUES[name]


def _relocate(value: Value, homes: Mapping[str, str]) -> Value:
    """Return `value`, the innermost of the folders `homes` that it lies in called by its name."""
    inside = [home for home in homes if isinstance(value, str) and value.startswith(home + os.sep)]
    if not isinstance(value, str) or not inside:
        return value
    innermost = max(inside, key=len)
    return homes[innermost] + value[len(innermost) :]


def fingerprint(config: RunConfig, data_digest: str) -> str:
    """Return twelve hex digits that two runs share when they are the same command on the same
    cases.

    Where results are kept, how often checkpoints are written, and what the machine has does not
    count; everything else that was asked for does.
    """
    return _digest(extract_identity(config), data_digest)


def former_fingerprint(config: RunConfig, data_digest: str) -> str:
    """Return the fingerprint of before 2026-11-29, which held the machine's memory, the plan and
    absolute paths: what was left unfinished then is found by it.
    """
    leaves = _extract_experiment(config).items()
    return _digest(
        {name: value for name, value in leaves if not _is_at_former_value(name, value)}, data_digest
    )


def _digest(leaves: Mapping[str, Value], data_digest: str) -> str:
    text = json.dumps([leaves, data_digest], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _extract_experiment(config: RunConfig) -> dict[str, Value]:
    return {name: value for name, value in flatten(config).items() if is_of_experiment(name)}


def list_settings(groups: Mapping[str, object]) -> dict[str, str]:
    """Every leaf of composed `groups` that makes the experiment, under its dotted name, written as
    on the command line.
    """
    leaves = list_leaves(
        "",
        {name: group for name, group in groups.items() if name in GROUP_NAMES},
    )
    return {name: format_value(value) for name, value in leaves if is_of_experiment(name)}


def format_value(value: object) -> str:
    """`value` as it is written on the command line: null, true, [a, b]."""
    if isinstance(value, list):
        return f"[{', '.join(map(format_value, value))}]"
    return (
        {None: "null", True: "true", False: "false"}[value]
        if value is None or isinstance(value, bool)
        else str(value)
    )


def format_override(name: str, value: str) -> str:
    """Return `name=value` as a shell has to be given it, so that Hydra reads text `value` letter by
    letter.
    """
    if re.fullmatch(r"[\w./:-]+", value, re.ASCII):
        return f"{name}={value}"
    escaped = re.sub(
        r"(\\*)('|\Z)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), value
    )
    return shlex.quote(f"{name}='{escaped}'")


def find_differing_settings(runs: Sequence[Mapping[str, str]]) -> dict[str, list[str | None]]:
    """Return the settings in which `runs` are not all alike, with the value in every run (None
    where it has none), in their order.
    """
    names = dict.fromkeys(name for run in runs for name in run)
    return {
        name: values for name in names if len(set(values := [run.get(name) for run in runs])) > 1
    }


def list_leaves(prefix: str, value: object) -> Iterator[tuple[str, Value]]:
    """Yield every plain value below `value` under its dotted name, which begins with `prefix`;
    enums as their values, lists whole unless they hold mappings.
    """
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from list_leaves(f"{prefix}.{name}" if prefix else str(name), inner)
    elif isinstance(value, list) and any(isinstance(inner, Mapping) for inner in value):
        yield from list_leaves(prefix, {str(place): inner for place, inner in enumerate(value)})
    elif isinstance(value, Enum):
        yield prefix, value.value
    elif value is None or isinstance(value, str | int | float | bool | list):
        yield prefix, value
