"""Batches of cases: every case once, none over the limit, and no cut of the sorted cases is faster,
or has fewer batches.
"""

from collections.abc import Callable
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from medexp.data.batching import batch_for_least_time, batch_in_order, batch_into_fewest

LENGTHS = st.lists(st.integers(1, 2048), min_size=1, max_size=7)


def within(most: int) -> Callable[[int, int], bool]:
    return lambda cases, longest: cases * longest <= most


def padded(group: list[int], lengths: list[int]) -> int:
    return len(group) * max(lengths[case] for case in group)


def cuts(lengths: list[int]) -> list[list[list[int]]]:
    """Every way to cut the cases, longest first, into neighbours."""
    order = sorted(range(len(lengths)), key=lambda case: -lengths[case])
    ways = []
    for breaks in product((False, True), repeat=len(order) - 1):
        groups = [[order[0]]]
        for case, is_new in zip(order[1:], breaks, strict=True):
            groups = [*groups, [case]] if is_new else [*groups[:-1], [*groups[-1], case]]
        ways.append(groups)
    return ways


@given(LENGTHS, st.integers(2048, 8192), st.integers(0, 4096), st.integers(0, 4096))
def test_nothing_is_lost_nothing_is_over_and_nothing_is_faster(
    lengths: list[int], most: int, fixed: int, least: int
) -> None:
    def seconds(tokens: int) -> int:
        return max(fixed + tokens, least)

    groups = batch_for_least_time(lengths, within(most), seconds)
    assert sorted(case for group in groups for case in group) == list(range(len(lengths)))
    assert all(padded(group, lengths) <= most for group in groups)
    possible = [
        way for way in cuts(lengths) if all(padded(group, lengths) <= most for group in way)
    ]
    fastest = min(sum(seconds(padded(group, lengths)) for group in way) for way in possible)
    assert sum(seconds(padded(group, lengths)) for group in groups) == fastest


def test_full_cases_stay_as_many_a_micro_batch_as_planned() -> None:
    assert [
        len(group)
        for group in batch_for_least_time([2048] * 8, within(4096), lambda tokens: 100 + tokens)
    ] == [2, 2, 2, 2]


def test_short_cases_share_a_micro_batch_and_a_long_one_does_not_pad_them() -> None:
    assert batch_for_least_time(
        [500, 2000, 500, 500, 500], within(2048), lambda tokens: 100 + tokens
    ) == [
        [1],
        [0, 2, 3, 4],
    ]


def test_cases_keep_apart_where_a_micro_batch_costs_nothing() -> None:
    assert batch_for_least_time([100, 300, 200], within(2048), lambda tokens: tokens) == [
        [1],
        [2],
        [0],
    ]


def test_a_case_over_the_limit_stays_alone() -> None:
    assert batch_for_least_time([30, 10, 10], within(20), lambda tokens: 1 + tokens) == [
        [0],
        [1, 2],
    ]


def test_in_turn_takes_the_cases_as_they_come() -> None:
    assert batch_in_order(5, 2) == [[0, 1], [2, 3], [4]]


@given(LENGTHS, st.integers(2048, 8192))
def test_no_cut_has_fewer_groups(lengths: list[int], most: int) -> None:
    groups, may = batch_into_fewest(lengths, within(most)), within(most)
    assert sorted(case for group in groups for case in group) == list(range(len(lengths)))
    assert all(may(len(group), max(lengths[case] for case in group)) for group in groups)
    allowed = [
        way for way in cuts(lengths) if all(may(len(group), lengths[group[0]]) for group in way)
    ]
    assert len(groups) == min(map(len, allowed))
