"""Did it change? Paired comparisons of the same cases before and after: mean, bootstrap interval,
sign test.

No change is called where the mean and most of the cases went different ways: a few large cases are
no change of the others.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from statistics import NormalDist, fmean

RESAMPLES, LEVEL = 4000, 0.95
TOO_FEW = "too few cases"


@dataclass(frozen=True)
class PairedComparison:
    """`after` minus `before` over `pairs` cases: the mean, its 95 % interval, the sign test's p,
    and how many more cases rose than fell."""

    pairs: int
    before: float
    after: float
    change: float
    low: float
    high: float
    p_value: float
    majority: int

    @property
    def is_detected(self) -> bool:
        """Whether the change is beyond chance: interval without zero, p below 0.05, and the mean
        where most of the cases went.
        """
        # The sign test is two-sided: it does not say in which direction most cases went.
        is_same_direction = (self.majority > 0) == (self.change > 0)
        excludes_zero = self.low > 0 or self.high < 0
        return is_same_direction and excludes_zero and self.p_value < 1 - LEVEL

    def verdict(self, more_is_better: bool) -> str:
        """Return improved, worse, no detectable change, or too few cases to detect one."""
        if not self.is_detected:
            return self.verdict_without_change("no detectable change")
        return "improved" if (self.change > 0) == more_is_better else "worse"

    def verdict_without_change(self, verdict: str) -> str:
        """Return `verdict`, unless there are too few cases for the sign test to come below 0.05,
        whatever they do.
        """
        return verdict if self.pairs >= min_pairs_needed(1) else TOO_FEW

    def interval(self) -> str:
        """Return the mean change with its interval, in words."""
        return f"{self.change:+.3g} [{self.low:+.3g}, {self.high:+.3g}]"

    def figures(self) -> str:
        """Return the mean change with its interval, p, and how many pairs there were, in words."""
        return f"{self.interval()}, p {self.p_value:.2g}, n {self.pairs}"


def compare_pairs(
    before: Sequence[float],
    after: Sequence[float],
    weights: Sequence[float] | None = None,
    seed: int = 0,
) -> PairedComparison:
    """Return the paired comparison of two measurements of the same cases.

    With `weights` (one a case: its tokens) both means, the change and its interval are weighted,
    while the sign test counts every case once.

    Raises: ValueError if they are not equally many, or none.
    Source: percentile bootstrap of the (weighted) mean over cases, each drawn with its weight
    (Efron & Tibshirani 1993); exact two-sided sign test without ties.
    """
    if len(before) != len(after) or not before:
        raise ValueError(
            f"{len(before)} values before and {len(after)} after; a paired comparison needs equally"
            " many, at least one"
        )
    differences = [late - early for early, late in zip(before, after, strict=True)]
    interval = _interval(differences, random.Random(seed), weights)
    means = fmean(before, weights), fmean(after, weights)
    change = fmean(differences, weights)
    majority = sum((change > 0) - (change < 0) for change in differences)
    return PairedComparison(
        len(before), *means, change, *interval, sign_test_p(differences), majority
    )


@dataclass(frozen=True)
class Proportion:
    """A share of `count` and its 95 % intervals: by Wilson's score, and by the percentile
    bootstrap.
    """

    count: int
    share: float
    wilson: tuple[float, float]
    bootstrap: tuple[float, float]


def estimate_proportion(are_right: Sequence[bool], seed: int = 0) -> Proportion:
    """Return the share of True in `are_right`.

    Raises: ValueError if there are none.
    Source: Wilson 1927, Probable inference; unlike share +- 1.96 standard errors it stays within 0
    and 1, and has a width where all are right.
    """
    if not are_right:
        raise ValueError("a share of nothing is none; give at least one value")
    share, num_cases = fmean(are_right), len(are_right)
    bootstrap = _interval([float(is_right) for is_right in are_right], random.Random(seed))
    return Proportion(num_cases, share, _wilson(share, num_cases), bootstrap)


def _wilson(share: float, number: int) -> tuple[float, float]:
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    middle, scale = share + z * z / (2 * number), 1 + z * z / number
    spread = z * math.sqrt(share * (1 - share) / number + z * z / (4 * number * number))
    return (middle - spread) / scale, (middle + spread) / scale


def sign_test_p(differences: Sequence[float]) -> float:
    """Return the exact two-sided p of as many or more differences with one sign, if both signs were
    equally likely; 1 without any.
    """
    ups = sum(change > 0 for change in differences)
    downs = sum(change < 0 for change in differences)
    total, fewer = ups + downs, min(ups, downs)
    tail = sum(math.comb(total, count) for count in range(fewer + 1))
    return min(1.0, 2 * tail / 2**total) if total else 1.0


def adjust_holm(p_values: Sequence[float]) -> list[float]:
    """Return every p adjusted for all of `p_values`, in their order: called below 0.05, one such
    family in twenty has a false call.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure (no assumption on how
        the tests depend).
    """
    adjusted, highest, total = [1.0] * len(p_values), 0.0, len(p_values)
    for rank, place in enumerate(sorted(range(total), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (total - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def min_pairs_needed(comparisons: int) -> int:
    """Return the fewest pairs with which the least p of a sign test, 2 / 2**pairs, passes Holm's
    correction for `comparisons` first.
    """
    return next(pairs for pairs in count(1) if comparisons * 2 / 2**pairs < 1 - LEVEL)


def _interval(
    differences: Sequence[float], chance: random.Random, weights: Sequence[float] | None = None
) -> tuple[float, float]:
    # Every resample would have the same mean.
    if len(set(differences)) == 1:
        return fmean(differences), fmean(differences)
    if weights is None:
        means = sorted(
            fmean(chance.choices(differences, k=len(differences))) for _ in range(RESAMPLES)
        )
    else:
        cases = list(zip(differences, weights, strict=True))
        means = sorted(
            fmean(*zip(*chance.choices(cases, k=len(cases)), strict=True)) for _ in range(RESAMPLES)
        )
    cut = int(RESAMPLES * (1 - LEVEL) / 2)
    return means[cut], means[-cut - 1]
