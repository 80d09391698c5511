"""Optuna's own objects from medexp's descriptions: distributions, samplers, pruners."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from medexp.errors import ConfigError, first_line
from medexp.sweep.search.options import SweepOptions
from medexp.sweep.search.search_space import Choice, Dimension, IntRange, SearchSpace, Value
from medexp.tracking.views import LOSS

_OTHER_SAMPLER = "or take another sampler, as in hydra/sweeper/sampler=tpe"


def make_distribution(dimension: Dimension) -> Any:
    """Return Optuna's distribution of a dimension."""
    from optuna import distributions

    if isinstance(dimension, Choice):
        return distributions.CategoricalDistribution(dimension.values)
    is_int = isinstance(dimension, IntRange)
    kind = distributions.IntDistribution if is_int else distributions.FloatDistribution
    return kind(dimension.low, dimension.high, log=dimension.log, step=dimension.step)


def suggest(trial: Any, name: str, dimension: Dimension) -> None:
    """Have `trial` draw a value of `dimension`, as parameter `name`."""
    if isinstance(dimension, Choice):
        trial.suggest_categorical(name, dimension.values)
        return
    draw = trial.suggest_int if isinstance(dimension, IntRange) else trial.suggest_float
    draw(name, dimension.low, dimension.high, log=dimension.log, step=dimension.step)


def make_sampler(options: Mapping[str, Any], space: SearchSpace, n_trials: int) -> Any:
    """Return the sampler that `options` names, for a study that has `n_trials` trials.

    Its seed is moved on by their number: a sweep that is continued would otherwise begin with the
    points that it began with before.

    Raises: ConfigError for options that the sampler does not take.
    """
    sampler_options = _with_offset_seeds(options, n_trials)
    if _is_class(sampler_options, "GridSampler"):
        sampler_options["search_space"] = _make_grid(space)
    if _is_class(sampler_options, "PartialFixedSampler"):
        sampler_options["fixed_params"] = sampler_options.get("fixed_params") or {}
    return _instantiate(sampler_options, "sampler")


def check_sampler(
    options: Mapping[str, Any], space: SearchSpace, objectives: Sequence[str]
) -> None:
    """Check that the sampler that `options` names can draw from `space` for these objectives.

    Raises: ConfigError saying why it cannot, and which sampler can.
    """
    name = options["_target_"]
    if _is_class(options, "GridSampler"):
        _make_grid(space)
    if _is_class(options, "BruteForceSampler"):
        for key, dimension in space.dimensions.items():
            if not math.isfinite(dimension.size):
                raise ConfigError(
                    f"{key} has no end of points: {name} needs choice(...) or range(...);"
                    f" {_OTHER_SAMPLER}"
                )
    if _is_class(options, "CmaEsSampler") and len(objectives) > 1:
        raise ConfigError(
            f"{name} has one objective and hydra.sweeper.objective has {len(objectives)};"
            f" {_OTHER_SAMPLER}"
        )
    if isinstance(options.get("base_sampler"), Mapping):
        check_sampler(options["base_sampler"], space, objectives)


def _is_class(options: Mapping[str, Any], name: str) -> bool:
    return str(options["_target_"]).endswith(name)


def _with_offset_seeds(options: Mapping[str, Any], offset: int) -> dict[str, Any]:
    """Return `options` with `offset` added to their seed and to that of a sampler inside.

    A grid keeps its seed, which makes the order of its points.
    """
    result = dict(options)
    if isinstance(result.get("base_sampler"), Mapping):
        result["base_sampler"] = _with_offset_seeds(result["base_sampler"], offset)
    if result.get("seed") is not None and not _is_class(result, "GridSampler"):
        result["seed"] = int(result["seed"]) + offset
    return result


def make_pruner(options: Mapping[str, Any] | None) -> Any:
    """Return the pruner that `options` names, without any one that never prunes."""
    return _instantiate(options or {"_target_": "optuna.pruners.NopPruner"}, "pruner")


def pauses(pruner: Any) -> bool:
    """Return whether `pruner` has trials pause and go on. One that does says so, as
    `HalvingPruner`.
    """
    return bool(getattr(pruner, "pauses", False))


def check_pruner(options: SweepOptions) -> None:
    """Check that trials report what the pruner that has them pause compares them by.

    Raises: ConfigError where they do not.
    """
    if not options.pruner:
        return
    predicts = _is_class(options.pruner, "FreezeThawPruner")
    if not predicts and not _is_class(options.pruner, "HalvingPruner"):
        return
    problem = None
    if len(options.objectives) > 1:
        problem = f"hydra.sweeper.objective has {len(options.objectives)}"
    elif predicts and options.objectives[0] != LOSS:
        problem = f"hydra.sweeper.objective is {options.objectives[0]} and not {LOSS}"
    elif options.repeats > 1:
        problem = f"hydra.sweeper.repeats is {options.repeats}"
    if problem:
        name = "freeze_thaw" if predicts else "halving"
        raise ConfigError(
            f"hydra/sweeper/pruner={name} compares trials by the held-out losses of one run, of"
            f" one objective, and {problem}; take hydra/sweeper/pruner=none"
        )


def _instantiate(options: Mapping[str, Any], option: str) -> Any:
    """Return the object that `options` describe; `option` names them in an error."""
    from hydra.errors import HydraException
    from hydra.utils import instantiate

    try:
        return instantiate(dict(options), _convert_="all")
    except (HydraException, TypeError, ValueError, ImportError) as error:
        reason = first_line(error.__cause__ or error)
        raise ConfigError(
            f"hydra.sweeper.{option}={options.get('_target_')} cannot be made: {reason}"
        ) from error


def _make_grid(space: SearchSpace) -> dict[str, list[Value]]:
    return {key: _list_values(key, dimension) for key, dimension in space.dimensions.items()}


def _list_values(key: str, dimension: Dimension) -> list[Value]:
    """Return every value of `dimension`.

    Raises: ConfigError if there are infinitely many.
    """
    if isinstance(dimension, Choice):
        return list(dimension.values)
    if isinstance(dimension, IntRange) and not dimension.log:
        return list(range(dimension.low, dimension.high + 1, dimension.step))
    if math.isfinite(dimension.size) and not isinstance(dimension, IntRange):
        return [dimension.low + step * (dimension.step or 0) for step in range(int(dimension.size))]
    raise ConfigError(
        f"{key} has no grid: a grid needs choice(...) or range(...); {_OTHER_SAMPLER}"
    )
