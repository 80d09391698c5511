import copy
from collections import Counter
from itertools import pairwise
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medexp.config.changes import change_values
from medexp.config.schema import LossOn, Overlong
from medexp.data.cases import Case
from medexp.data.encoding import IGNORED
from medexp.data.preparation import pick_evenly, prepare
from medexp.data.split import Share, Split
from medexp.errors import DataError

TRAIN = tuple(Case(f"train {number}", "Think. " * (number + 1), "a") for number in range(10))
HELD_OUT = tuple(Case(f"held out {number}", "Think. Twice.", "a") for number in range(6))
SIDES = Split(TRAIN, HELD_OUT, records=18, duplicates=2)


@pytest.fixture(scope="module")
def base(resolved):
    return resolved(
        "training.max_seq_tokens=500",
        "evaluation.max_seq_tokens=500",
        "training.group_by_length=false",
    )


@pytest.fixture
def run(base):
    return copy.deepcopy(base)


def test_a_row_for_every_case_of_every_step(run, characters):
    run = change_values(
        run, {"training.max_steps": 7, "training.micro_batch": 2, "training.accumulation": 3}
    )
    ready = prepare(run, SIDES, characters)
    assert (ready.steps, len(ready.rows)) == (7, 42)


@pytest.mark.parametrize(("epochs", "steps"), [(1, 3), (2, 5), (0.1, 1)])
def test_epochs_count_the_cases_that_fit(run, characters, epochs, steps):
    run = change_values(run, {"training.max_steps": None, "training.epochs": epochs})
    run = change_values(run, {"training.micro_batch": 2, "training.accumulation": 2})
    assert prepare(run, SIDES, characters).steps == steps


def test_an_epoch_of_fewer_cases_has_fewer_steps(run, characters):
    run = change_values(
        run,
        {
            "training.max_steps": None,
            "training.epochs": 1,
            "training.micro_batch": 1,
            "training.accumulation": 1,
            "training.max_seq_tokens": 240,
            "dataset.overlong": Overlong.drop,
        },
    )
    ready = prepare(run, SIDES, characters)
    assert 0 < ready.audit.train.dropped_overlong < len(TRAIN)
    assert ready.steps == ready.audit.train.kept == len(TRAIN) - ready.audit.train.dropped_overlong


def test_one_pass_trains_on_every_case_once(run, characters, decoded):
    run = change_values(
        run, {"training.max_steps": 5, "training.micro_batch": 2, "training.accumulation": 1}
    )
    rows = [decoded(row.input_ids) for row in prepare(run, SIDES, characters).rows]
    assert all(sum(f"\ntrain {number}\n" in row for row in rows) == 1 for number in range(10))


def test_grouping_puts_like_lengths_into_a_batch(run, characters):
    batches = {"training.max_steps": 5, "training.micro_batch": 2, "training.accumulation": 1}
    run = change_values(run, {**batches, "training.group_by_length": True})
    lengths = [len(row.input_ids) for row in prepare(run, SIDES, characters).rows]
    assert {
        abs(first - second) for first, second in zip(lengths[::2], lengths[1::2], strict=True)
    } == {len("Think. ")}


def test_the_same_run_has_the_same_rows_and_another_seed_others(run, characters):
    assert prepare(run, SIDES, characters) == prepare(copy.deepcopy(run), SIDES, characters)
    other = change_values(run, {"training.seed": run.training.seed + 1})
    assert prepare(other, SIDES, characters).rows != prepare(run, SIDES, characters).rows


def test_what_is_held_out_does_not_depend_on_the_training_length_or_loss(run, characters):
    other = copy.deepcopy(run)
    other = change_values(other, {"training.max_seq_tokens": 240, "training.loss_on": LossOn.all})
    assert prepare(other, SIDES, characters).held_out == prepare(run, SIDES, characters).held_out


@pytest.mark.parametrize("loss_on", LossOn)
def test_training_learns_what_loss_on_says_and_held_out_loss_is_on_completions(
    run, characters, loss_on
):
    run = change_values(run, {"training.loss_on": loss_on})
    ready = prepare(run, SIDES, characters)
    assert all((IGNORED in row.labels) == (loss_on is not LossOn.all) for row in ready.rows)
    assert all(
        row.labels[: row.prompt_tokens] == [IGNORED] * row.prompt_tokens
        for row in ready.held_out.encoded
    )


def test_every_question_is_asked_as_it_is_trained(run, characters):
    run = change_values(run, {"evaluation.answers": 6})
    ready = prepare(run, SIDES, characters)
    assert [case.question for case in ready.asked] == [case.question for case in HELD_OUT]
    for asked, encoded in zip(ready.prompts, ready.held_out.encoded, strict=True):
        assert asked == encoded.input_ids[: encoded.prompt_tokens]


@pytest.mark.parametrize("answers", [0, 1, 4, 6])
def test_as_many_questions_are_asked_as_configured(run, characters, answers):
    run = change_values(run, {"evaluation.answers": answers})
    ready = prepare(run, SIDES, characters)
    assert len(ready.asked) == len(ready.prompts) == answers


def test_only_held_out_cases_that_fit_are_asked(run, characters):
    too_long = Case("held out", "Think.", "a" * 500)
    run = change_values(run, {"evaluation.answers": 4})
    ready = prepare(run, Split(TRAIN, (too_long, *HELD_OUT), 17, 0), characters)
    assert too_long not in ready.asked
    assert ready.audit.held_out.dropped_overlong == 1


@pytest.mark.parametrize(
    ("group", "which", "count"), [("training", "training", 10), ("evaluation", "held-out", 6)]
)
def test_a_side_where_nothing_fits_names_the_key_to_raise(run, characters, group, which, count):
    run = change_values(run, {f"{group}.max_seq_tokens": 16})
    with pytest.raises(DataError) as refused:
        prepare(run, SIDES, characters)
    assert (
        str(refused.value)
        == f"every one of the {count} {which} cases is longer than {group}.max_seq_tokens=16"
        " tokens; "
        "raise it, or set dataset.overlong=trim_reasoning"
    )


def test_the_audit_is_of_both_sides(run, characters):
    done = prepare(run, SIDES, characters).audit
    assert (done.records, done.duplicate_questions, done.train.kept, done.held_out.kept) == (
        18,
        2,
        10,
        6,
    )


@given(st.integers(0, 40), st.integers(0, 50))
def test_spread_takes_different_cases_in_order_at_even_distances(num_cases, count):
    cases = [Case(str(number), "", "") for number in range(num_cases)]
    taken = [int(case.question) for case in pick_evenly(cases, count)]
    assert len(taken) == min(count, num_cases)
    steps = [after - before for before, after in pairwise(taken)]
    assert all(step >= 1 for step in steps)
    assert max(steps, default=0) - min(steps, default=0) <= 1
    assert not taken or (taken[0] == 0 and taken[-1] >= num_cases - ceil(num_cases / len(taken)))


SHARED = Split(TRAIN, HELD_OUT, 18, 2, shares=(Share("first", 0.9, 8), Share("second", 0.1, 2)))


def test_a_mixture_draws_from_its_parts_by_weight(run, characters, decoded):
    run = change_values(
        run, {"training.max_steps": 10, "training.micro_batch": 2, "training.accumulation": 1}
    )
    ready = prepare(run, SHARED, characters)
    of_second = [
        row
        for row in ready.rows
        if "\ntrain 8\n" in decoded(row.input_ids) or "\ntrain 9\n" in decoded(row.input_ids)
    ]
    assert len(of_second) == 2
    assert [(part.name, part.kept, part.drawn) for part in ready.audit.parts] == [
        ("first", 8, 18),
        ("second", 2, 2),
    ]
    assert ready.audit.sentence().endswith(
        "; first 18/20 draws of 8 cases (2.2 x), second 2/20 draws of 2 cases (1.0 x)"
    )


def test_a_weight_that_draws_nothing_is_refused(run, characters):
    run = change_values(
        run, {"training.max_steps": 1, "training.micro_batch": 2, "training.accumulation": 1}
    )
    with pytest.raises(
        DataError,
        match=r"second with weight 0.1 gives none of the 2 cases of 1 steps; raise its weight",
    ):
        prepare(run, SHARED, characters)


def test_a_part_where_nothing_fits_is_named(run, characters):
    run = change_values(run, {"training.max_seq_tokens": 280, "dataset.overlong": Overlong.drop})
    long = tuple(Case(f"long {number}", "Think. " * 60, "a") for number in range(2))
    with pytest.raises(
        DataError,
        match=(
            r"every one of the 2 second training cases is longer than training.max_seq_tokens=280"
        ),
    ):
        prepare(run, Split((*TRAIN[:8], *long), HELD_OUT, 16, 0, SHARED.shares), characters)


def paired_cases(singles: int, pairs: int) -> list[Case]:
    names = [f"pair {number}" for number in range(pairs) for _ in "12"]
    alone = [Case(f"single {number}", "r", "a") for number in range(singles)]
    return alone + [
        Case(f"{name} {place}", "r", "a", {"pair": name}) for place, name in enumerate(names)
    ]


@given(st.integers(0, 12), st.integers(0, 8), st.integers(0, 30), st.randoms())
def test_so_many_cases_are_picked_in_their_order_and_pairs_stay_whole(
    singles, pairs, count, shuffler
):
    cases = paired_cases(singles, pairs)
    shuffler.shuffle(cases)
    picked = pick_evenly(cases, count)
    assert len(picked) == min(count, len(cases))
    places = [cases.index(case) for case in picked]
    assert places == sorted(set(places))
    named = Counter(case.extra.get("pair") for case in picked)
    halves = [name for name, number in named.items() if name and number == 1]
    # A pair is broken only where no single case is left to fill the last place.
    assert len(halves) <= 1
    if halves:
        assert named[None] == singles


@given(st.integers(1, 40), st.integers(1, 40))
def test_without_pairs_the_distances_are_even(number, count):
    cases = paired_cases(number, 0)
    count = min(count, number)
    expected = [cases[index * number // count] for index in range(count)]
    assert pick_evenly(cases, count) == expected
