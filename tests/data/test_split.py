import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medexp.data.cases import Case
from medexp.data.split import Sides, Split, divide_cases, name_groups, split_cases
from medexp.errors import DataError

QUESTIONS = st.sampled_from(["a", "A", " a ", "b", "B b", "b  B", "c", "d", "e", "f", "g", "h"])
CONDITIONS = st.sampled_from(["flu", "cold", "gout", "acne"])
DRAWN = st.builds(
    lambda question, condition: Case(question, "r", "a", {"condition": condition}),
    QUESTIONS,
    CONDITIONS,
)
TWO_OF_EACH = [
    Case(f"{condition} {number}", "r", "a", {"condition": condition})
    for condition in ("flu", "cold", "gout", "acne")
    for number in "12"
]
CASES = st.lists(DRAWN, max_size=20).flatmap(lambda drawn: st.permutations(drawn + TWO_OF_EACH))
# At most 16 questions, of which at most two groups (8 + 2 x 2 questions) are held out: something is
# always left to train on.
SETTINGS = {
    "held_out": st.integers(1, 4),
    "max_cases": st.none() | st.integers(13, 17),
    "split_seed": st.integers(0, 5),
}


def some_cases(count: int, conditions: int = 1) -> list[Case]:
    return [
        Case(f"question {number}", "r", "a", {"condition": f"c{number % conditions}"})
        for number in range(count)
    ]


BY_CONDITION_OR_NOT = st.sampled_from([None, "condition"])


@st.composite
def made_splits(draw, group_by=BY_CONDITION_OR_NOT):
    """(cases, settings) of a split that can be made."""
    return draw(CASES), {name: draw(values) for name, values in SETTINGS.items()} | {
        "group_by": draw(group_by)
    }


def of(dataset, cases, settings) -> Split:
    return split_cases(cases, dataset(**settings))


@given(made_splits())
def test_no_question_is_on_both_sides_or_twice_on_one(dataset, made):
    sides = of(dataset, *made)
    keys = Counter(case.key for case in sides.train + sides.held_out)
    assert max(keys.values()) == 1


@given(made_splits(group_by=st.just("condition")))
def test_no_group_is_on_both_sides(dataset, made):
    sides = of(dataset, *made)
    assert not {case.extra["condition"] for case in sides.train} & {
        case.extra["condition"] for case in sides.held_out
    }


@given(made_splits(group_by=st.just("condition")))
def test_held_out_groups_are_whole(dataset, made):
    cases, settings = made
    sides = of(dataset, cases, settings)
    whole = of(dataset, cases, settings | {"max_cases": None})
    for condition in {case.extra["condition"] for case in sides.held_out}:
        everywhere = [
            case for case in whole.train + whole.held_out if case.extra["condition"] == condition
        ]
        assert [
            case for case in sides.held_out if case.extra["condition"] == condition
        ] == everywhere


@given(made_splits())
def test_nothing_is_lost(dataset, made):
    cases, settings = made
    sides = of(dataset, cases, settings | {"max_cases": None})
    assert {case.key for case in sides.train + sides.held_out} == {case.key for case in cases}
    assert sides.records == len(cases)
    assert len(sides.train) + len(sides.held_out) + sides.duplicates == len(cases)


@given(made_splits())
def test_the_first_of_equal_questions_is_kept(dataset, made):
    cases, settings = made
    sides = of(dataset, cases, settings)
    firsts = {case.key: case for case in reversed(cases)}
    assert all(case is firsts[case.key] for case in sides.train + sides.held_out)


@given(made_splits())
def test_the_same_seed_makes_the_same_split(dataset, made):
    assert of(dataset, *made) == of(dataset, *made)


@given(made_splits())
def test_sizes_are_what_was_asked(dataset, made):
    _, settings = made
    sides = of(dataset, *made)
    assert len(sides.held_out) >= settings["held_out"]
    if settings["group_by"] is None:
        assert len(sides.held_out) == settings["held_out"]
    if settings["max_cases"] is not None:
        assert len(sides.train) + len(sides.held_out) <= settings["max_cases"]
    assert sides.train


def test_another_seed_makes_another_split(dataset):
    cases = some_cases(40)
    splits = {
        tuple(
            case.key for case in split_cases(cases, dataset(held_out=10, split_seed=seed)).held_out
        )
        for seed in range(10)
    }
    assert len(splits) == 10


def test_more_training_cases_do_not_change_what_is_held_out(dataset):
    cases = some_cases(40, conditions=9)
    small = split_cases(cases, dataset(held_out=6, max_cases=12, group_by="condition"))
    large = split_cases(cases, dataset(held_out=6, group_by="condition"))
    assert small.held_out == large.held_out
    assert len(small.train) + len(small.held_out) == 12
    assert small.train == large.train[: len(small.train)]


@pytest.mark.parametrize(("count", "held_out"), [(5, 5), (5, 6), (0, 1), (1, 1)])
def test_too_few_cases_say_how_many_there_are(dataset, count, held_out):
    with pytest.raises(
        DataError,
        match=f"has {count} different questions and dataset.held_out={held_out} leaves none",
    ):
        split_cases(some_cases(count), dataset(held_out=held_out))


def test_one_group_cannot_be_split(dataset):
    with pytest.raises(DataError, match=r"lower dataset.held_out or add cases"):
        split_cases(some_cases(20, conditions=1), dataset(held_out=1, group_by="condition"))


def test_an_unknown_group_column_lists_the_columns(dataset):
    with pytest.raises(
        DataError,
        match=(
            r"dataset.group_by=ward is not a column of every record; there are condition. Set"
            r" dataset.group_by=null"
        ),
    ):
        split_cases(some_cases(5), dataset(group_by="ward"))


def make_stratified(counts: dict[tuple[str, str], int]) -> list[Case]:
    return [
        Case(
            f"{specialty} {urgency} {group} {case}",
            "",
            "a",
            {
                "specialty": specialty,
                "urgency": urgency,
                "condition": f"{specialty}{urgency}{group}",
            },
        )
        for (specialty, urgency), groups in counts.items()
        for group in range(groups)
        for case in range(2)
    ]


def test_without_new_keys_the_split_is_what_it_was(dataset):
    cases = make_stratified({("a", "x"): 20, ("b", "y"): 20})
    split = split_cases(cases, dataset(held_out=10, group_by="condition"))
    groups = [cases[place : place + 2] for place in range(0, len(cases), 2)]
    random.Random(3407).shuffle(groups)
    assert split.held_out == tuple(case for group in groups[:5] for case in group)
    assert split.train == tuple(case for group in groups[5:] for case in group)
    assert split.validation == ()
    assert split.with_test_part_closed() is split


def test_validation_takes_whole_groups_after_the_test_part_and_leaves_it_as_it_is(dataset):
    cases = make_stratified({("a", "x"): 20})
    plain = split_cases(cases, dataset(held_out=9, group_by="condition"))
    parted = split_cases(cases, dataset(held_out=9, validation=5, group_by="condition"))
    assert parted.held_out == plain.held_out
    assert (len(parted.held_out), len(parted.validation), len(parted.train)) == (10, 6, 24)
    names = [
        {case.extra["condition"] for case in part}
        for part in (parted.train, parted.held_out, parted.validation)
    ]
    assert sum(map(len, names)) == len(names[0] | names[1] | names[2])
    closed = parted.with_test_part_closed()
    assert closed.held_out == parted.validation
    assert closed.train == parted.train


@pytest.mark.parametrize("held_out", [8, 16, 32, 64])
def test_strata_are_in_the_test_part_as_they_are_in_all_cases(dataset, held_out):
    sizes = {"a": 40, "b": 20, "c": 10, "d": 10}
    urgencies = ("x", "y")
    cases = make_stratified(
        {(name, urgency): size for name, size in sizes.items() for urgency in urgencies}
    )
    made = dataset(
        held_out=held_out, validation=held_out, group_by="condition",
        stratify_by=["specialty", "urgency"],
    )  # fmt: skip
    split = split_cases(random.Random(1).sample(cases, len(cases)), made)
    for part in (split.held_out, split.validation):
        groups = len(part) / 2
        for name, size in sizes.items():
            share = sum(case.extra["specialty"] == name for case in part) / 2
            assert abs(share - groups * size / 80) <= 1.5
        urgent = sum(case.extra["urgency"] == "x" for case in part) / 2
        assert abs(urgent - groups / 2) <= 2


def test_a_larger_stratified_test_part_holds_a_smaller_one(dataset):
    cases = make_stratified({("a", "x"): 20, ("b", "y"): 7})
    parts = [
        split_cases(
            cases, dataset(held_out=held_out, group_by="condition", stratify_by=["specialty"])
        ).held_out
        for held_out in (8, 20)
    ]
    assert parts[1][:8] == parts[0]


def test_a_column_to_stratify_by_that_is_not_there_is_no_stratum(dataset):
    cases = make_stratified({("a", "x"): 10})
    split = split_cases(cases, dataset(held_out=4, stratify_by=["ward"]))
    assert len(split.held_out) == 4


def test_too_few_cases_for_both_parts_are_said_with_both(dataset):
    cases = make_stratified({("a", "x"): 4})
    with pytest.raises(DataError, match=r"held_out=4 with dataset\.validation=4 leaves none"):
        split_cases(cases, dataset(held_out=4, validation=4))


def test_groups_have_the_name_of_the_first_column_they_have():
    patient, condition, none = (
        Case("q1", "", "a", {"patient": "p1", "condition": "c"}),
        Case("q2", "", "a", {"condition": "c"}),
        Case("q3", "", "a"),
    )
    assert name_groups([patient, condition, none], ["patient", "condition"]) == [
        "patient=p1",
        "condition=c",
        none.digest,
    ]


NAMES = st.lists(st.text("abcdefgh", min_size=1, max_size=6), unique=True, min_size=30, max_size=60)


def named_cases(names: list[str]) -> list[Case]:
    return [
        Case(f"{name} {number}", "r", "a", {"condition": name}) for name in names for number in "12"
    ]


def find_sides(split: Split) -> dict[str, str]:
    return {
        case.extra["condition"]: side
        for side in ("train", "validation", "held_out")
        for case in getattr(split, side)
    }


@given(NAMES, st.integers(10, 29), st.integers(0, 3), st.randoms())
def test_no_group_changes_sides_as_a_set_grows(dataset, names, fewer, seed, shuffler):
    made = dataset(
        group_by="condition",
        test_share=0.3,
        validation_share=0.2,
        held_out=1000,
        validation=1000,
        split_seed=seed,
    )
    cases = named_cases(names)
    shuffler.shuffle(cases)
    small = divide_cases(
        named_cases(names[:fewer]), "condition", 1000, seed, 1000, (), Sides.of(made)
    )
    large = divide_cases(cases, "condition", 1000, seed + 1, 1000, (), Sides.of(made))
    for part in ("train", "validation", "test"):
        assert {case.key for case in getattr(small, part)} <= {
            case.key for case in getattr(large, part)
        }


def test_the_shares_are_those_that_were_asked_for():
    sides = Counter(Sides(0.3, 0.1).find(f"condition {number}") for number in range(10_000))
    assert sides["test"] == pytest.approx(3000, abs=150)
    assert sides["validation"] == pytest.approx(1000, abs=100)


def test_a_side_is_what_it_was_in_the_first_release():
    # Written down: runs that are compared over years stand on it.
    names = ("sepsis", "gout", "malaria", "croup", "anaphylaxis", "delirium")
    assert [Sides(0.3, 0.1).find(name) for name in names] == [
        "validation",
        "test",
        "train",
        "test",
        "test",
        "test",
    ]


def test_what_is_not_asked_for_of_a_side_is_reserved_and_not_trained_on(dataset):
    cases = some_cases(200, conditions=100)
    settings = {"group_by": "condition", "test_share": 0.3, "validation_share": 0.1}
    some = split_cases(cases, dataset(held_out=10, **settings))
    more = split_cases(cases, dataset(held_out=20, validation=4, **settings))
    assert some.train == more.train
    assert {case.key for case in some.held_out} < {case.key for case in more.held_out}
    for split in (some, more):
        held_out = len(split.held_out) + len(split.validation)
        assert len(split.train) + held_out + split.reserved == 200
        assert not split.duplicates
        assert split.reserved > 0


def test_few_cases_of_a_side_are_of_many_groups_and_pairs_stay_together(dataset):
    cases = [
        Case(f"{condition} {number}", "r", "a", {"condition": condition} | pair)
        for condition in (f"condition {number}" for number in range(60))
        for number, pair in enumerate(({"pair": condition}, {"pair": condition}, {}, {}))
    ]
    settings = {"group_by": "condition", "test_share": 0.3}
    few = split_cases(cases, dataset(held_out=10, **settings)).held_out
    more = split_cases(cases, dataset(held_out=40, **settings)).held_out
    assert {case.key for case in few} < {case.key for case in more}
    groups = Counter(case.extra["condition"] for case in few)
    assert set(groups.values()) == {1}
    assert not any("pair" in case.extra for case in few)
    most = split_cases(cases, dataset(held_out=55, **settings)).held_out
    pairs = Counter(case.extra["pair"] for case in most if "pair" in case.extra)
    assert set(pairs.values()) == {2}


@pytest.mark.parametrize("key", ["held_out", "validation"])
def test_more_than_a_side_holds_is_refused_with_what_it_holds(dataset, key):
    cases = some_cases(200, conditions=100)
    settings = {"group_by": "condition", "test_share": 0.3, "validation_share": 0.1}
    with pytest.raises(DataError, match=rf"dataset.{key}=150 is more than the \d+ cases that"):
        split_cases(cases, dataset(**settings | {key: 150}))


def test_cases_without_groups_have_sides_by_their_questions(dataset):
    cases = some_cases(100)
    split = split_cases(cases, dataset(held_out=5, test_share=0.3))
    again = split_cases(cases[::-1], dataset(held_out=5, test_share=0.3, split_seed=1))
    assert {case.key for case in split.train} == {case.key for case in again.train}
