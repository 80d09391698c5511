"""The words of a sweep: the study's name, its headline, and the values its own configuration stands
at.
"""

from collections.abc import Container, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from medexp.config.flatten import flatten
from medexp.config.schema import RunConfig
from medexp.sweep.search.search_space import Choice, Dimension, IntRange, SearchSpace, Value


def default_study_name(space: SearchSpace, choices: Mapping[str, Any], run: RunConfig) -> str:
    """What a study is called that has been given no name: its preset, or what varies; then the
    hardware it is sized for.
    """
    preset = choices.get("sweep")
    what = (
        preset
        if preset not in (None, "null")
        else "-".join(key.replace(".", "_").replace("/", "_") for key in space.dimensions)
        or "custom"
    )
    return f"{what}-{run.hardware.name}"


def format_headline(study: Any, run: RunConfig, folder: Path) -> str:
    """The first line of a sweep, after its name."""
    done, wanted = study.count_done(), study.options.n_trials
    news = f", {done} done already" if done else ""
    ceiling = (
        f" under {run.hardware.vram_ceiling_gib:g} GiB" if run.hardware.vram_ceiling_gib else ""
    )
    what = ", ".join(study.space.dimensions) or "a space of its own"
    where = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    on = f"{run.model.name}, hardware={run.hardware.name}{ceiling}"
    return f": {what}, {wanted} trials{news}; {on}; {where}"


def find_unused_name(name: str, root: Path, taken: Container[str] = ()) -> str:
    """`name`, or the first of name-2, name-3, ... that has no folder under `root` yet and is not
    `taken`.
    """
    names = (name if number == 1 else f"{name}-{number}" for number in count(1))
    return next(each for each in names if each not in taken and not (root / each).exists())


def find_configured_point(run: RunConfig, space: SearchSpace) -> dict[str, Value] | None:
    """The point of `space` that `run` as configured stands at; None where it lies outside."""
    now = flatten(run)
    values = {key: now.get(key) for key in space.dimensions}
    if all(
        isinstance(values[key], str | int | float | bool) and contains_value(dimension, values[key])
        for key, dimension in space.dimensions.items()
    ):
        return {key: _cast_value(space.dimensions[key], value) for key, value in values.items()}
    return None


def contains_value(dimension: Dimension, value: Any) -> bool:
    """Is `value` one of `dimension`'s?"""
    if isinstance(dimension, Choice):
        return value in dimension.values
    if isinstance(value, bool | str) or not dimension.low <= value <= dimension.high:
        return False
    step = dimension.step
    return (
        not step
        or abs((value - dimension.low) / step - round((value - dimension.low) / step)) < 1e-9
    )


def _cast_value(dimension: Dimension, value: Any) -> Value:
    return (
        value
        if isinstance(dimension, Choice)
        else int(value)
        if isinstance(dimension, IntRange)
        else float(value)
    )


def format_params(params: Mapping[str, Any]) -> str:
    """The values of a trial in a few words: the last part of every key."""
    return ", ".join(
        f"{key.rpartition('.')[2]}={format_param(value)}" for key, value in params.items()
    )


def format_param(value: Any) -> str:
    """`value` for a table."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
