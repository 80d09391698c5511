"""Mixtures: exact proportions, nothing lost or doubled, nothing held out from one part trained on
from another.
"""

from collections import Counter
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medexp.config.schema import Columns, MixtureSource
from medexp.data.cases import Case
from medexp.data.mixture import split_mixture
from medexp.data.order import count_epoch_draws, make_mixed_order, make_training_order, share_out
from medexp.errors import DataError

WEIGHTS = st.lists(
    st.integers(1, 99).map(lambda hundredths: hundredths / 100), min_size=1, max_size=5
)
COLUMNS = Columns(question="q", reasoning="r", answer="a")


def part(name: str, weight: float, group_by: str | None = None) -> MixtureSource:
    return MixtureSource(
        name=name,
        hub_id=None,
        config=None,
        revision=None,
        path=f"/{name}.json",
        columns=COLUMNS,
        group_by=group_by,
        test_share=None,
        validation_share=0.0,
        licence="none",
        weight=weight,
    )


def cases(name: str, count: int, conditions: int = 0) -> list[Case]:
    extra = [
        {"condition": f"c{place % conditions}"} if conditions else {} for place in range(count)
    ]
    return [Case(f"{name} {place}", "r", "a", extra[place]) for place in range(count)]


@pytest.fixture
def mixed(dataset):
    """mixed(parts, **changes): a Dataset that is a mixture."""
    return lambda parts, **changes: dataset(
        name="mixture", mixture=list(parts), held_out=changes.pop("held_out", 4), **changes
    )


@given(WEIGHTS, st.integers(0, 150), st.integers(0, 9))
def test_after_any_number_of_draws_every_part_is_within_one_case_of_its_share(
    weights, num_drawn, seed
):
    order = make_mixed_order([1000] * len(weights), weights, num_drawn, seed)
    shares = [Fraction(str(weight)) for weight in weights]
    for drawn in range(num_drawn + 1):
        counts = Counter(index // 1000 for index in order[:drawn])
        for place, share in enumerate(shares):
            assert abs(counts[place] - drawn * share / sum(shares)) < 1


@given(
    st.lists(
        st.tuples(st.integers(1, 9), st.sampled_from([0.1, 0.5, 1, 3])), min_size=1, max_size=4
    ),
    st.integers(0, 80),
)
def test_within_a_part_no_case_is_seen_again_before_all_were_seen(parts, num_drawn):
    sizes, weights = zip(*parts, strict=True)
    counts = Counter(make_mixed_order(sizes, weights, num_drawn, 3407))
    start = 0
    for size in sizes:
        of_part = [counts[index] for index in range(start, start + size)]
        assert max(of_part) - min(of_part) <= 1
        start += size


@given(WEIGHTS, st.integers(0, 60), st.integers(0, 60))
def test_a_resumed_run_goes_on_with_the_very_next_case(weights, done, more):
    sizes = [7] * len(weights)
    assert make_mixed_order(sizes, weights, done + more, 1)[:done] == make_mixed_order(
        sizes, weights, done, 1
    )


@given(st.integers(1, 40), st.integers(0, 90), st.integers(0, 9))
def test_a_mixture_of_one_part_is_the_plain_order(size, num_drawn, seed):
    assert make_mixed_order([size], [0.3], num_drawn, seed) == make_training_order(
        size, num_drawn, seed
    )


def test_proportions_are_exact_over_a_run():
    order = make_mixed_order([5000, 138], [0.9, 0.1], 160, 3407)
    assert Counter(index >= 5000 for index in order) == {False: 144, True: 16}
    assert make_mixed_order([3, 2], [2, 1], 9, 3407) == [2, 1, 4, 0, 1, 3, 0, 2, 4]


def test_grouping_by_length_keeps_the_draws():
    lengths = [index % 17 for index in range(30)]
    plain, grouped = (
        make_mixed_order([20, 10], [1, 1], 48, 5, given, 2) for given in (None, lengths)
    )
    assert plain != grouped
    assert [sorted(plain[:32]), sorted(plain[32:])] == [sorted(grouped[:32]), sorted(grouped[32:])]


@pytest.mark.parametrize(
    ("sizes", "weights", "draws"),
    [([10], [1.0], 10), ([90, 5], [0.9, 0.1], 100), ([10, 5], [0.5, 0.5], 20), ([3, 3], [2, 1], 9)],
)
def test_an_epoch_ends_when_every_case_was_seen(sizes, weights, draws):
    assert count_epoch_draws(sizes, weights) == draws
    assert set(make_mixed_order(sizes, weights, draws, 0)) == set(range(sum(sizes)))


@given(st.integers(0, 300), WEIGHTS)
def test_quotas_add_up_and_are_within_one_of_exact(total, weights):
    shares = [Fraction(str(weight)) for weight in weights]
    shared = share_out(total, weights)
    assert sum(shared) == total
    assert all(
        abs(count - total * share / sum(shares)) < 1
        for count, share in zip(shared, shares, strict=True)
    )


def test_held_out_cases_come_from_every_part_by_its_weight(mixed):
    made = split_mixture(
        [cases("big", 60), cases("small", 30)],
        mixed([part("big", 0.75), part("small", 0.25)], held_out=8),
    )
    assert Counter(case.question.split()[0] for case in made.held_out) == {"big": 6, "small": 2}
    assert [(share.name, share.cases) for share in made.shares] == [("big", 54), ("small", 28)]
    assert (made.records, made.duplicates, made.withheld) == (90, 0, 0)
    assert len({case.key for case in made.train + made.held_out}) == 90


def test_measured_are_the_cases_that_the_named_option_would_hold_out_alone(mixed, dataset):
    grouped, other = cases("small", 30, conditions=15), cases("big", 60)
    alone = split_mixture([grouped], dataset(held_out=6, group_by="condition"))
    of_small = part("small", 0.1, "condition")
    both = mixed(
        [part("big", 0.9), of_small], held_out=6, held_out_from=replace(of_small, weight=0.0)
    )
    made = split_mixture([other, grouped], both)
    assert made.held_out == alone.held_out
    assert [(share.name, share.cases) for share in made.shares] == [("big", 60), ("small", 24)]


def test_a_dataset_can_be_measured_on_another(dataset):
    own, other = cases("own", 10), cases("other", 12)
    made = split_mixture([own, other], dataset(held_out=3, held_out_from=part("other", 0.0)))
    assert {case.question.split()[0] for case in made.held_out} == {"other"}
    assert len(made.held_out) == 3
    assert {case.key for case in made.train} == {case.key for case in own}


def test_no_condition_held_out_from_one_part_is_trained_on_from_another(mixed):
    """`second` is not grouped itself, and yet must not teach the conditions that are held out from
    `first`.
    """
    first, second = cases("first", 20, conditions=5), cases("second", 20, conditions=5)
    made = split_mixture(
        [first, second], mixed([part("first", 1, "condition"), part("second", 1)], held_out=8)
    )
    conditions = {
        case.extra["condition"] for case in made.held_out if case.question.startswith("first")
    }
    assert conditions
    assert not conditions & {case.extra["condition"] for case in made.train}
    assert made.withheld > 0
    assert made.withheld == 40 - len(made.train) - len(made.held_out)


def test_no_question_held_out_from_one_part_is_trained_on_from_another(mixed):
    same = cases("same", 20)
    other = [Case(case.question.upper(), "r", "another answer") for case in same] + cases(
        "other", 5
    )
    made = split_mixture([same, other], mixed([part("same", 1), part("other", 1)], held_out=8))
    assert not {case.key for case in made.held_out} & {case.key for case in made.train}
    assert len({case.key for case in made.train}) == len(made.train)


def test_max_cases_are_shared_out_by_weight(mixed):
    made = split_mixture(
        [cases("big", 60), cases("small", 30)],
        mixed([part("big", 0.9), part("small", 0.1)], held_out=2, max_cases=8),
    )
    assert [share.cases for share in made.shares] == [5, 1]
    assert len(made.held_out) == 2


def test_every_part_has_at_least_one_case_with_max_cases(mixed):
    made = split_mixture(
        [cases("big", 60), cases("small", 30)],
        mixed([part("big", 0.99), part("small", 0.01)], held_out=2, max_cases=8),
    )
    assert [share.cases for share in made.shares] == [6, 1]


def test_a_part_that_is_too_small_is_named(mixed):
    with pytest.raises(
        DataError,
        match=(
            r"dataset=small has 2 different questions and dataset.held_out=4 leaves none to"
            r" train on"
        ),
    ):
        split_mixture(
            [cases("big", 60), cases("small", 2)],
            mixed([part("big", 0.5), part("small", 0.5)], held_out=8),
        )


def test_a_part_of_which_nothing_is_new_is_named(mixed):
    with pytest.raises(DataError, match="nothing of copy is left to train on"):
        split_mixture(
            [cases("same", 9), cases("same", 9)],
            mixed([part("first", 9), part("copy", 1)], held_out=1),
        )


def test_too_few_to_measure_on_is_said(dataset):
    with pytest.raises(
        DataError, match=r"dataset=other has 2 different questions and dataset.held_out=3; lower it"
    ):
        split_mixture(
            [cases("own", 10), cases("other", 2)],
            dataset(held_out=3, held_out_from=part("other", 0.0)),
        )


def test_validation_cases_come_from_where_the_test_part_does_and_are_trained_on_from_nowhere(mixed):
    own, shipped = part("own", 0.8, "condition"), part("shipped", 0.2, "condition")
    read = [cases("own", 40, 10), cases("shipped", 20, 10)]
    dataset = mixed([own, shipped], held_out_from=replace(shipped, weight=0.0), validation=4)
    plain = split_mixture(read, replace(dataset, validation=0))
    split = split_mixture(read, dataset)
    assert split.held_out == plain.held_out
    assert len(split.validation) == 4
    assert all(case.question.startswith("shipped") for case in split.validation)
    trained = {case.extra["condition"] for case in split.train}
    held = {case.extra["condition"] for case in (*split.held_out, *split.validation)}
    assert not trained & held


def test_a_group_of_one_part_s_test_cases_is_in_no_validation(mixed):
    read = [cases("a", 40, 10), cases("b", 40, 10)]
    parts = [part("a", 0.5, "condition"), part("b", 0.5, "condition")]
    split = split_mixture(read, mixed(parts, validation=8))
    tested = {case.extra["condition"] for case in split.held_out}
    assert split.validation
    assert not tested & {case.extra["condition"] for case in split.validation}


def test_too_few_to_validate_on_is_said(dataset):
    own, other = part("own", 1.0), part("other", 0.0)
    made = dataset(mixture=[own], held_out_from=other, held_out=3, validation=4)
    with pytest.raises(DataError, match=r"dataset=other has 5 .* dataset\.validation=4; lower it"):
        split_mixture([cases("own", 9), cases("other", 5)], made)
