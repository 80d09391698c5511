"""Did it change? Paired comparisons of the same cases before and after, group by group.

The unit is the group: the cases of one condition or patient are alike, and count as one witness.
A verdict is refused where the mean and most of the groups went different ways: a few large cases
are no change of the others.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

from medexp.evaluation.resampling import (
    compute_bca_interval,
    compute_detectable_change,
    compute_standard_error,
    count_groups_needed,
    flip_signs,
)

LEVEL = 0.95
# Sums of floats that should cancel leave some 1e-18 behind. What is smaller than this is no change.
NOTHING = 1e-12
TOO_FEW = "too few groups"


@dataclass(frozen=True)
class PairedComparison:
    """`after` minus `before` over `pairs` cases of `groups` groups.

    `change` is the mean, `low` and `high` its 95 % interval (0 where smaller than NOTHING),
    `p_value` the two-sided p of the sign-flip test, `p_rise` and `p_fall` the one-sided ones,
    `majority` how many more groups rose than fell, `error` the standard error (None where the
    groups have no spread).
    """

    pairs: int
    before: float
    after: float
    change: float
    low: float
    high: float
    p_value: float
    majority: int
    groups: int
    p_rise: float = 1.0
    p_fall: float = 1.0
    error: float | None = None

    def __post_init__(self) -> None:
        for name in ("change", "low", "high"):
            if abs(getattr(self, name)) < NOTHING:
                object.__setattr__(self, name, 0.0)

    @property
    def is_detected(self) -> bool:
        """Is the change beyond chance?

        The interval is without zero, p is below 0.05, and most groups did not go the other way.
        """
        return self.is_detected_at(self.p_value)

    def is_detected_at(self, adjusted_p: float) -> bool:
        """Is it beyond chance with a p that was adjusted for other comparisons?"""
        is_one_way = self.majority * self.change >= 0
        return is_one_way and (self.low > 0 or self.high < 0) and adjusted_p < 1 - LEVEL

    def verdict(self, more_is_better: bool) -> str:
        """Return improved, worse, no detectable change, or too few groups to detect one."""
        if not self.is_detected:
            return self.verdict_without_change("no detectable change")
        return "improved" if (self.change > 0) == more_is_better else "worse"

    def verdict_without_change(self, words: str, comparisons: int = 1) -> str:
        """Return `words`, or "too few groups" where no data of so few could pass the test.

        `comparisons` is how many the test is corrected for.
        """
        return words if self.groups >= count_groups_needed(comparisons) else TOO_FEW

    def detectable(self, comparisons: int = 1) -> float | None:
        """Return the smallest change that so many groups find with 80 % power, None if unknown.

        By the normal approximation from the observed spread, at 5 % over `comparisons`.
        """
        if self.error is None:
            return None
        return compute_detectable_change(self.error, self.groups, (1 - LEVEL) / comparisons)

    def interval(self) -> str:
        """Return the mean change with its interval in words."""
        if self.groups == 1:
            return f"{self.change:+.3g} [one group has no interval]"
        return f"{self.change:+.3g} [{self.low:+.3g}, {self.high:+.3g}]"

    def sample(self) -> str:
        """Return the number of cases, and of groups where these are fewer."""
        return f"n {self.pairs}" + (f" in {self.groups} groups" * (self.groups != self.pairs))

    def figures(self) -> str:
        """Return the mean change with its interval, p, and how many cases and groups there were."""
        return f"{self.interval()}, p {self.p_value:.2g}, {self.sample()}"


def compare_pairs(
    before: Sequence[float],
    after: Sequence[float],
    weights: Sequence[float] | None = None,
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
) -> PairedComparison:
    """Return the paired comparison of two measurements of the same cases.

    With `weights` (one a case: its tokens) means, change, interval and test are weighted. `groups`
    names the group of every case; without it each case is a group.
    Raises: ValueError if they are not equally many, or none.
    Source: sign-flip permutation test and BCa bootstrap by group (`resampling`).
    """
    if len(before) != len(after) or not before or len(groups or before) != len(before):
        raise ValueError(
            f"{len(before)} values before, {len(after)} after and"
            f" {len(groups or before)} groups; a paired comparison needs equally many, at least one"
        )
    differences = [late - early for early, late in zip(before, after, strict=True)]
    own_weights = [1.0] * len(before) if weights is None else [float(weight) for weight in weights]
    sums: dict[Hashable, list[float]] = {}
    for place, (difference, weight) in enumerate(zip(differences, own_weights, strict=True)):
        total = sums.setdefault(place if groups is None else groups[place], [0.0, 0.0])
        total[0] += difference * weight
        total[1] += weight
    group_sums, group_weights = zip(*sums.values(), strict=True)
    flipped = flip_signs(group_sums, seed)
    return PairedComparison(
        len(before),
        fmean(before, weights),
        fmean(after, weights),
        fmean(differences, weights),
        *compute_bca_interval(group_sums, group_weights, LEVEL, seed),
        flipped.p_value,
        sum(int(total > 0) - int(total < 0) for total in group_sums),
        len(sums),
        flipped.p_rise,
        flipped.p_fall,
        compute_standard_error(group_sums, group_weights),
    )


@dataclass(frozen=True)
class Proportion:
    """A share of `count` and its 95 % intervals: by Wilson's score, and by the BCa bootstrap."""

    count: int
    share: float
    wilson: tuple[float, float]
    bootstrap: tuple[float, float]


def estimate_proportion(right: Sequence[bool], seed: int = 0) -> Proportion:
    """Return the share of True in `right` with its intervals.

    Raises: ValueError if there are none. Source: Wilson 1927, Probable inference; unlike share +-
    1.96 standard errors it stays within 0 and 1, and has a width where all are right.
    """
    if not right:
        raise ValueError("a share of nothing is none; give at least one value")
    share = fmean(right)
    values = [float(is_right) for is_right in right]
    return Proportion(
        len(right),
        share,
        _compute_wilson_interval(share, len(right)),
        compute_bca_interval(values, [1.0] * len(values), LEVEL, seed),
    )


def _compute_wilson_interval(share: float, number: int) -> tuple[float, float]:
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    middle, scale = share + z * z / (2 * number), 1 + z * z / number
    spread = z * math.sqrt(share * (1 - share) / number + z * z / (4 * number * number))
    return (middle - spread) / scale, (middle + spread) / scale


def adjust_holm(p_values: Sequence[float]) -> list[float]:
    """Return every p adjusted for all of `p_values`, in their order.

    Called below 0.05, one such family in twenty has a false call.
    Source: Holm 1979, A simple sequentially rejective multiple test procedure (no assumption on how
        the tests depend).
    """
    adjusted, highest, total = [1.0] * len(p_values), 0.0, len(p_values)
    for rank, place in enumerate(sorted(range(total), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (total - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted
