"""Sign flips, bootstrap intervals and power, by group: the arithmetic under `paired_stats`.

A group (the cases of one condition, or of one patient) is the unit, because its cases are alike.
Each group comes in as two numbers: the weighted sum of its differences, and the sum of its weights.
The change is the sum of the first over the sum of the second: the mean over all cases.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any

# Up to so many groups that changed, every pattern of signs is counted; beyond it, DRAWS are drawn.
EXACT_GROUPS = 16
# As many flips and resamples at most and at least, and as many numbers as are held at once: the
# questions of a benchmark are over a thousand groups, whose sums are near normal.
DRAWS, FEWEST_DRAWS, NUMBERS = 9_999, 1_999, 2_000_000
_NORMAL = NormalDist()


@dataclass(frozen=True)
class SignFlip:
    """How likely so large a change is where each group could as well have gone the other way.

    `p_rise` and `p_fall` are one-sided: so large a rise, so deep a fall.
    """

    p_value: float
    p_rise: float
    p_fall: float


def flip_signs(sums: Sequence[float], seed: int = 0) -> SignFlip:
    """Return the p values of the permutation test that flips the sign of whole groups.

    `sums` holds a group's (weighted) sum of differences. Groups without a change say nothing of
    its direction; without any that changed, every p is 1.
    Source: Fisher 1935 (exact); Phipson & Smyth 2010, doi:10.2202/1544-6115.1585, for the drawn
    p of (1 + as extreme) / (1 + drawn), which holds its level whatever is drawn.
    """
    import numpy as np

    changed = np.array([value for value in sums if value != 0], dtype=float)
    if not changed.size:
        return SignFlip(1.0, 1.0, 1.0)
    observed = float(changed.sum())
    # Sums of the same numbers in another order differ in their last digits.
    slack = 1e-9 * float(np.abs(changed).sum())
    if changed.size <= EXACT_GROUPS:
        totals = np.zeros(1)
        for value in changed:
            totals = np.concatenate([totals + value, totals - value])
        extra = 0
    else:
        totals = _draw_signs(changed.size, seed) @ changed
        extra = 1

    def share(hits: int) -> float:
        return (hits + extra) / (totals.size + extra)

    return SignFlip(
        share(int((np.abs(totals) >= abs(observed) - slack).sum())),
        share(int((totals >= observed - slack).sum())),
        share(int((totals <= observed + slack).sum())),
    )


def compute_bca_interval(
    sums: Sequence[float], weights: Sequence[float], level: float, seed: int = 0
) -> tuple[float, float]:
    """Return the bias-corrected and accelerated bootstrap interval of sum(sums) / sum(weights).

    Groups are drawn with their weights. One group, or groups that are all alike, have no spread:
    both ends are the change itself.
    Source: Efron 1987, Better bootstrap confidence intervals; acceleration by the jackknife.
    """
    import numpy as np

    numerators, denominators = np.array(sums, dtype=float), np.array(weights, dtype=float)
    change = float(numerators.sum() / denominators.sum())
    groups = numerators.size
    ratios = numerators / denominators
    if groups == 1 or np.ptp(ratios) <= 1e-12 * max(1.0, float(np.abs(ratios).max())):
        return change, change
    counts = _draw_counts(groups, seed)
    changes = np.sort((counts @ numerators) / (counts @ denominators))
    slack = 1e-12 * max(1.0, abs(change))
    below = float((changes < change - slack).mean())
    level_with = float((np.abs(changes - change) <= slack).mean())
    share_below = below + level_with / 2
    tails = ((1 - level) / 2, (1 + level) / 2)
    if 0 < share_below < 1:
        bias = _NORMAL.inv_cdf(share_below)
        acceleration = _compute_acceleration(numerators, denominators)
        tails = (
            _correct_quantile(_NORMAL.inv_cdf(tails[0]), bias, acceleration),
            _correct_quantile(_NORMAL.inv_cdf(tails[1]), bias, acceleration),
        )
    low, high = np.quantile(changes, tails)
    return float(low), float(high)


def _count_draws(groups: int) -> int:
    return max(FEWEST_DRAWS, min(DRAWS, NUMBERS // groups))


# The measures of a scorecard are over the same groups, so one set of draws serves them all.
@lru_cache(maxsize=8)
def _draw_signs(groups: int, seed: int) -> Any:
    """Return draws x groups of -1 and 1."""
    import numpy as np

    signs = np.random.default_rng(seed).integers(0, 2, size=(_count_draws(groups), groups))
    return 2.0 * signs - 1.0


@lru_cache(maxsize=4)
def _draw_counts(groups: int, seed: int) -> Any:
    """Return draws x groups: how often each group is in a resample."""
    import numpy as np

    shares = np.full(groups, 1 / groups)
    chance = np.random.default_rng(seed)
    return chance.multinomial(groups, shares, size=_count_draws(groups)).astype(float)


def _correct_quantile(quantile: float, bias: float, acceleration: float) -> float:
    shifted = bias + quantile
    scale = 1 - acceleration * shifted
    # Past its pole the correction would turn round: the outermost resample is as far as it goes.
    return _NORMAL.cdf(bias + shifted / scale) if scale > 0 else float(shifted > 0)


def _compute_acceleration(top: Any, bottom: Any) -> float:
    """Return a sixth of the skewness of the jackknife's values of sum(top) / sum(bottom)."""
    left_out = (top.sum() - top) / (bottom.sum() - bottom)
    offsets = left_out.mean() - left_out
    squares = float((offsets**2).sum())
    return float((offsets**3).sum()) / (6 * squares**1.5) if squares > 0 else 0.0


def compute_standard_error(sums: Sequence[float], weights: Sequence[float]) -> float | None:
    """Return the standard error of sum(sums) / sum(weights) over groups, or None where unknown.

    It is unknown for one group, and for groups without any spread: zero would claim certainty.
    Source: linearised variance of a ratio by cluster (Cochran 1977, 6.3).
    """
    groups, total = len(sums), math.fsum(weights)
    if groups < 2:
        return None
    change = math.fsum(sums) / total
    squares = math.fsum(
        (own - change * weight) ** 2 for own, weight in zip(sums, weights, strict=True)
    )
    error = math.sqrt(squares * groups / (groups - 1)) / total
    return error if error > 1e-12 * max(1.0, abs(change)) else None


def compute_detectable_change(
    error: float, groups: int, alpha: float = 0.05, power: float = 0.8
) -> float | None:
    """Return the smallest change that `groups` find with `power`, None where they find none.

    `error` is the standard error of the change. A change d widens what sign flips allow to chance,
    from error to sqrt(error^2 + d^2 / groups), so it is d of
    d = z(1 - alpha / 2) * sqrt(error^2 + d^2 / groups) + z(power) * error.
    Source: normal approximation of the sign-flip test; in simulation the change that it names is
    found in 0.7 to 0.9 of runs (tests/evaluation/test_power.py).
    """
    chance, reach = _NORMAL.inv_cdf(1 - alpha / 2), _NORMAL.inv_cdf(power)
    leading = 1 - chance**2 / groups
    if leading <= 0:
        return None
    return error * (reach + math.sqrt(reach**2 + leading * (chance**2 - reach**2))) / leading


def count_groups_needed(comparisons: int, alpha: float = 0.05) -> int:
    """Return the fewest groups whose least p, 2 / 2**groups, passes Holm's first step.

    `comparisons` is how many are corrected for.
    """
    return math.floor(1 - math.log2(alpha / comparisons)) + 1
