"""What a sweep is called: the study's name, its headline, and its points in a few words."""

from collections.abc import Container, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from medexp.config.schema import RunConfig
from medexp.sweep.search.search_space import Choice, Dimension, SearchSpace

# The trial that has no parameters: the run as configured, where it lies outside the space.
AS_CONFIGURED = "as configured"


def default_study_name(space: SearchSpace, choices: Mapping[str, Any], config: RunConfig) -> str:
    """Return the name of a study that was given none: its sweep preset, or what varies, and then
    the hardware that it is sized for.
    """
    preset = choices.get("sweep")
    if preset in (None, "null"):
        keys = [key.replace(".", "_").replace("/", "_") for key in space.dimensions]
        preset = "-".join(keys) or "custom"
    return f"{preset}-{config.hardware.name}"


def format_headline(study: Any, config: RunConfig, folder: Path) -> str:
    """Return the first line of a sweep, after the study's name."""
    hardware = config.hardware
    done = study.count_done()
    already_done = f", {done} done already" if done else ""
    ceiling = f" under {hardware.vram_ceiling_gib:g} GiB" if hardware.vram_ceiling_gib else ""
    varied = ", ".join(study.space.dimensions) or "a space of its own"
    place = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    return (
        f": {varied}, {study.options.n_trials} trials{already_done};"
        f" {config.model.name}, hardware={hardware.name}{ceiling}; {place}"
    )


def find_unused_name(name: str, root: Path, taken: Container[str] = ()) -> str:
    """Return `name`, or the first of name-2, name-3, ... that has no folder under `root` and is not
    `taken`.
    """
    candidates = (name if number == 1 else f"{name}-{number}" for number in count(1))
    return next(
        candidate
        for candidate in candidates
        if candidate not in taken and not (root / candidate).exists()
    )


def contains_value(dimension: Dimension, value: Any) -> bool:
    """Is `value` one of `dimension`'s?"""
    if isinstance(dimension, Choice):
        return value in dimension.values
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if not dimension.low <= value <= dimension.high:
        return False
    if not dimension.step:
        return True
    steps = (value - dimension.low) / dimension.step
    return bool(abs(steps - round(steps)) < 1e-9)


def format_params(params: Mapping[str, Any]) -> str:
    """Return the parameters of a trial in a few words, with only the last part of each key."""
    described = ", ".join(
        f"{key.rpartition('.')[2]}={format_param(value)}" for key, value in params.items()
    )
    return described or AS_CONFIGURED


def format_param(value: Any) -> str:
    """Return `value` as a table shows it."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
