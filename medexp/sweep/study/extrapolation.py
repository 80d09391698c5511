"""Where a trial that was not run to its end would have come to, by how others went on."""

import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

# Pairs of reports that the slope of an extrapolation is drawn to 1 by.
PRIOR_PAIRS = 1.0


def make_curve(trial: Any) -> dict[float, float]:
    """Return what `trial` has reported by step; the value of a completed one is that of its end,
    at step infinity.
    """
    curve = {
        float(step): value
        for step, value in trial.intermediate_values.items()
        if math.isfinite(value)
    }
    is_completed = trial.state.name == "COMPLETE"
    return curve | {math.inf: trial.values[0]} if is_completed else curve


def extrapolate_end(curve: Mapping[float, float], curves: Sequence[Mapping[float, float]]) -> float:
    """Return the value that a trial with this `curve` would have come to.

    That is its last report, taken from each step to the next, and to the end, as those went that
    were measured at both. Where none has got to the end it is the value at the last step of any.
    """
    step = max(curve)
    value = curve[step]
    later = sorted({other for each in curves for other in each if other >= step})
    for before, after in pairwise(later):
        both = [(each[before], each[after]) for each in curves if {before, after} <= {*each}]
        if both:
            value = _follow(value, both)
    return value


def _follow(value: float, both: Sequence[tuple[float, float]]) -> float:
    """Return where `value` goes as the pairs (before, after) of `both` went.

    That is a line: were the gains over the untuned model of all trials in the same proportion at
    both steps, it would be exact. Its slope is drawn to 1, as if PRIOR_PAIRS more had been measured
    whose values all changed by the same; with one pair it changes as that one did.
    """
    means = statistics.mean(before for before, _ in both), statistics.mean(end for _, end in both)
    spread = sum((before - means[0]) ** 2 for before, _ in both)
    covariance = sum((before - means[0]) * (after - means[1]) for before, after in both)
    prior = PRIOR_PAIRS * spread / len(both)
    slope = (covariance + prior) / (spread + prior) if spread else 1.0
    return means[1] + slope * (value - means[0])
