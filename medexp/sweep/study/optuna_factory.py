"""Optuna's own objects from medexp's descriptions: distributions, samplers, pruners."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from medexp.errors import ConfigError, first_line
from medexp.sweep.search.search_space import Choice, Dimension, IntRange, SearchSpace, Value

_ANOTHER = "or take another sampler, as in hydra/sweeper/sampler=tpe"


def make_distribution(dimension: Dimension) -> Any:
    """Optuna's distribution of a dimension."""
    from optuna import distributions as known

    if isinstance(dimension, Choice):
        return known.CategoricalDistribution(dimension.values)
    if isinstance(dimension, IntRange):
        return known.IntDistribution(
            dimension.low, dimension.high, log=dimension.log, step=dimension.step
        )
    return known.FloatDistribution(
        dimension.low, dimension.high, log=dimension.log, step=dimension.step
    )


def make_sampler(options: Mapping[str, Any], space: SearchSpace, trials: int) -> Any:
    """The sampler that `options` names, its seed moved on by the trials there are, or its start
    would repeat itself.

    Raises: ConfigError for options that the sampler does not take.
    """
    chosen = _with_offset_seeds(options, trials)
    if _is_class(chosen, "GridSampler"):
        chosen["search_space"] = _make_grid(space)
    if _is_class(chosen, "PartialFixedSampler"):
        chosen["fixed_params"] = chosen.get("fixed_params") or {}
    return _instantiate(chosen, "sampler")


def check_sampler(
    options: Mapping[str, Any], space: SearchSpace, objectives: Sequence[str]
) -> None:
    """Can the sampler that `options` names draw from `space` for these objectives?

    Raises: ConfigError saying why not, and which one can.
    """
    name = options["_target_"]
    if _is_class(options, "GridSampler"):
        _make_grid(space)
    if _is_class(options, "BruteForceSampler"):
        for key, dimension in space.dimensions.items():
            if not math.isfinite(dimension.size):
                raise ConfigError(
                    f"{key} has no end of points: {name} needs choice(...) or range(...);"
                    f" {_ANOTHER}"
                )
    if _is_class(options, "CmaEsSampler") and len(objectives) > 1:
        raise ConfigError(
            f"{name} has one objective and hydra.sweeper.objective has {len(objectives)};"
            f" {_ANOTHER}"
        )
    if isinstance(options.get("base_sampler"), Mapping):
        check_sampler(options["base_sampler"], space, objectives)


def _is_class(options: Mapping[str, Any], name: str) -> bool:
    return str(options["_target_"]).endswith(name)


def _with_offset_seeds(options: Mapping[str, Any], trials: int) -> dict[str, Any]:
    """`options` with their seed, and that of a sampler inside, moved on; a grid keeps its order."""
    moved = dict(options)
    if isinstance(moved.get("base_sampler"), Mapping):
        moved["base_sampler"] = _with_offset_seeds(moved["base_sampler"], trials)
    if moved.get("seed") is not None and not _is_class(moved, "GridSampler"):
        moved["seed"] = int(moved["seed"]) + trials
    return moved


def make_pruner(options: Mapping[str, Any] | None) -> Any:
    """The pruner that `options` names."""
    return _instantiate(options or {"_target_": "optuna.pruners.NopPruner"}, "pruner")


def _instantiate(options: Mapping[str, Any], what: str) -> Any:
    from hydra.errors import HydraException
    from hydra.utils import instantiate

    try:
        return instantiate(dict(options), _convert_="all")
    except (HydraException, TypeError, ValueError, ImportError) as error:
        first = first_line(error.__cause__ or error)
        raise ConfigError(
            f"hydra.sweeper.{what}={options.get('_target_')} cannot be made: {first}"
        ) from error


def _make_grid(space: SearchSpace) -> dict[str, list[Value]]:
    return {key: _grid_values(key, dimension) for key, dimension in space.dimensions.items()}


def _grid_values(key: str, dimension: Dimension) -> list[Value]:
    if isinstance(dimension, Choice):
        return list(dimension.values)
    if isinstance(dimension, IntRange) and not dimension.log:
        return list(range(dimension.low, dimension.high + 1, dimension.step))
    if math.isfinite(dimension.size) and not isinstance(dimension, IntRange):
        return [dimension.low + step * (dimension.step or 0) for step in range(int(dimension.size))]
    raise ConfigError(f"{key} has no grid: a grid needs choice(...) or range(...); {_ANOTHER}")
