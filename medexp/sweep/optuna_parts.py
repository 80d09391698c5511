"""Optuna's own objects from medexp's descriptions: distributions, samplers, pruners."""

import math
from collections.abc import Mapping
from typing import Any

from medexp.errors import ConfigError, first_line
from medexp.sweep.space import Choice, Dimension, Space, Value, Whole


def distribution(dimension: Dimension) -> Any:
    """Optuna's distribution of a dimension."""
    from optuna import distributions as known

    if isinstance(dimension, Choice):
        return known.CategoricalDistribution(dimension.values)
    if isinstance(dimension, Whole):
        return known.IntDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)
    return known.FloatDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)


def sampler(options: Mapping[str, Any], space: Space, trials: int) -> Any:
    """The sampler that `options` names, its seed moved on by the trials there are, or its start would repeat itself.

    Raises: ConfigError for a grid over a space that is not finite, or options that the sampler does not take.
    """
    chosen = dict(options)
    if chosen.get("seed") is not None:
        chosen["seed"] = int(chosen["seed"]) + trials
    if str(chosen["_target_"]).endswith("GridSampler"):
        chosen["search_space"] = {key: _grid_values(key, each) for key, each in space.dimensions.items()}
    return _made(chosen, "sampler")


def pruner(options: Mapping[str, Any] | None) -> Any:
    """The pruner that `options` names."""
    return _made(options or {"_target_": "optuna.pruners.NopPruner"}, "pruner")


def _made(options: Mapping[str, Any], what: str) -> Any:
    from hydra.errors import HydraException
    from hydra.utils import instantiate

    try:
        return instantiate(dict(options), _convert_="all")
    except (HydraException, TypeError, ValueError, ImportError) as error:
        first = first_line(error.__cause__ or error)
        raise ConfigError(f"hydra.sweeper.{what}={options.get('_target_')} cannot be made: {first}") from error


def _grid_values(key: str, dimension: Dimension) -> list[Value]:
    if isinstance(dimension, Choice):
        return list(dimension.values)
    if isinstance(dimension, Whole) and not dimension.log:
        return list(range(dimension.low, dimension.high + 1, dimension.step))
    if math.isfinite(dimension.size) and not isinstance(dimension, Whole):
        return [dimension.low + step * (dimension.step or 0) for step in range(int(dimension.size))]
    raise ConfigError(
        f"{key} has no grid: a grid needs choice(...) or range(...); or take another sampler, as in hydra/sweeper/sampler=tpe"
    )
