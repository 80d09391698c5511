"""From Hydra's sweep syntax to dimensions. Text and arithmetic only: it knows no sampler.

- `lora.r=choice(8,16,32)` or `lora.r=8,16,32`: one of these.
- `lora.r=range(8,65,8)`: whole numbers in steps; as in Hydra the end is excluded.
- `lora.r=int(interval(4,64))`: whole numbers, both ends included.
- `training.learning_rate=tag(log,interval(1e-5,1e-3))`: real numbers, drawn on a log scale.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    Override,
    Quote,
    QuotedString,
    RangeSweep,
)

from medexp.config.flatten import format_value
from medexp.errors import ConfigError
from medexp.system import private_names

Value = str | int | float | bool | None


@dataclass(frozen=True)
class Choice:
    """One of `values`: numbers, words, or a list as Hydra writes it."""

    values: tuple[Value, ...]

    @property
    def size(self) -> float:
        """The number of its values, infinite for real numbers without a step."""
        return len(self.values)

    def ends(self) -> tuple[Value, ...]:
        """Return the values that are checked before anything starts."""
        return self.values


@dataclass(frozen=True)
class IntRange:
    """Whole numbers from `low` to `high`, both included."""

    low: int
    high: int
    step: int = 1
    log: bool = False

    @property
    def size(self) -> float:
        """The number of its values, infinite for real numbers without a step."""
        return (self.high - self.low) // self.step + 1

    def ends(self) -> tuple[Value, ...]:
        """Return the values that are checked before anything starts."""
        return (self.low, self.high)


@dataclass(frozen=True)
class FloatRange:
    """Real numbers from `low` to `high`, both included."""

    low: float
    high: float
    step: float | None = None
    log: bool = False

    @property
    def size(self) -> float:
        """The number of its values, infinite for real numbers without a step."""
        if self.low == self.high:
            return 1
        if self.step is None:
            return math.inf
        # The quotient of a range that ends on a step may be just below a whole number.
        return math.floor((self.high - self.low) / self.step + 1e-9) + 1

    def ends(self) -> tuple[Value, ...]:
        """Return the values that are checked before anything starts."""
        return (self.low, self.high)


Dimension = Choice | IntRange | FloatRange


@dataclass(frozen=True)
class SearchSpace:
    """What varies and what is the same in every trial.

    `dimensions`: what varies, by config key. `fixed`: overrides. `has_custom_params`: a function of
    the user suggests more parameters while the sweep runs. `prefixes`: + or ++, for the keys that
    were given with one.
    """

    dimensions: Mapping[str, Dimension]
    fixed: tuple[str, ...] = ()
    has_custom_params: bool = False
    prefixes: Mapping[str, str] = field(default_factory=dict)

    @property
    def size(self) -> float:
        """The number of its points, infinite with a real number among the dimensions."""
        if self.has_custom_params:
            return math.inf
        return math.prod(dimension.size for dimension in self.dimensions.values())

    @property
    def chooses(self) -> bool:
        """Whether there is something to choose: other seeds of one recipe choose nothing."""
        return set(self.dimensions) != {"training.seed"}

    @property
    def first_point(self) -> dict[str, Value]:
        """The first value of every dimension."""
        return {key: dimension.ends()[0] for key, dimension in self.dimensions.items()}

    def overrides(self, params: Mapping[str, Value]) -> tuple[str, ...]:
        """Return the overrides of the trial with `params`."""
        varied = [
            f"{self.prefixes.get(key, '')}{key}={format_value(value)}"
            for key, value in params.items()
        ]
        return (*self.fixed, *varied)


def parse_search_space(
    params: Mapping[str, Any],
    arguments: Sequence[str],
    config_loader: Any,
    has_custom_params: bool = False,
) -> SearchSpace:
    """Return the space of hydra.sweeper.params and the command line, which wins.

    Raises: ConfigError with every range that is empty, reversed or impossible, or if nothing
        varies.
    """
    parser = OverridesParser.create(config_loader=config_loader)
    parsed = parser.parse_overrides(
        [f"{key}={value}" for key, value in params.items()] + list(arguments)
    )
    latest = {_override_key(override): override for override in parsed}
    dimensions: dict[str, Dimension] = {}
    problems = []
    for key, override in latest.items():
        if override.is_sweep_override():
            try:
                dimensions[key] = _parse_dimension(override)
            except ValueError as error:
                problems.append(f"{override.input_line}: {error}")
    if problems:
        raise ConfigError(problems)
    if not dimensions and not has_custom_params:
        raise ConfigError(
            "nothing varies: give a range, as in lora.r=choice(8,16,32), or a preset, as in"
            " sweep=rank_lr_seq"
        )
    prefixes = {key: prefix for key in dimensions if (prefix := _override_prefix(latest[key]))}
    fixed = tuple(
        override.input_line or ""
        for override in latest.values()
        if not override.is_sweep_override()
    )
    return SearchSpace(dimensions, fixed, has_custom_params, prefixes)


def quote_value(text: str) -> str:
    """Return `text` in the quotes with which Hydra reads it back unchanged."""
    return QuotedString(text, Quote.single).with_quotes()


def _override_key(override: Override) -> str:
    """Return the key without + or ++, which do not change what is set; ~ removes it and stays."""
    return str(override.get_key_element().lstrip("+"))


def _override_prefix(override: Override) -> str:
    return str(override.get_key_element()).removesuffix(_override_key(override))


def _parse_dimension(override: Override) -> Dimension:
    sweep = override.value()
    if isinstance(sweep, IntervalSweep):
        return _parse_interval(sweep)
    if isinstance(sweep, RangeSweep):
        return _parse_range(sweep)
    if isinstance(sweep, ChoiceSweep) and "log" in sweep.tags:
        raise ValueError("a choice has no scale; give interval(low,high) to draw on a log scale")
    listed = sweep.list if isinstance(sweep, ChoiceSweep) else override.sweep_iterator()
    # A value that is given twice would be two points of a grid.
    values = tuple(dict.fromkeys(map(_parse_value, listed)))
    if not values:
        raise ValueError("nothing to choose from")
    return Choice(values)


def _parse_value(parsed: Any) -> Value:
    """Return a choice as Optuna can store it: a list or a mapping as the text that Hydra reads."""
    # Hydra has taken the quotes off, which the override of a trial needs again.
    if isinstance(parsed, str) and not re.fullmatch(r"[\w./:+-]+", parsed):
        return quote_value(parsed)
    if parsed is None or isinstance(parsed, str | int | float | bool):
        return parsed
    return str(private_names.AS_TYPED.require(Override)(parsed))


def _parse_interval(sweep: IntervalSweep) -> Dimension:
    low, high, log = sweep.start, sweep.end, "log" in sweep.tags
    assert low is not None
    assert high is not None
    _check_bounds(low, high, log)
    if isinstance(low, int) and isinstance(high, int):
        return IntRange(low, high, log=log)
    return FloatRange(float(low), float(high), log=log)


def _parse_range(sweep: RangeSweep) -> Dimension:
    values = list(sweep.range()) if sweep.step else []
    if not values:
        raise ValueError(
            f"the range is empty: from {sweep.start} to {sweep.stop} (excluded) in steps of"
            f" {sweep.step}"
        )
    low, high, log = min(values), max(values), "log" in sweep.tags
    _check_bounds(low, high, log)
    if log:
        raise ValueError(
            "a range has steps and cannot be drawn on a log scale; use"
            " tag(log,int(interval(low,high)))"
        )
    step = abs(sweep.step)
    if all(isinstance(value, int) for value in values):
        return IntRange(int(low), int(high), int(step))
    return FloatRange(float(low), float(high), float(step))


def _check_bounds(low: float, high: float, log: bool) -> None:
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("both ends must be numbers")
    if low > high:
        raise ValueError(
            f"the range is reversed: it begins at {low:g} and ends at {high:g}; write the smaller"
            " number first"
        )
    if log and low <= 0:
        raise ValueError(f"a log scale begins above 0, not at {low:g}")
