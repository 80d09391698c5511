"""A record survives storing; a card is the same again from what was stored; what cannot be measured
is said.
"""

import json
from dataclasses import replace
from math import exp

import pytest
from helpers.vignettes import QUESTION, REFERENCE

from medexp.data.cases import Case
from medexp.errors import DataError
from medexp.evaluation.measure_table import MEASURES
from medexp.evaluation.measures.forced_choice import (
    LIKELIHOOD_MEASURES,
    DiagnosisScores,
    ItemScores,
    KnowledgeScores,
    Likelihoods,
)
from medexp.evaluation.record import Answer, AnsweredCase, CaseLoss, Record, build_record
from medexp.evaluation.scorecard import build_scorecard
from medexp.evaluation.scored_answers import score_answer

GENERIC = "You should rest, drink a lot of water, and see a doctor if it does not get better."


def recorded(
    before: str = GENERIC,
    after: str = f"So.</think>{REFERENCE}",
    question: str = QUESTION,
    reasons: bool = True,
) -> Record:
    cases = [
        Case(f"{question} {number}", "", REFERENCE, {"condition": "tonsillitis"})
        for number in ("a", "b", "c", "d", "e", "f")
    ]
    answers = [
        [Answer(at, text, 9, text is after) for at in range(len(cases))] for text in (before, after)
    ]
    losses = [
        [CaseLoss(nats + at / 7, 10, nats / 3, 4) for at in range(len(cases))]
        for nats in (30.0, 20.0)
    ]
    return build_record(reasons, cases, (answers[0], answers[1]), (losses[0], losses[1]))


def test_a_record_survives_storing_and_scores_the_same_to_the_digit(lexicon):
    record = recorded()
    again = Record.from_json(json.dumps(record.as_json()), "here")
    assert again == record
    assert build_scorecard(again, lexicon).metrics() == build_scorecard(record, lexicon).metrics()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"version": 1}', '{"version": 1, "reasons": true, "cases": [{}]}', "null"],
)
def test_what_is_no_record_is_refused_by_its_place(text):
    with pytest.raises(DataError, match="here is not a stored evaluation"):
        Record.from_json(text, "here")


def test_another_version_is_refused():
    with pytest.raises(DataError, match="another version"):
        Record.from_json(json.dumps(recorded().as_json() | {"version": 0}), "here")


def test_structured_answers_are_told_from_generic_ones(lexicon):
    keys = {
        "loss_completion",
        "loss_reasoning",
        "loss_answer",
        "structure",
        "condition_named",
        "red_flag_recall",
        "ended",
    }
    # Primary for this test, one by one: Holm's correction would ask for more than six cases.
    for key in keys:
        found = build_scorecard(replace(recorded(), primary=(key,)), lexicon)
        assert found.find_result(key).verdict == "improved"
    found = build_scorecard(recorded(), lexicon)
    assert {found.find_result(key).verdict for key in keys} == {"higher", "lower"}
    assert found.find_result("contradictions").verdict == "same"
    assert found.find_result("structure").after == 1


def test_losses_are_over_all_tokens_and_split_by_part(lexicon):
    found, record = build_scorecard(recorded(), lexicon), recorded()
    first = record.base_losses[0]
    assert (first.answer.tokens, first.reasoning.tokens) == (4, 6)
    assert first.answer.nats + first.reasoning.nats == first.nats
    assert found.find_result("loss_answer").before == pytest.approx(2.5)
    assert found.metrics()["eval/perplexity_answer/before"] == exp(
        found.find_result("loss_answer").before
    )


def test_a_loss_has_one_estimand_and_no_verdict_where_tokens_and_cases_disagree(lexicon):
    before = [CaseLoss(2.0 * 10, 10, 10.0, 5)] * 9 + [CaseLoss(2.0 * 400, 400, 400.0, 200)]
    after = [CaseLoss(1.5 * 10, 10, 7.5, 5)] * 9 + [CaseLoss(2.25 * 400, 400, 450.0, 200)]
    found = build_scorecard(build_record(True, [], ([], []), (before, after)), lexicon)
    values = {
        name.rpartition("/")[2]: value
        for name, value in found.metrics().items()
        if name.startswith("eval/loss_completion/")
    }
    assert values["delta"] == pytest.approx(values["after"] - values["before"])
    # one case has most of the tokens: it decides
    assert values["low"] < 0 < values["delta"] < values["high"]
    assert not found.find_result("loss_completion").comparison.is_detected


def test_metrics_are_before_after_and_delta_of_what_was_measured(lexicon):
    values = build_scorecard(recorded(), lexicon).metrics()
    assert (
        values["eval/structure/delta"]
        == values["eval/structure/after"] - values["eval/structure/before"]
    )
    assert not any("embedding" in name for name in values)


def test_empty_answers_are_measured_for_what_they_are(lexicon):
    found = build_scorecard(recorded(before=""), lexicon)
    assert found.before[0].values["structure"] == 0
    # nothing said is not the same as nothing false said
    assert found.before[0].values["unsupported_per_100_words"] is None
    assert found.find_result("unsupported_per_100_words").verdict == "not measured"
    assert "empty" in found.find_result("unsupported_per_100_words").missing


def test_red_flags_and_precautions_are_each_recalled_from_their_own_section(lexicon):
    advice = "Paracetamol 1 g up to four times daily; clarithromycin 500 mg if bacterial"
    warning = "Drooling or stridor: airway obstruction"
    for line, precautions, red_flags in ((advice, 0.5, 0), (warning, 0, 0.5)):
        answer = f"So.</think>- {line}"
        values = build_scorecard(recorded(after=answer), lexicon).after[0].values
        assert (values["precaution_recall"], values["red_flag_recall"]) == (precautions, red_flags)


def test_every_measure_has_the_direction_that_is_better():
    """A copy by hand: a flipped sign turns a verdict round, and nothing else would show it."""
    better, worse, neither = (
        {each.key for each in MEASURES if each.better == sign} for sign in (1, -1, 0)
    )
    assert {"structure", "condition_named", "red_flag_recall", "precaution_recall"} <= better
    assert {"ended", "think_closed", "same_language"} <= better
    assert worse >= {"loss_completion", "loss_reasoning", "loss_answer", "contradictions"}
    assert "repetition" in worse
    assert neither >= {"items_per_section", "words"}
    assert len(better) + len(worse) + len(neither) == len(MEASURES)


def test_reasoning_that_was_cut_off_is_no_answer(lexicon):
    """The text that never comes to `</think>` is the reference itself: it earns nothing."""
    scored = build_scorecard(recorded(after=REFERENCE), lexicon).after[0]
    for key in ("structure", "condition_named", "red_flag_recall", "precaution_recall", "words"):
        assert scored.values[key] == 0
    assert scored.values["unsupported_per_100_words"] is None
    assert scored.values["same_language"] is None
    assert scored.values["think_closed"] == 0
    assert scored.claims == scored.contradictions == ()
    assert scored.values["items_per_section"] == 0


def test_an_answer_of_a_prompt_without_reasoning_needs_no_mark(lexicon):
    scored = build_scorecard(recorded(after=REFERENCE, reasons=False), lexicon).after[0]
    assert scored.values["structure"] == scored.values["condition_named"] == 1


def test_a_chinese_case_is_measured_by_what_needs_no_english(lexicon):
    question = "患者，男，五十二岁，发热咳嗽三天，伴胸痛，应如何处理？"
    answer = (
        "思考。</think>## 症状\n- 发热咳嗽三天伴胸痛乏力\n## 病因\n"
        "- 可能为细菌性肺炎引起感染\n## 注意事项\n"
        "- 多休息多喝水按时服用药物复查\n## 危险信号\n- 呼吸困难意识模糊口唇发紫立即就医\n"
    )
    generic = f"Think.</think>{GENERIC}"
    found = build_scorecard(recorded(generic, answer, question), lexicon)
    assert found.find_result("structure").after == 1
    assert found.find_result("same_language").after == 1
    for key in (
        "unsupported_per_100_words",
        "contradictions",
        "condition_named",
        "red_flag_recall",
    ):
        assert found.find_result(key).verdict == "not measured"
        assert "English" in found.find_result(key).missing


def test_without_reasoning_its_measures_are_missing(lexicon):
    record = recorded(reasons=False)
    whole = [
        CaseLoss(loss.nats, loss.tokens, loss.nats, loss.tokens) for loss in record.base_losses
    ]
    found = build_scorecard(Record(False, record.cases, tuple(whole), tuple(whole)), lexicon)
    for key in ("loss_reasoning", "think_closed"):
        assert found.find_result(key).missing == "the prompt asks for no reasoning"


def test_cases_without_condition_or_sections_leave_content_out(lexicon):
    case = Case(QUESTION, "", "Rest and drink; see a doctor if it is not better after some days.")
    both = [Answer(0, GENERIC, 9, True)]
    found = build_scorecard(build_record(True, [case], (both, both), ([], [])), lexicon)
    assert {
        found.find_result(key).verdict
        for key in ("condition_named", "red_flag_recall", "loss_answer")
    } == {"not measured"}


def test_no_answers_at_all_is_said(lexicon):
    found = build_scorecard(
        build_record(True, [], ([], []), ([CaseLoss(1.0, 2, 0.5, 1)], [CaseLoss(1.0, 2, 0.5, 1)])),
        lexicon,
    )
    assert found.find_result("structure").missing == "no held-out question was answered"
    assert found.find_result("loss_answer").verdict == "same"


def test_cases_of_a_group_count_as_one_in_answers_and_losses(lexicon):
    record = recorded()
    digests = tuple(case.digest for case in record.cases)
    grouped = replace(record, held_out=digests, groups=("a", "a", "b", "b", "c", "c"))
    again = Record.from_json(json.dumps(grouped.as_json()), "here")
    card = build_scorecard(again, lexicon)
    for key in ("structure", "loss_answer"):
        comparison = card.find_result(key).comparison
        assert (comparison.pairs, comparison.groups, comparison.p_value) == (6, 3, 2 / 8)


def test_draws_of_a_question_are_averaged_and_their_harms_add_up(lexicon):
    record = recorded()
    further = (Answer(0, "", 0, False), Answer(0, f"So.</think>{REFERENCE}", 9, True))
    cases = tuple(
        replace(case, draws={"base": further[:1], "tuned": further}) for case in record.cases
    )
    again = Record.from_json(json.dumps(replace(record, cases=cases).as_json()), "here")
    assert again.cases == cases
    assert len(again.cases[0].answers("tuned")) == 3
    assert build_scorecard(again, lexicon).after[0].values["structure"] == pytest.approx(2 / 3)


def test_the_base_asked_its_best_way_is_kept_and_shown(lexicon):
    record = recorded()
    best = Answer(0, REFERENCE, 9, True)
    cases = tuple(replace(case, base_best=best) for case in record.cases)
    again = Record.from_json(json.dumps(replace(record, cases=cases).as_json()), "here")
    assert again.cases == cases
    card = build_scorecard(again, lexicon)
    assert (card.find_result("structure").before, card.find_result("structure").verdict) == (
        1,
        "same",
    )
    values = card.metrics()
    assert values["eval/structure/base"] < values["eval/structure/base_best"] == 1
    assert values["eval/structure/delta"] == 0


def test_a_record_of_before_arms_and_groups_is_read(lexicon):
    values = recorded().as_json()
    del values["groups"], values["primary"]
    for case in values["cases"]:
        del case["base_best"], case["draws"]
    old = Record.from_json(json.dumps(values), "here")
    assert old == recorded()
    assert build_scorecard(old, lexicon).base_best == ()


def test_recall_by_meaning_is_there_with_cosines(lexicon):
    found = build_scorecard(
        recorded(), lexicon, lambda items, lines: [[1.0 for _ in lines] for _ in items]
    )
    assert found.find_result("red_flag_recall_embedding").after == 1


def test_every_measure_has_its_own_key():
    assert len({measure.key for measure in MEASURES}) == len(MEASURES)


STATEMENTS = {
    "must_say": '["aspirin | chew aspirin", "withhold nitrates | avoid nitrates"]',
    "must_not_say": "give nitrates; send home | go home",
}


@pytest.mark.parametrize(
    ("text", "coverage", "harms"),
    [
        ("Chew aspirin. Avoid nitrates.", 1, 0),
        ("Chew aspirin. Give nitrates.", 0.5, 1),
        ("Give nitrates, then go home and rest.", 0, 2),
        ("", 0, 0),
    ],
)
def test_coverage_and_harm_are_read_from_the_columns_of_the_case(lexicon, text, coverage, harms):
    answer = Answer(0, text, 9, True)
    case = AnsweredCase(QUESTION, REFERENCE, STATEMENTS, answer, answer)
    scored = score_answer(case, answer, False, lexicon)
    assert scored.values["must_say_coverage"] == coverage
    named = [passage for passage in scored.harms if passage.key == "must_not_say"]
    assert scored.values["must_not_say"] == harms == len(named)


def test_contradicted_and_fabricated_statements_are_harms_with_their_place(lexicon):
    text = "So.</think>- No sore throat\n- Give zolvastatin\n- Sore throat\n- Gout of the toe"
    answer = Answer(0, text, 9, True)
    case = AnsweredCase(QUESTION, REFERENCE, {}, answer, answer)
    scored = score_answer(case, answer, True, lexicon)
    assert scored.values["contradicted_claims"] == scored.values["fabricated"] == 1
    assert [(passage.key, text[passage.start : passage.end]) for passage in scored.harms] == [
        ("contradicted_claims", "No sore throat"),
        ("fabricated", "Give zolvastatin"),
    ]
    own = score_answer(case, Answer(0, f"</think>{REFERENCE}", 9, True), True, lexicon)
    assert own.values["contradicted_claims"] == own.values["fabricated"] == 0


def test_more_harm_is_worse_and_more_coverage_better(lexicon):
    cases = [Case(f"{QUESTION} {place}", "", REFERENCE, STATEMENTS) for place in range(12)]
    good = [Answer(place, "Chew aspirin. Avoid nitrates.", 9, True) for place in range(12)]
    bad = [Answer(place, "Give nitrates.", 9, True) for place in range(12)]
    found = build_scorecard(build_record(False, cases, (good, bad), ([], [])), lexicon)
    assert found.find_result("must_say_coverage").verdict == "worse"
    assert found.find_result("must_not_say").verdict == "worse"


def test_without_the_columns_coverage_and_harm_are_not_measured(lexicon):
    found = build_scorecard(recorded(), lexicon)
    for key, column in (("must_say_coverage", "must_say"), ("must_not_say", "must_not_say")):
        assert found.find_result(key).missing.startswith(f"the cases have no column `{column}`")


def test_likelihoods_are_compared_over_all_held_out_cases_by_group(lexicon):
    def side(right: float) -> Likelihoods:
        diagnoses = tuple(
            DiagnosisScores(digest, "", ("gout", "malaria"), (right * place, 0.5), ((1,),))
            for place, digest in enumerate(held_out)
        )
        pair = ItemScores("dose", 1.0, 1, 1.0 + right, 1)
        return Likelihoods(diagnoses, (KnowledgeScores(held_out[0], "", (pair,)),))

    held_out = tuple(f"case {place}" for place in range(4))
    record = Record(
        False,
        (),
        (),
        (),
        held_out=held_out,
        groups=("a", "a", "b", "b"),
        likelihoods={"base": side(-1), "tuned": side(1)},
    )
    card = build_scorecard(record, lexicon)
    diagnosis = card.find_result("diagnosis_likelihood")
    assert (diagnosis.before, diagnosis.after) == (0, 0.75)
    assert diagnosis.comparison.groups == 2
    assert card.find_result("diagnosis_margin").after == pytest.approx(1.0)
    knowledge = card.find_result("knowledge_likelihood")
    assert (knowledge.before, knowledge.after, knowledge.comparison.pairs) == (0, 1, 1)
    assert Record.from_json(json.dumps(record.as_json()), "here") == record
    assert card.metrics()["eval/diagnosis_likelihood/after"] == 0.75


def test_likelihoods_are_held_against_the_better_way_of_asking_the_base(lexicon):
    def side(preferred: float) -> Likelihoods:
        pair = ItemScores("dose", 1.0, 1, 1.0 + preferred, 1)
        return Likelihoods((), tuple(KnowledgeScores(name, "", (pair,)) for name in held_out))

    held_out = tuple(f"case {place}" for place in range(4))
    arms = {"base": side(-1), "base_best": side(1), "tuned": side(0)}
    record = Record(False, (), (), (), held_out=held_out, groups=held_out, likelihoods=arms)
    found = build_scorecard(record, lexicon).find_result("knowledge_likelihood")
    assert (found.against, found.before, found.after) == ("base_best", 1, 0.5)
    assert found.bases == {"base": 0, "base_best": 1}


def test_pairs_are_told_apart_by_both_answers_of_a_draw(lexicon):
    texts = ("Give doxycycline.", "Give flucloxacillin.", "Rest.")
    extras = (
        {"pair": "p", "decisive": "doxycycline"}, {"pair": "p", "decisive": "flucloxacillin"}, {},
    )  # fmt: skip
    cases = [Case(f"{QUESTION} {at}", "", REFERENCE, extra) for at, extra in enumerate(extras)]
    right = [Answer(place, text, 9, True) for place, text in enumerate(texts)]
    alike = [Answer(place, texts[0], 9, True) for place in range(3)]
    record = build_record(
        False, cases, (alike, right), ([], []), further={"base": [alike], "tuned": [alike]}
    )
    card = build_scorecard(record, lexicon)
    found = card.find_result("contrast_pairs")
    assert (found.before, found.after, found.comparison.pairs) == (0, 0.5, 2)
    assert [answer.values["contrast_pairs"] for answer in card.after] == [0.5, 0.5, None]


def test_without_likelihoods_their_measures_say_why(lexicon):
    card = build_scorecard(Record(False, (), (), ()), lexicon)
    for key in LIKELIHOOD_MEASURES:
        assert "likelihoods were not asked for" in card.find_result(key).missing


def test_the_base_s_best_way_may_open_a_reasoning_that_the_answer_has_to_close(lexicon):
    record = recorded()
    best = Answer(0, f"I wonder whether {REFERENCE}", 9, False)
    cases = tuple(replace(case, base_best=best) for case in record.cases)
    plain = build_scorecard(replace(record, cases=cases), lexicon)
    assert plain.base_best[0].values["structure"] > 0
    assert plain.base_best[0].values["think_closed"] is None
    # The tuned model is held against the base that has the measure at all.
    assert plain.find_result("think_closed").against == "base"
    opened = build_scorecard(replace(record, cases=cases, base_best_reasons=True), lexicon)
    assert opened.base_best[0].values["structure"] == 0
    assert opened.base_best[0].values["think_closed"] == 0
