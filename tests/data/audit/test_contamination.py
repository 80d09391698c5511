import pytest

from medexp.data.audit.contamination import WINDOW, Measured, benchmark_texts, grams, overlaps
from medexp.data.cases import Case

RUN = "an ultrasound shows dilation of the right ureter and renal pelvis which of these"  # 14 words
QUESTION = f"A 68-year-old man has flank pain. {RUN.capitalize()} explains it?"


@pytest.fixture
def measured() -> Measured:
    made = Measured()
    made.add("medqa", ["What is it?", QUESTION], ["What is it?", QUESTION])
    return made


@pytest.mark.parametrize("field", ["question", "reasoning", "answer"])
def test_a_run_of_13_words_is_found_in_every_field(measured, field):
    texts = {"question": "q", "reasoning": "r", "answer": "a"} | {field: f"Well: {RUN.upper()}!"}
    (found,) = overlaps([Case("other", "r", "a"), Case(**texts)], measured)
    assert (found.case, found.name, found.measured, found.same_question) == (1, "medqa", 1, False)
    assert found.shared == " ".join(RUN.split()[:WINDOW])


def test_12_words_in_common_are_none(measured):
    assert overlaps([Case(" ".join(RUN.split()[:12]), "r", "a")], measured) == []


def test_words_in_common_across_two_fields_are_no_run(measured):
    words = RUN.split()
    assert overlaps([Case(" ".join(words[:7]), " ".join(words[7:]), "a")], measured) == []


def test_a_short_question_is_compared_whole(measured):
    (found,) = overlaps([Case("what  is IT", "r", "a")], measured)
    assert (found.same_question, found.shared) == (True, "what is it")
    assert overlaps([Case("what is it then", "r", "a")], measured) == []


def test_grams_are_every_run():
    words = [str(number) for number in range(WINDOW + 2)]
    assert list(grams(words)) == [tuple(words[:WINDOW]), tuple(words[1 : WINDOW + 1]), tuple(words[2:])]
    assert list(grams(words[: WINDOW - 1])) == []


def test_questions_of_the_three_benchmarks_are_read():
    records = [
        {"question": "medqa?", "options": {"A": "x"}, "answer_idx": "A"},
        {"question": "medmcqa?", "opa": "x", "cop": 0},
        {"question": "pubmedqa?", "contexts": ["one", "two"], "final_decision": "yes"},
        {"question": " "},
        {"prompt": "no question"},
    ]
    assert list(benchmark_texts(records)) == [("medqa?", "medqa?"), ("medmcqa?", "medmcqa?"), ("pubmedqa?", "pubmedqa? one two")]
