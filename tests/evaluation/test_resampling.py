"""Sign flips and intervals agree with scipy's, and hold on data without spread."""

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from medexp.evaluation.resampling import (
    EXACT_GROUPS,
    compute_bca_interval,
    compute_detectable_change,
    compute_standard_error,
    count_groups_needed,
    flip_signs,
)


def draw_normal(count: int, mean: float, seed: int) -> list[float]:
    chance = random.Random(seed)
    return [chance.gauss(mean, 1) for _ in range(count)]


@pytest.mark.parametrize("seed", range(4))
def test_exact_sign_flips_are_those_of_scipy(seed):
    sums = draw_normal(11, 0.4, seed)
    for alternative in ("two-sided", "greater", "less"):
        known = stats.permutation_test(
            (np.array(sums),),
            lambda values, axis: values.mean(axis=axis),
            permutation_type="samples",
            n_resamples=np.inf,
            alternative=alternative,
        ).pvalue
        flipped = flip_signs(sums)
        own = {"two-sided": flipped.p_value, "greater": flipped.p_rise, "less": flipped.p_fall}
        assert own[alternative] == pytest.approx(known)


def test_drawn_sign_flips_are_near_the_exact_ones_and_never_zero():
    sums = draw_normal(EXACT_GROUPS, 0.5, 3)
    # A group of no weight makes it one too many to count every pattern.
    drawn, exact = flip_signs([*sums, 1e-12]), flip_signs(sums)
    assert drawn.p_value == pytest.approx(exact.p_value, abs=0.01)
    assert flip_signs([1.0] * 60).p_value == pytest.approx(1 / 10_000)


def test_groups_without_a_change_say_nothing():
    assert flip_signs([0.0, 0.0]).p_value == 1
    assert flip_signs([1.0, 2.0, 0.0, 0.0]) == flip_signs([1.0, 2.0])


@pytest.mark.parametrize(("groups", "p"), [(5, 2 / 32), (6, 2 / 64), (10, 2 / 1024)])
def test_the_least_p_is_that_of_all_groups_one_way(groups, p):
    flipped = flip_signs([0.5] * groups)
    assert (flipped.p_value, flipped.p_rise, flipped.p_fall) == (p, p / 2, 1)


@pytest.mark.parametrize("seed", range(3))
def test_the_interval_is_that_of_scipy(seed):
    values = [math.exp(value) for value in draw_normal(40, 0, seed)]
    known = stats.bootstrap(
        (np.array(values),), np.mean, method="BCa", n_resamples=20_000, rng=1
    ).confidence_interval
    low, high = compute_bca_interval(values, [1.0] * 40, 0.95)
    width = known.high - known.low
    assert (low, high) == pytest.approx(tuple(known), abs=0.06 * width)


@pytest.mark.parametrize("values", [[0.5], [0.5] * 7, [0.0] * 3])
def test_no_spread_is_no_width(values):
    assert compute_bca_interval(values, [1.0] * len(values), 0.95) == (values[0], values[0])
    assert compute_standard_error(values, [1.0] * len(values)) is None


@given(
    st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(0.01, 1e3)), min_size=1, max_size=9),
    st.integers(0, 3),
)
def test_an_interval_lies_among_the_groups(groups, seed):
    sums, weights = zip(*[(value * weight, weight) for value, weight in groups], strict=True)
    low, high = compute_bca_interval(sums, weights, 0.95, seed)
    values = [value for value, _ in groups]
    slack = 1e-6 * max(1, *map(abs, values))
    assert min(values) - slack <= low <= high <= max(values) + slack


def test_the_error_of_a_mean_is_that_of_the_textbook():
    values = draw_normal(30, 0, 1)
    assert compute_standard_error(values, [1.0] * 30) == pytest.approx(stats.sem(values))


def test_a_power_of_four_in_five_needs_2_8_errors_of_many_groups_and_more_of_few():
    assert compute_detectable_change(1.0, 10**9) == pytest.approx(1.959964 + 0.841621, abs=1e-5)
    assert compute_detectable_change(1.0, 32) > 3
    assert compute_detectable_change(1.0, 3) is None


@pytest.mark.parametrize("comparisons", range(1, 40))
def test_the_groups_needed_are_the_fewest_that_can_pass(comparisons):
    needed = count_groups_needed(comparisons)
    assert flip_signs([1.0] * min(needed, 12)).p_value * comparisons < 0.05 or needed > 12
    assert 2 / 2 ** (needed - 1) * comparisons >= 0.05
