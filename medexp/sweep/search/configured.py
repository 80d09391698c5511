"""The run as it is configured: the point of the space that it is, and what a sweep over ranks holds
equal around it.
"""

from collections.abc import Iterator
from enum import Enum
from math import sqrt
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from medexp.config.schema import RunConfig
from medexp.sweep.search.labels import contains_value
from medexp.sweep.search.search_space import Choice, Dimension, IntRange, SearchSpace, Value

RANK = "lora.r"
_SCALE = ("lora.alpha", "lora.alpha_ratio", "lora.rank_stabilised")


def find_configured_point(cfg: DictConfig, space: SearchSpace) -> dict[str, Value] | None:
    """Return the point of `space` that the composed run `cfg` is, None where it lies outside.

    `cfg` still has Hydra's own node, which knows what each group was composed of.
    """
    point: dict[str, Value] = {}
    for key, dimension in space.dimensions.items():
        found = list(_find_values(dimension, _read_configured(cfg, key)))
        if not found:
            return None
        point[key] = found[0]
    # Of parameters that a function of the user suggests, nobody knows which the run has.
    return None if space.has_custom_params else point


def _read_configured(cfg: DictConfig, key: str) -> Any:
    """Return what `cfg` has for `key`: the option of a group, else a plain value."""
    choices = cfg.hydra.runtime.choices
    if key in choices:
        # Hydra writes a group without an option as null.
        return None if choices[key] in (None, "null") else choices[key]
    value = OmegaConf.select(cfg, key)
    if OmegaConf.is_config(value):
        return OmegaConf.to_container(value, resolve=True)
    return value.name if isinstance(value, Enum) else value


def _find_values(dimension: Dimension, configured: Any) -> Iterator[Value]:
    """Yield the values of `dimension` that mean `configured`, as Optuna has them."""
    if isinstance(dimension, Choice):
        yield from (value for value in dimension.values if _is_same(_read(value), configured))
    elif contains_value(dimension, configured):
        yield int(configured) if isinstance(dimension, IntRange) else float(configured)


def _read(value: Value) -> Any:
    """Return what a choice means: a list is kept as the text that Hydra reads, and so are words
    that need quotes.
    """
    if not isinstance(value, str):
        return value
    return OverridesParser.create().parse_override(f"key={value}").value()


def _is_same(value: Any, other: Any) -> bool:
    # Python holds true and 1 for equal.
    return isinstance(value, bool) == isinstance(other, bool) and bool(value == other)


def remark_on_rank(config: RunConfig, space: SearchSpace) -> str:
    """Return what a sweep over ranks holds equal, and whether the scale of the update is part of
    that; "" for a sweep over other things.
    """
    dimension = space.dimensions.get(RANK)
    if dimension is None or set(_SCALE) & set(space.dimensions):
        return ""
    lora, training = config.lora, config.training
    if lora.alpha_ratio is None:
        return _remark_on_alpha(config, dimension)
    equal = f"equal for every rank: the scale alpha / r = {lora.alpha_ratio:g}"
    if set(space.dimensions) != {RANK}:
        return equal
    length = f"{training.max_steps} steps" if training.max_steps else f"{training.epochs} epochs"
    return (
        f"{equal}, learning rate {training.learning_rate:g}, {length},"
        f" {training.max_seq_tokens} tokens, seed {training.seed}"
    )


def _remark_on_alpha(config: RunConfig, dimension: Dimension) -> str:
    """Return from where to where the scale goes while alpha stays, "" where all ranks are one."""
    lora = config.lora
    ranks = [rank for rank in dimension.ends() if isinstance(rank, int | float)]
    if lora.alpha is None or not ranks or min(ranks) == max(ranks):
        return ""
    root, formula = (sqrt, "alpha / sqrt(r)") if lora.rank_stabilised else (float, "alpha / r")
    first, last = (f"{lora.alpha / root(rank):.3g}" for rank in (min(ranks), max(ranks)))
    remark = (
        f"lora.alpha={lora.alpha:g} stays while the rank varies, so the scale {formula} goes from"
        f" {first} (r={min(ranks):g}) to {last} (r={max(ranks):g})"
    )
    if lora.rank_stabilised:
        return remark
    return f"{remark}; lora.alpha=null lora.alpha_ratio={lora.alpha / lora.r:g} keeps it equal"
