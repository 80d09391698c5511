"""How far runs lie apart that differ in their training seed alone.

An interval over cases says what other cases would change. What another seed would change it does
not know: runs of the same recipe do (`python -m medexp.train -m sweep=seeds`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from medexp.evaluation.measure_table import Measure
from medexp.evaluation.scorecard import MeasureResult

SEED = "training.seed"


@dataclass(frozen=True)
class SeededRun:
    """An evaluated run by its label: its settings by their dotted names, and its results by the key
    of their measure.
    """

    label: str
    settings: Mapping[str, str]
    results: Mapping[str, MeasureResult]


@dataclass(frozen=True)
class SeedSpread:
    """A measure of the tuned models of runs that differ in their seed alone: mean, lowest, highest
    and standard deviation over the runs; `half_width` is half the widest of their intervals over
    cases, None where none has one.
    """

    measure: Measure
    labels: tuple[str, ...]
    mean: float
    low: float
    high: float
    deviation: float
    half_width: float | None


def find_seed_groups(runs: Sequence[SeededRun]) -> list[tuple[SeededRun, ...]]:
    """Return the runs that are alike in all settings but the seed, two or more together."""
    groups: dict[tuple[tuple[str, str], ...], list[SeededRun]] = {}
    for run in runs:
        if SEED in run.settings:
            recipe = {name: value for name, value in run.settings.items() if name != SEED}
            groups.setdefault(tuple(sorted(recipe.items())), []).append(run)
    return [
        tuple(group) for group in groups.values() if len({run.settings[SEED] for run in group}) > 1
    ]


def measure_seed_spread(runs: Sequence[SeededRun], measures: Sequence[Measure]) -> list[SeedSpread]:
    """Return the spread of every measure over each group of runs with other seeds."""
    return [
        spread
        for group in find_seed_groups(runs)
        for measure in measures
        for spread in _spread(group, measure)
    ]


def _spread(runs: Sequence[SeededRun], measure: Measure) -> Iterator[SeedSpread]:
    measured = [
        (run.label, result)
        for run in runs
        if (result := run.results.get(measure.key)) is not None and result.after is not None
    ]
    if len(measured) < 2:
        return
    values = [result.after for _, result in measured if result.after is not None]
    widths = [
        (result.comparison.high - result.comparison.low) / 2
        for _, result in measured
        if result.comparison is not None and result.comparison.groups > 1
    ]
    labels = tuple(label for label, _ in measured)
    half_width = max(widths, default=None)
    yield SeedSpread(
        measure, labels, fmean(values), min(values), max(values), stdev(values), half_width
    )
