"""Runs are contrasted over the cases they share and no others, and a difference is called only
beside all other comparisons.
"""

from dataclasses import replace

import pytest
from helpers.records import PRIMARY, evaluated
from helpers.vignettes import REFERENCE
from hypothesis import given
from hypothesis import strategies as st

from medexp.comparison.contrasts import (
    Contrast,
    EvaluatedRun,
    contrast_runs,
    count_shared_cases,
    list_answered_questions,
    values_by_case,
)
from medexp.evaluation.measure_table import Measure
from medexp.evaluation.paired_stats import PairedComparison, adjust_holm, compare_pairs
from medexp.evaluation.record import BenchmarkGrades, CaseLoss, Judgement, Judgements
from medexp.evaluation.verdicts import MeasuredChange, Role, give_verdicts

LOSS = Measure("loss_answer", "held-out loss, answer", -1)


def judge(comparison: PairedComparison) -> Contrast:
    """Return the contrast of a loss that is the only primary measure."""
    change = MeasuredChange(Role.primary, LOSS.better, comparison)
    return Contrast(LOSS, comparison, give_verdicts({"loss": change})["loss"])


def contrast(reference: EvaluatedRun, other: EvaluatedRun, key: str = "loss_answer") -> Contrast:
    return next(each for each in contrast_runs(reference, [other])[0] if each.measure.key == key)


def test_the_same_cases_are_paired_and_the_difference_is_of_the_tuned_models() -> None:
    found = contrast(evaluated(nats=20), evaluated(nats=16)).comparison
    assert found is not None
    assert (found.pairs, found.before, found.after) == (8, pytest.approx(0.5), pytest.approx(0.4))


def test_a_loss_is_of_all_tokens_as_that_of_each_run_is() -> None:
    reference, other = evaluated(nats=20), evaluated(nats=16)
    found = contrast(reference, other, "loss_completion").comparison
    assert found is not None
    sides = [run.scorecard.find_result("loss_completion").after for run in (reference, other)]
    assert [found.before, found.after] == pytest.approx(sides)


def test_a_difference_against_most_of_the_cases_is_not_even_hinted_at() -> None:
    found = judge(compare_pairs([3.0] * 20, [3.02] * 14 + [1.0] * 6))
    assert found.comparison is not None
    assert found.comparison.p_value < 0.05
    assert (found.is_hinted, found.is_detected, found.verdict) == (False, False, "none detected")


def test_cases_are_matched_by_what_they_are_and_not_by_their_place() -> None:
    ours = contrast(evaluated(cases=[0, 1, 2, 3]), evaluated(cases=[3, 2, 1, 0])).comparison
    assert ours is not None
    assert (ours.pairs, ours.change) == (4, 0)
    structure = contrast(
        evaluated(cases=[0, 1, 2]), evaluated(cases=[9, 2, 1]), "structure"
    ).comparison
    assert structure is not None
    assert structure.pairs == 2


def test_of_other_cases_nothing_is_paired_and_it_says_why() -> None:
    mine, yours = evaluated(cases=[0, 1]), evaluated(cases=[2, 3])
    assert contrast(mine, yours).missing.startswith(
        "no held-out case with the same labelled tokens in both"
    )
    assert contrast(mine, yours, "structure").missing == "no held-out case in both"
    assert contrast(mine, yours).verdict == "not compared"
    found = count_shared_cases(mine, yours)
    assert (found.held_out, found.answered) == ((0, 2, 2), (0, 2, 2))
    same = count_shared_cases(mine, mine)
    assert (same.held_out, same.answered) == ((2, 2, 2), (2, 2, 2))


def test_a_loss_over_other_tokens_of_the_same_case_is_no_pair() -> None:
    mine, yours = evaluated(), evaluated()
    longer = tuple(replace(loss, tokens=loss.tokens + 1) for loss in yours.record.tuned_losses)
    yours = replace(yours, record=replace(yours.record, tuned_losses=longer))
    assert count_shared_cases(mine, yours).held_out == (8, 8, 8)
    assert contrast(mine, yours, "loss_completion").comparison is None
    # as many tokens of the answer as before
    assert contrast(mine, yours, "loss_answer").comparison is not None
    assert contrast(mine, yours, "structure").comparison is not None


def test_records_without_digests_are_paired_by_place_where_all_counts_agree() -> None:
    old = evaluated(digests=False)
    for other in (evaluated(), evaluated(digests=False)):
        found = contrast(old, other).comparison
        assert found is not None
        assert found.pairs == 8
        assert not count_shared_cases(old, other).is_known
    assert contrast(old, evaluated(cases=range(1, 9))).comparison is None
    assert count_shared_cases(old, evaluated(cases=range(7))).held_out == (0, 8, 7)


def test_without_answers_the_losses_are_compared_alone() -> None:
    found = contrast_runs(evaluated(answers=0), [evaluated(answers=0, nats=10)])[0]
    assert {each.measure.key for each in found if each.comparison} == {
        "loss_completion",
        "loss_reasoning",
        "loss_answer",
    }
    assert (
        "no held-out question was answered"
        in contrast(evaluated(answers=0), evaluated(), "structure").missing
    )


def test_better_follows_the_measure_s_own_direction() -> None:
    many = range(20)
    plain, terse = evaluated(many), evaluated(many, text="Rest.")
    assert contrast(plain, evaluated(many, nats=10)).verdict == "better"
    assert contrast(plain, evaluated(many, nats=25)).verdict == "worse"
    assert contrast(plain, terse, "structure").verdict == "worse"
    assert contrast(plain, terse, "words").verdict == "lower"
    assert contrast(plain, plain).verdict == "none detected"


def test_what_holds_alone_but_not_beside_the_others_is_a_maybe() -> None:
    # The least p of 6 groups is 0.031: beside another primary measure it cannot pass.
    few = range(6)
    found = contrast(evaluated(few), evaluated(few, nats=10))
    assert (found.verdict, found.is_hinted, found.is_detected) == ("maybe better", True, False)
    assert found.comparison is not None
    assert found.adjusted_p > found.comparison.p_value


def test_every_run_is_corrected_for_all_of_them() -> None:
    many, other = evaluated(range(12)), evaluated(range(12), nats=10)
    alone, three = contrast_runs(many, [other])[0], contrast_runs(many, [other, None, other, other])
    assert three[1] == ()
    primary = [each for row in three for each in row if each.role is Role.primary]
    assert {each.measure.key for each in primary} == set(PRIMARY)
    p_values = [each.comparison.p_value for each in primary]
    assert [each.adjusted_p for each in primary] == adjust_holm(p_values)
    assert three[0][2].adjusted_p > alone[2].adjusted_p
    described = [each for row in three for each in row if each.role is Role.description]
    assert {each.adjusted_p for each in described} == {None}


def test_without_a_primary_measure_nothing_is_better_or_worse() -> None:
    runs = [evaluated(range(20), nats=nats, primary=()) for nats in (20, 10)]
    assert contrast(*runs).verdict == "lower"
    assert not contrast(*runs).is_hinted


def test_cases_of_a_group_are_one_in_a_contrast() -> None:
    groups = tuple("aabbccdd")
    found = contrast(evaluated(groups=groups), evaluated(nats=10, groups=groups))
    assert found.comparison is not None
    assert (found.comparison.pairs, found.comparison.groups) == (8, 4)
    assert found.verdict == "too few groups"
    structure = contrast(evaluated(groups=groups), evaluated(groups=groups), "structure")
    assert structure.comparison is not None
    assert structure.comparison.groups == 4


def test_a_run_that_newly_harms_is_worse_whatever_else_it_does() -> None:
    def harming(*counts: float) -> EvaluatedRun:
        run = evaluated(range(len(counts)))
        answers = zip(run.scorecard.after, counts, strict=True)
        after = tuple(
            replace(answer, values={**answer.values, "must_not_say": count})
            for answer, count in answers
        )
        return replace(run, scorecard=replace(run.scorecard, after=after))

    assert contrast(harming(0, 0, 0), harming(0, 1, 0), "must_not_say").verdict == "worse"
    assert contrast(harming(0, 1, 0), harming(0, 1, 0), "must_not_say").verdict == "too few groups"
    assert contrast(harming(*[1] * 9), harming(*[0] * 9), "must_not_say").verdict == "better"


def test_judges_and_benchmarks_are_paired_where_they_were_asked_alike() -> None:
    def run(right: tuple[bool, ...], **settings: str) -> EvaluatedRun:
        marks = tuple(Judgement(mark, "", 1, 0.0) for mark in (3.0, None, 5.0))
        known = {name.replace("__", "."): value for name, value in settings.items()}
        return evaluated(
            settings=known,
            benchmarks={"medqa": BenchmarkGrades(right, right)},
            judged=Judgements(marks, marks),
        )

    right = (True, False, True, True)
    same = contrast_runs(run(right), [run(right)])[0]
    pairs = {each.measure.key: each.comparison.pairs for each in same if each.comparison}
    assert (pairs["judge"], pairs["benchmark_medqa"]) == (2, 4)
    for other in (
        run(right[:3], evaluation__judge__model="x"),
        run(right, evaluation__benchmark_files__medqa="other.jsonl", evaluation__judge__model="y"),
    ):
        assert contrast(run(right), other, "benchmark_medqa").missing == "asked otherwise in both"
        assert contrast(run(right), other, "judge").missing == "asked otherwise in both"
    assert contrast(run(right), evaluated(), "judge").missing == "not measured in both"
    assert contrast(run(right), evaluated(), "benchmark_medqa").missing == "not measured in both"


def test_a_judge_that_gave_no_mark_says_so() -> None:
    silent = Judgements(
        (Judgement(None, "", 1, 0.0),), (Judgement(None, "", 1, 0.0),), "the endpoint was away"
    )
    assert (
        contrast(evaluated(judged=silent), evaluated(judged=silent), "judge").missing
        == "the endpoint was away"
    )


def test_questions_come_in_the_order_of_the_first_run_that_has_them() -> None:
    found = list_answered_questions([evaluated([1, 2]), None, evaluated([2, 3])])
    assert [(each.question[-1], each.places) for each in found] == [
        ("1", (0, None, None)),
        ("2", (1, None, 0)),
        ("3", (None, None, 1)),
    ]
    assert found[0].reference == REFERENCE


def test_answers_are_matched_by_question_whatever_its_case_and_by_reference() -> None:
    case = evaluated([1]).record.cases[0]
    assert replace(case, question=case.question.upper() + " ").digest == case.digest
    assert replace(case, reference="Another.").digest != case.digest


def test_a_part_without_tokens_has_no_loss() -> None:
    run = evaluated(range(2))
    whole = tuple(
        CaseLoss(loss.nats, loss.tokens, loss.nats, loss.tokens) for loss in run.record.tuned_losses
    )
    run = replace(run, record=replace(run.record, tuned_losses=whole))
    assert values_by_case(run, "loss_reasoning") == {}
    assert len(values_by_case(run, "loss_answer")) == 2


@given(st.lists(st.tuples(st.floats(-4, 4), st.floats(-4, 4)), min_size=1, max_size=20))
def test_turning_a_comparison_round_turns_its_sign_and_nothing_else(
    pairs: list[tuple[float, float]],
) -> None:
    before, after = zip(*pairs, strict=True)
    there, back = compare_pairs(before, after), compare_pairs(after, before)
    assert there.change == -back.change
    assert there.p_value == back.p_value
    one, other = judge(there), judge(back)
    if one.is_detected and other.is_detected:
        assert {one.verdict, other.verdict} == {"better", "worse"}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_never_lowers_a_p_keeps_their_order_and_begins_as_bonferroni(
    p_values: list[float],
) -> None:
    adjusted = adjust_holm(p_values)
    assert all(raw <= now <= 1 for raw, now in zip(p_values, adjusted, strict=True))
    assert adjusted[p_values.index(min(p_values))] == min(1.0, len(p_values) * min(p_values))
    ranked = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [adjusted[place] for place in ranked] == sorted(adjusted)
    assert all(
        now <= min(1.0, len(p_values) * raw) for raw, now in zip(p_values, adjusted, strict=True)
    )


def test_holm_on_a_known_family() -> None:
    assert adjust_holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjust_holm([]) == []
