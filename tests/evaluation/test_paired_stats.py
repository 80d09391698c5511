"""Paired comparisons: known values, and no change found where there is none."""

import random
from dataclasses import replace
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from medexp.evaluation.paired_stats import compare_pairs, estimate_proportion

numbers = st.floats(-1e6, 1e6)


def test_a_clear_fall_of_a_loss_is_an_improvement():
    chance = random.Random(1)
    before = [chance.gauss(4, 0.3) for _ in range(16)]
    after = [value - chance.gauss(0.5, 0.1) for value in before]
    found = compare_pairs(before, after)
    assert found.verdict(more_is_better=False) == "improved"
    assert found.verdict(more_is_better=True) == "worse"
    assert found.low < found.change < found.high < 0


def test_a_few_large_falls_do_not_make_an_improvement_of_many_rises():
    found = compare_pairs([3.0] * 20, [3.02] * 14 + [1.0] * 6)
    assert found.p_value < 0.05
    assert found.change < found.high < 0 < found.majority
    assert not found.is_detected
    assert {found.verdict(better) for better in (True, False)} == {"no detectable change"}
    assert (
        compare_pairs([3.0] * 20, [2.98] * 14 + [1.0] * 6).verdict(more_is_better=False)
        == "improved"
    )


@given(st.lists(st.tuples(numbers, numbers), min_size=6, max_size=12))
def test_what_is_called_a_change_is_where_most_of_the_cases_went(pairs):
    found = compare_pairs(*zip(*pairs, strict=True))
    rose, fell = (
        sum(late > early for early, late in pairs),
        sum(late < early for early, late in pairs),
    )
    if found.is_detected:
        assert (rose > fell) == (found.change > 0)


def test_differences_that_cancel_are_no_change_whatever_floats_leave_of_them():
    before, after = [0.1, 0.7, 0.3], [0.3, 0.1, 0.7]
    assert fmean(late - early for early, late in zip(before, after, strict=True)) != 0
    found = compare_pairs(before, after)
    assert found.change == 0
    assert found.interval().startswith("+0 [")
    one_group = compare_pairs(before, after, groups=["a", "a", "a"])
    assert (one_group.change, one_group.low, one_group.high) == (0, 0, 0)
    assert compare_pairs([0.0], [1e-9]).change == 1e-9


def test_weights_weigh_means_change_interval_and_test():
    before, after, tokens = [1.0, 2.0, 4.0], [2.0, 1.0, 1.0], [10, 30, 60]
    found = compare_pairs(before, after, tokens)
    assert (found.before, found.after) == pytest.approx((3.1, 1.1))
    assert found.change == pytest.approx(found.after - found.before)
    assert found.low < found.change < found.high
    # Weighted, the sums are 10, -30, -180: two of eight patterns of signs are as far from zero.
    assert found.p_value == 0.5
    alike, plain = compare_pairs(before, after, [7, 7, 7]), compare_pairs(before, after)
    assert (alike.change, alike.low, alike.high, alike.p_value) == pytest.approx(
        (plain.change, plain.low, plain.high, plain.p_value)
    )


def test_cases_of_a_group_are_one_witness():
    before, after = [0.0] * 12, [1.0] * 12
    alone = compare_pairs(before, after)
    grouped = compare_pairs(before, after, groups=["a"] * 6 + ["b"] * 6)
    assert (alone.groups, grouped.groups, grouped.pairs) == (12, 2, 12)
    assert alone.verdict(more_is_better=True) == "improved"
    assert grouped.verdict(more_is_better=True) == "too few groups"
    assert grouped.figures().endswith("p 0.5, n 12 in 2 groups")
    assert (
        compare_pairs([0.0] * 3, [1.0] * 3, groups=["a"] * 3)
        .interval()
        .endswith("[one group has no interval]")
    )


def test_a_large_group_weighs_by_its_cases():
    found = compare_pairs([0.0] * 4, [1.0, 1.0, 1.0, 0.0], groups=["a", "a", "a", "b"])
    assert found.change == 0.75 == found.after - found.before


def test_a_change_needs_its_interval_as_well_as_its_p():
    found = compare_pairs([0.0] * 8, [0.5] * 8)
    assert found.is_detected
    assert not replace(found, low=-0.1).is_detected
    assert not replace(found, p_value=0.06).is_detected
    assert not found.is_detected_at(0.06)


def test_what_could_have_been_found_shrinks_with_the_groups():
    chance = random.Random(2)
    values = [chance.gauss(0, 1) for _ in range(80)]
    few, many = (compare_pairs([0.0] * count, values[:count]) for count in (20, 80))
    assert 1.5 < few.detectable() / many.detectable() < 2.6
    assert many.detectable(3) > many.detectable()
    assert compare_pairs([1.0, 2.0], [1.0, 2.0]).detectable() is None


def test_the_interval_of_a_weighted_mean_covers_it():
    covered = 0
    for seed in range(200):
        chance = random.Random(seed)
        tokens = [chance.choice([20, 50, 400]) for _ in range(30)]
        after = [chance.gauss(-0.5, 0.4) for _ in tokens]
        found = compare_pairs([0.0] * 30, after, tokens, seed)
        covered += found.low <= -0.5 <= found.high
    # 86 % of 200: 30 so unlike weights are worth about 15 cases, and a bootstrap of so few falls
    # short of its 95 %. A verdict needs the sign flips too, which hold their level.
    assert covered >= 172


def test_chance_alone_is_rarely_called_a_change():
    detected = 0
    for seed in range(200):
        chance = random.Random(seed)
        values = [chance.gauss(0, 1) for _ in range(12)]
        detected += compare_pairs(
            values, [value + chance.gauss(0, 1) for value in values], seed=seed
        ).is_detected
    # 5 % of 200; interval and sign flips must agree, so it is fewer.
    assert detected <= 10


def test_few_pairs_are_never_enough():
    assert compare_pairs([0.0] * 4, [1.0] * 4).verdict(more_is_better=True) == "too few groups"


def test_no_change_is_none():
    found = compare_pairs([1.0, 2.0], [1.0, 2.0])
    assert (found.change, found.low, found.high, found.p_value) == (0, 0, 0, 1)


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=12))
def test_swapping_sides_swaps_the_sign(pairs):
    before, after = zip(*pairs, strict=True)
    there, back = compare_pairs(before, after), compare_pairs(after, before)
    assert there.change == pytest.approx(-back.change)
    assert there.p_value == back.p_value


@pytest.mark.parametrize(("before", "after"), [([], []), ([1.0], []), ([1.0], [1.0, 2.0])])
def test_unpaired_values_are_refused(before, after):
    with pytest.raises(ValueError, match="needs equally many"):
        compare_pairs(before, after)


def test_a_share_has_two_intervals_that_agree():
    found = estimate_proportion([True] * 30 + [False] * 70)
    assert (found.count, found.share) == (100, 0.3)
    assert found.wilson == pytest.approx(
        binomtest(30, 100).proportion_ci(method="wilson"), abs=1e-9
    )
    assert found.bootstrap == pytest.approx(found.wilson, abs=0.02)


@pytest.mark.parametrize("right", [0, 1, 19, 20])
def test_no_interval_of_a_share_leaves_0_to_1(right):
    low, high = estimate_proportion([True] * right + [False] * (20 - right)).wilson
    assert 0 <= low + 1e-12 < high <= 1
    assert (low, high) == pytest.approx(
        binomtest(right, 20).proportion_ci(method="wilson"), abs=1e-9
    )


def test_a_share_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one value"):
        estimate_proportion([])
