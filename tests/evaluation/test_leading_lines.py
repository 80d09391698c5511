"""Three lines lead every report, harm decides, and the worst case comes first."""

import pytest

from medexp.evaluation.leading_lines import (
    Tone,
    is_red,
    list_harmful_cases,
    make_leading_lines,
)
from medexp.evaluation.measure_table import BY_KEY
from medexp.evaluation.scorecard import Scorecard, _add_verdicts, _compare_answers
from medexp.evaluation.scored_answers import HarmfulPassage, ScoredAnswer

PRIMARY = ("must_say_coverage", "diagnosis_likelihood")


def scored(**values: float) -> ScoredAnswer:
    count = int(values.get("must_not_say", 0))
    harms = tuple(
        HarmfulPassage("must_not_say", f"rule {number}", f"Do harm {number}.")
        for number in range(count)
    )
    return ScoredAnswer(values, (), (), harms)


def make_card(
    before: list[ScoredAnswer],
    after: list[ScoredAnswer],
    base_best: list[ScoredAnswer] | None = None,
    primary: tuple[str, ...] = PRIMARY,
) -> Scorecard:
    bases = {"base": before} | ({"base_best": base_best} if base_best else {})
    groups = [str(place) for place in range(len(before))]
    lines = [_compare_answers(measure, bases, after, groups) for measure in BY_KEY.values()]
    questions = tuple(f"question {place}" for place in range(len(before)))
    return Scorecard(
        _add_verdicts(lines, primary),
        tuple(before),
        tuple(after),
        tuple(base_best or ()),
        questions,
        primary,
    )


def test_form_gains_and_one_harmful_answer_make_a_red_run():
    before = [scored(structure=0.0, ended=1.0, must_say_coverage=0.5, must_not_say=0.0)] * 20
    harmful = scored(structure=1.0, ended=1.0, must_say_coverage=0.5, must_not_say=1.0)
    harmless = scored(structure=1.0, ended=1.0, must_say_coverage=0.5, must_not_say=0.0)
    card = make_card(before, [harmless] * 19 + [harmful])
    form, medicine, harm = make_leading_lines(card)
    assert [line.name for line in (form, medicine, harm)] == ["FORM", "MEDICINE", "HARM"]
    assert form.text.startswith("four sections (0 to 1) 0 -> 1")
    assert form.tone is Tone.plain
    assert "no detectable change" in medicine.text
    assert "not measured: diagnosis among eight" in medicine.text
    assert "improved" not in form.text + medicine.text
    assert harm.text == "harmful advice 0 -> 0.05: worse, 1 case newly harmful"
    assert harm.tone is Tone.bad
    assert is_red(card)


def test_nothing_is_green_beside_harm():
    before = [scored(must_say_coverage=0.0, must_not_say=0.0)] * 12
    better = scored(must_say_coverage=1.0, must_not_say=0.0)
    harmful = scored(must_say_coverage=1.0, must_not_say=1.0)
    assert make_leading_lines(make_card(before, [better] * 12))[1].tone is Tone.good
    _, medicine, harm = make_leading_lines(make_card(before, [better] * 11 + [harmful]))
    assert (medicine.tone, harm.tone) == (Tone.plain, Tone.bad)
    assert "improved" in medicine.text


def test_the_worst_case_comes_first_and_new_ones_before_old_ones():
    counts = [(0, 1), (2, 5), (0, 3), (0, 0), (4, 1)]
    card = make_card(
        [scored(must_not_say=float(early)) for early, _ in counts],
        [scored(must_not_say=float(late)) for _, late in counts],
    )
    cases = list_harmful_cases(card)
    assert [(case.question, case.is_new) for case in cases] == [
        ("question 2", True),
        ("question 0", True),
        ("question 1", False),
        ("question 4", False),
    ]
    assert [passage.text for passage in cases[0].passages] == [
        "Do harm 0.",
        "Do harm 1.",
        "Do harm 2.",
    ]


def test_without_harm_nothing_is_red():
    card = make_card([scored(must_not_say=0.0)] * 9, [scored(must_not_say=0.0)] * 9)
    assert not is_red(card)
    assert list_harmful_cases(card) == []
    assert make_leading_lines(card)[2].text == ("harmful advice 0 -> 0: no detectable change")


def test_what_was_not_measured_is_said_and_not_passed_over():
    card = make_card([scored(structure=1.0)] * 3, [scored(structure=1.0)] * 3)
    _, medicine, harm = make_leading_lines(card)
    assert medicine.text == "not measured (must be said, diagnosis among eight)"
    assert (harm.text, harm.tone) == ("not measured", Tone.plain)


@pytest.mark.parametrize(("early", "late", "tone"), [(0, 1, Tone.good), (1, 0, Tone.bad)])
def test_medicine_is_good_or_bad_by_its_primary_measures(early, late, tone):
    card = make_card(
        [scored(must_say_coverage=float(early))] * 12, [scored(must_say_coverage=float(late))] * 12
    )
    medicine = make_leading_lines(card)[1]
    assert medicine.tone is tone
    assert "n 12" in medicine.text


def test_a_measure_that_is_not_primary_is_described_alone():
    card = make_card([scored(structure=0.0)] * 12, [scored(structure=1.0)] * 12)
    assert card.find_result("structure").verdict == "higher"


def test_the_tuned_model_is_held_against_the_better_base():
    weak, strong = scored(must_say_coverage=0.1), scored(must_say_coverage=0.6)
    card = make_card([weak] * 12, [strong] * 12, base_best=[strong] * 12)
    line = card.find_result("must_say_coverage")
    assert (line.before, line.after, line.against) == (0.6, 0.6, "base_best")
    assert line.bases == pytest.approx({"base": 0.1, "base_best": 0.6})
    assert line.verdict == "no detectable change"
    alone = make_card([weak] * 12, [strong] * 12)
    assert alone.find_result("must_say_coverage").verdict == "improved"
    harmless, harmful = scored(must_not_say=0.0), scored(must_not_say=1.0)
    card = make_card([harmful] * 8, [harmful] * 8, base_best=[harmless] * 8)
    assert is_red(card)
    assert all(case.is_new for case in list_harmful_cases(card))


def test_what_a_run_could_have_found_stands_beside_nothing_found():
    before = [scored(must_say_coverage=place % 3 / 2) for place in range(20)]
    after = [scored(must_say_coverage=place % 2 / 1) for place in range(20)]
    card = make_card(before, after)
    assert "could have found 0." in make_leading_lines(card)[1].text
