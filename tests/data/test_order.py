from collections import Counter
from itertools import pairwise
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medexp.data.order import GROUPED_BATCHES, count_steps, make_training_order

COUNTS = st.integers(1, 60)
SEEDS = st.integers(0, 2**32)
LENGTHS = st.lists(st.integers(1, 500), min_size=1, max_size=90)


@pytest.mark.parametrize(
    ("epochs", "num_cases", "cases_per_step", "steps"),
    [
        (1, 8, 8, 1),
        (1, 9, 8, 2),
        (3, 8, 8, 3),
        (0.5, 8, 2, 2),
        (0.01, 8, 8, 1),
        (2, 1, 8, 1),
        (1.5, 10, 4, 4),
    ],
)
def test_steps_see_every_case_as_often_as_asked(epochs, num_cases, cases_per_step, steps):
    assert count_steps(epochs, num_cases, cases_per_step) == steps


@given(COUNTS, st.integers(0, 200), SEEDS)
def test_every_whole_pass_sees_every_case_once(num_cases, num_drawn, seed):
    order = make_training_order(num_cases, num_drawn, seed)
    assert len(order) == num_drawn
    for start in range(0, num_drawn - num_cases + 1, num_cases):
        assert sorted(order[start : start + num_cases]) == list(range(num_cases))
    assert max(Counter(order).values(), default=0) <= ceil(num_drawn / num_cases)


@given(COUNTS, st.integers(0, 100), st.integers(0, 100), SEEDS)
def test_a_longer_run_begins_as_a_shorter_one(num_cases, some, more, seed):
    assert make_training_order(num_cases, some + more, seed)[:some] == make_training_order(
        num_cases, some, seed
    )


@given(LENGTHS, st.integers(0, 200), SEEDS, st.integers(1, 4))
def test_the_order_is_a_function_of_the_seed(lengths, num_drawn, seed, batch):
    arguments = (len(lengths), num_drawn, seed, lengths, batch)
    assert make_training_order(*arguments) == make_training_order(*arguments)


def test_another_seed_and_another_pass_have_another_order():
    orders = {tuple(make_training_order(20, 20, seed)) for seed in range(10)}
    assert len(orders) == 10
    two_passes = make_training_order(20, 40, 0)
    assert two_passes[:20] != two_passes[20:]


def test_the_order_is_the_same_on_every_machine():
    assert make_training_order(8, 12, 3407) == [5, 4, 2, 1, 0, 7, 6, 3, 3, 5, 1, 7]


@given(LENGTHS, st.integers(0, 200), SEEDS, st.integers(1, 4))
def test_grouping_changes_the_order_and_nothing_else(lengths, num_drawn, seed, batch):
    grouped = make_training_order(len(lengths), num_drawn, seed, lengths, batch)
    plain = make_training_order(len(lengths), num_drawn, seed)
    window = batch * GROUPED_BATCHES
    for start in range(0, num_drawn, window):
        assert sorted(grouped[start : start + window]) == sorted(plain[start : start + window])


@given(LENGTHS, st.integers(1, 12), SEEDS, st.integers(1, 4))
def test_grouped_batches_hold_cases_of_like_length(lengths, num_batches, seed, batch):
    """Within a window no batch's range of lengths reaches into another's."""
    grouped = make_training_order(len(lengths), num_batches * batch, seed, lengths, batch)
    window = batch * GROUPED_BATCHES
    for first in range(0, len(grouped), window):
        taken = [lengths[index] for index in grouped[first : first + window]]
        batches = sorted(
            (min(taken[at : at + batch]), max(taken[at : at + batch]))
            for at in range(0, len(taken), batch)
        )
        assert all(below[1] <= above[0] for below, above in pairwise(batches))


def test_grouped_batches_are_not_in_order_of_length():
    lengths = list(range(32))
    grouped = make_training_order(32, 32, 3407, lengths, batch=2)
    longest = [max(grouped[at : at + 2]) for at in range(0, 32, 2)]
    assert longest not in (sorted(longest), sorted(longest, reverse=True))
