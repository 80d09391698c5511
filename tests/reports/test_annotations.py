"""Blocks keep every character of an answer, and mark what counts against it."""

from helpers.vignettes import QUESTION, REFERENCE
from hypothesis import given
from hypothesis import strategies as st

from medexp.evaluation.record import Answer, AnsweredCase
from medexp.evaluation.scored_answers import ScoredAnswer, score_answer
from medexp.reports.annotations import split_into_blocks


def scored(text: str, lexicon) -> ScoredAnswer:
    answer = Answer(0, text, 1, True)
    return score_answer(
        AnsweredCase(QUESTION, REFERENCE, {}, answer, answer), answer, True, lexicon
    )


def test_sections_and_reasoning_are_blocks():
    found = split_into_blocks(f"So.</think>\nWell.\n{REFERENCE}")
    assert [block.section for block in found] == [
        "reasoning",
        "",
        "symptoms",
        "causes",
        "precautions",
        "red flags",
    ]


def test_unsupported_and_contradicting_words_are_marked(lexicon):
    text = "Hm.</think>This 54-year-old takes warfarin and amoxicillin."
    marks = [
        (piece.text, piece.against)
        for block in split_into_blocks(text, scored(text, lexicon))
        for piece in block.pieces
        if piece.against
    ]
    assert marks == [
        ("54-year-old", "contradicts the age"),
        ("warfarin", "unsupported drug"),
        ("amoxicillin", "contradicts the allergy"),
    ]


def test_harmful_advice_is_marked_as_a_whole_and_once(lexicon):
    advice = "Withhold oxygen and bronchodilators, and give amoxicillin"
    text = f"Hm.</think>## Precautions\n- {advice}\n- Rest"
    extra = {"must_not_say": "withhold oxygen; withhold bronchodilators | stop inhalers"}
    answer = Answer(0, text, 1, True)
    case = AnsweredCase(QUESTION, REFERENCE, extra, answer, answer)
    blocks = split_into_blocks(text, score_answer(case, answer, True, lexicon))
    marks = [(piece.text, piece.against) for block in blocks for piece in block.pieces]
    assert (advice, "would harm: withhold oxygen, withhold bronchodilators") in marks
    assert "".join(piece for piece, _ in marks) == text


def test_an_empty_answer_has_no_blocks():
    assert split_into_blocks("") == []


@given(st.text(alphabet="a#\n -SymptomsRdFlags</think>1", max_size=120))
def test_no_character_is_lost(text):
    assert (
        "".join(piece.text for block in split_into_blocks(text) for piece in block.pieces) == text
    )
