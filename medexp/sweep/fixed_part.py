"""The fixed part of a study: what all its trials share, as its storage keeps it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medexp.config import flatten
from medexp.config.former_values import FORMER_VALUES
from medexp.config.schema import RunConfig
from medexp.errors import ConfigError
from medexp.sweep.search.options import SweepOptions
from medexp.sweep.study.study import Study

# Optuna's user attributes of a study. Studies that were begun earlier hold these names.
_FIXED_PART = "asked"  # as `flatten.extract_identity` has it
_FORMER_FIXED_PART = "base"

_OBJECTIVE = "hydra.sweeper.objective"
_MAX_CHANGES_SHOWN = 4


def check_unchanged(study: Study, base_config: RunConfig) -> None:
    """Check that the fixed part is that of the study: its trials may differ in its dimensions only.

    Raises: ConfigError naming what has changed.
    """
    current = compute(base_config, study.space.dimensions, study.options)
    stored = read(study.optuna.user_attrs, current, base_config)
    if stored is None:
        study.optuna.set_user_attr(_FIXED_PART, current)
        return
    # Before the first value nothing depends on the objective yet, so it may change.
    if not any(trial.state.name == "COMPLETE" for trial in study.trials()):
        stored[_OBJECTIVE] = current[_OBJECTIVE]
    study.optuna.set_user_attr(_FIXED_PART, stored)
    if changes := describe_changes(stored, current):
        raise ConfigError(
            f"study {study.name} was begun with other settings: {changes}; set them back, or give"
            " the new study a name: hydra.sweeper.study_name=NAME"
        )


def compute(
    base_config: RunConfig, dimensions: Mapping[str, Any], options: SweepOptions
) -> dict[str, Any]:
    """Return what all trials of a study share, by dotted name."""
    fixed: dict[str, Any] = {
        name: value
        for name, value in flatten.extract_identity(base_config).items()
        if name not in dimensions
    }
    return fixed | {_OBJECTIVE: list(options.objectives)}


def read(
    study_attrs: Mapping[str, Any], current: Mapping[str, Any], base_config: RunConfig
) -> dict[str, Any] | None:
    """Return the fixed part that a study has stored, None before it has one."""
    stored = study_attrs.get(_FIXED_PART)
    return stored or _migrate(study_attrs.get(_FORMER_FIXED_PART), current, base_config)


def describe_changes(stored: Mapping[str, Any], current: Mapping[str, Any]) -> str:
    """Return in which settings two fixed parts differ, "" where they do not."""
    changed: Sequence[str] = [
        f"{key}={_value_of(current, key)} (was {_value_of(stored, key)})"
        for key in sorted({*current, *stored})
        if _value_of(current, key) != _value_of(stored, key)
    ]
    more = len(changed) - _MAX_CHANGES_SHOWN
    return ", ".join(changed[:_MAX_CHANGES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _value_of(fixed: Mapping[str, Any], key: str) -> Any:
    """Return the value of `key`; a newer key that is at its former value is not stored."""
    return fixed.get(key, FORMER_VALUES.get(key))


def _migrate(
    stored: dict[str, Any] | None, current: Mapping[str, Any], base_config: RunConfig
) -> dict[str, Any] | None:
    """Return the fixed part that an older medexp stored as it is stored today, None for None.

    An older medexp stored more keys. It stored what it had read from the machine, which may be
    another machine now. And it stored absolute paths, of which only the last name is compared.
    """
    if stored is None:
        return None

    def is_same(name: str) -> bool:
        before, now = stored[name], current[name]
        are_paths = isinstance(before, str) and isinstance(now, str) and Path(before).is_absolute()
        return name in base_config.asked or (are_paths and Path(before).name == Path(now).name)

    return {
        name: current[name] if name in current and is_same(name) else value
        for name, value in stored.items()
        if name in current or flatten.is_of_identity(name)
    }
