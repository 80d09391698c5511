"""Only primary and harm measures give a verdict; harm is called early, gains late."""

import random
from dataclasses import replace

import pytest

from medexp.evaluation.paired_stats import compare_pairs
from medexp.evaluation.verdicts import (
    MeasuredChange,
    Role,
    find_newly_harmful,
    give_verdicts,
)


def change_of(
    role: Role, before: list[float], after: list[float], better: int = 1
) -> MeasuredChange:
    return MeasuredChange(role, better, compare_pairs(before, after), before, after)


def shift(
    count: int, by: float, seed: int = 1, spread: float = 1
) -> tuple[list[float], list[float]]:
    chance = random.Random(seed)
    return [0.0] * count, [chance.gauss(by, spread) for _ in range(count)]


def test_a_description_never_gives_a_verdict():
    before, after = shift(40, 2)
    verdicts = give_verdicts(
        {
            "a": change_of(Role.description, before, after),
            "b": change_of(Role.description, after, before),
            "c": change_of(Role.description, before, before),
        }
    )
    assert [verdicts[key].word for key in "abc"] == ["higher", "lower", "same"]


@pytest.mark.parametrize(("better", "word"), [(1, "improved"), (-1, "worse")])
def test_a_primary_measure_follows_its_own_direction(better, word):
    verdicts = give_verdicts({"a": change_of(Role.primary, *shift(40, 2), better=better)})
    assert verdicts["a"].word == word


def test_primary_measures_are_corrected_for_each_other_and_for_no_other():
    # Six groups of one sign: p is 0.031 alone, 0.063 beside another primary measure.
    up = ([0.0] * 6, [1.0] * 6)
    flat = ([0.0] * 6, [1.0, -1.0] * 3)
    others = {f"d{place}": change_of(Role.description, *up) for place in range(20)}
    alone = give_verdicts({"a": change_of(Role.primary, *up), **others})
    assert (alone["a"].word, alone["a"].adjusted_p) == ("improved", 2 / 64)
    both = give_verdicts({"a": change_of(Role.primary, *up), "b": change_of(Role.primary, *flat)})
    assert both["a"].adjusted_p == 4 / 64
    assert both["a"].word == "too few groups"


def test_enough_groups_without_a_change_are_no_detectable_change():
    verdicts = give_verdicts({"a": change_of(Role.primary, *shift(20, 0))})
    assert verdicts["a"].word == "no detectable change"


def test_one_newly_harmful_case_of_many_is_a_harm():
    before, after = [0.0] * 30, [0.0] * 29 + [1.0]
    verdicts = give_verdicts({"a": change_of(Role.harm, before, after, better=-1)})
    assert (verdicts["a"].word, verdicts["a"].newly_harmful) == ("worse", 1)
    assert verdicts["a"].is_alarm


def test_a_harm_that_rules_find_needs_more_than_one_case():
    before, after = [0.0] * 30, [0.0] * 29 + [1.0]
    change = replace(change_of(Role.harm, before, after, better=-1), one_case_is_enough=False)
    verdict = give_verdicts({"a": change})["a"]
    assert (verdict.word, verdict.newly_harmful) == ("no detectable change", 1)
    many = [0.0] * 20 + [1.0] * 10
    change = replace(change_of(Role.harm, before, many, better=-1), one_case_is_enough=False)
    assert give_verdicts({"a": change})["a"].is_alarm


def test_harm_that_rises_where_it_was_is_called_one_sided_at_a_tenth():
    before = [1.0] * 8
    # Four of eight rise, none falls: one-sided p is 1/16, two-sided 1/8.
    rising = change_of(Role.harm, before, [2.0] * 4 + [1.0] * 4, better=-1)
    falling = change_of(Role.harm, before, [0.0] * 4 + [1.0] * 4, better=-1)
    verdicts = give_verdicts({"up": rising, "down": falling})
    assert verdicts["up"].word == "worse"
    assert verdicts["up"].adjusted_p == pytest.approx(1 / 16)
    assert verdicts["down"].word == "no detectable change"
    three = change_of(Role.harm, before, [2.0] * 3 + [1.0] * 5, better=-1)
    assert give_verdicts({"a": three})["a"].word == "no detectable change"


def test_less_harm_needs_the_two_sided_test_to_be_called_improved():
    chance = random.Random(4)
    before = [chance.choice([2.0, 3.0]) for _ in range(20)]
    verdicts = give_verdicts({"a": change_of(Role.harm, before, [0.0] * 20, better=-1)})
    assert verdicts["a"].word == "improved"
    assert not verdicts["a"].is_alarm


def test_newly_harmful_cases_are_listed_worst_first():
    assert find_newly_harmful([0, 0, 1, 0], [1, 3, 4, 0], better=-1) == [1, 0]
    assert find_newly_harmful([1, 1, 0.5], [0.5, 0, 0], better=1) == [1, 0]


def test_harm_seldom_rises_by_chance_where_no_case_is_new():
    calls = 0
    for seed in range(100):
        before, after = shift(20, 0, seed)
        calls += give_verdicts(
            {"a": MeasuredChange(Role.harm, -1, compare_pairs(before, after), [1.0], [1.0])}
        )["a"].is_alarm
    assert 2 <= calls <= 18
