"""What is supported and what is not, by section; and the floors of precision and recall on the
hand-made answers.
"""

import importlib.util
import sys
from pathlib import Path

import pytest
from helpers.vignettes import QUESTION, REFERENCE

from medexp.evaluation.measures.unsupported_claims import (
    Claim,
    find_unsupported_claims,
    read_evidence,
)


@pytest.fixture(scope="module")
def said(lexicon):
    known = read_evidence(QUESTION, REFERENCE, lexicon)
    return lambda answer: [
        (claim.kind, claim.text) for claim in find_unsupported_claims(answer, known, lexicon)
    ]


def test_the_reference_supports_itself(said):
    assert said(REFERENCE) == []


def test_nothing_is_claimed_by_an_empty_answer(said):
    assert said("") == []


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("Give amoxicillin.", [("drug", "amoxicillin")]),
        ("Paracetamol 2 g.", [("dose", "2 g")]),
        ("Paracetamol 1000 mg four times daily.", []),
        ("It lasts nine days.", [("number", "nine days")]),
        ("Pneumonia is likely.", [("finding", "Pneumonia")]),
        ("Pneumonia is unlikely; avoid ibuprofen.", []),
        ("The throat is sore and she has pain.", [("finding", "pain")]),
    ],
)
def test_what_neither_question_nor_reference_says_is_a_claim(answer, found, said):
    assert said(answer) == found


def test_a_wider_finding_is_supported_and_a_narrower_one_is_not(lexicon):
    known = read_evidence("He has chest pain.", "It is bacterial pneumonia.", lexicon)
    assert find_unsupported_claims("Pain in the chest, pneumonia.", known, lexicon) == []
    known = read_evidence("He has pain.", "It is pneumonia.", lexicon)
    assert [
        claim.text for claim in find_unsupported_claims("Bacterial pneumonia.", known, lexicon)
    ] == ["Bacterial pneumonia"]


def test_a_denied_finding_cannot_be_a_symptom_or_a_cause_but_a_warning(said):
    assert said("## Symptoms\n- Cough") == [("finding", "Cough")]
    assert said("## Causes\n- Cough") == [("finding", "Cough")]
    assert said("She has a cough.") == [("finding", "cough")]
    assert said("## Red Flags\n- Cough") == []


def test_a_red_flag_is_no_symptom_yet(said):
    assert said("## Symptoms\n- Stridor") == [("finding", "Stridor")]
    assert said("## Red Flags\n- Stridor") == []


def test_a_drug_that_is_only_warned_of_is_not_to_be_given(said):
    assert said("## Precautions\n- Aspirin for fever") == [("drug", "Aspirin")]


def test_the_reasoning_does_not_count_and_places_are_in_the_whole_answer(lexicon):
    known = read_evidence(QUESTION, REFERENCE, lexicon)
    answer = "Is it pneumonia?</think>Give warfarin."
    assert find_unsupported_claims(answer, known, lexicon) == [Claim("warfarin", 29, 37, "drug")]
    assert answer[29:37] == "warfarin"


@pytest.fixture(scope="module")
def validation():
    file = Path(__file__).parents[3] / "benchmarks" / "answers" / "validate.py"
    spec = importlib.util.spec_from_file_location("validate", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules["validate"] = module
    spec.loader.exec_module(module)
    return module


def test_the_hand_made_answers_are_as_they_say(validation):
    marked = validation.read()
    assert len(marked) >= 60
    for half in ("tuning", "held-out"):
        errors = [bool(each.errors) for each in marked if each.half == half]
        assert sum(errors) * 2 == len(errors) >= 30
    assert not {each.question[:60] for each in marked if each.half == "tuning"} & {
        each.question[:60] for each in marked if each.half == "held-out"
    }
    assert all(each.answer[start:end].strip() for each in marked for _, start, end in each.errors)
    assert not any("{{" in each.answer or "}}" in each.answer for each in marked)


def test_precision_and_recall_have_a_floor_on_answers_that_nothing_was_tuned_on(validation):
    found = [validation.judge(each) for each in validation.read() if each.half == "held-out"]
    figures = validation.agreement(found)
    assert figures.precision >= 0.90
    assert figures.recall >= 0.72
    assert figures.answer_precision >= 0.75
    assert figures.answer_recall == 1
