import pytest

from medexp.data.audit.contamination import (
    FREQUENT,
    WINDOW,
    MeasuredTexts,
    extract_benchmark_texts,
    find_contamination,
    list_word_runs,
)
from medexp.data.cases import Case

RUN = "an ultrasound shows dilation of the right ureter and renal pelvis which of these"  # 14 words
QUESTION = f"A 68-year-old man has flank pain. {RUN.capitalize()} explains it?"


@pytest.fixture
def measured() -> MeasuredTexts:
    made = MeasuredTexts()
    made.add("medqa", ["What is it?", QUESTION], ["What is it?", QUESTION])
    return made


@pytest.mark.parametrize("field", ["question", "reasoning", "answer"])
def test_a_run_of_13_words_is_found_in_every_field(measured, field):
    texts = {"question": "q", "reasoning": "r", "answer": "a"} | {field: f"Well: {RUN.upper()}!"}
    (found,) = find_contamination([Case("other", "r", "a"), Case(**texts)], measured)
    assert (found.case, found.name, found.measured, found.same_question) == (1, "medqa", 1, False)
    assert found.shared == " ".join(RUN.split()[:WINDOW])


def test_12_words_in_common_are_none(measured):
    assert find_contamination([Case(" ".join(RUN.split()[:12]), "r", "a")], measured) == []


def test_words_in_common_across_two_fields_are_no_run(measured):
    words = RUN.split()
    assert find_contamination([Case(" ".join(words[:7]), " ".join(words[7:]), "a")], measured) == []


def test_a_short_question_is_compared_whole(measured):
    (found,) = find_contamination([Case("what  is IT", "r", "a")], measured)
    assert (found.same_question, found.shared) == (True, "what is it")
    assert find_contamination([Case("what is it then", "r", "a")], measured) == []


def test_grams_are_every_run():
    words = [str(number) for number in range(WINDOW + 2)]
    assert list(list_word_runs(words)) == [
        tuple(words[:WINDOW]),
        tuple(words[1 : WINDOW + 1]),
        tuple(words[2:]),
    ]
    assert list(list_word_runs(words[: WINDOW - 1])) == []


def test_questions_of_the_three_benchmarks_are_read():
    records = [
        {"question": "medqa?", "options": {"A": "x"}, "answer_idx": "A"},
        {"question": "medmcqa?", "opa": "x", "cop": 0},
        {"question": "pubmedqa?", "contexts": ["one", "two"], "final_decision": "yes"},
        {"question": " "},
        {"prompt": "no question"},
    ]
    assert list(extract_benchmark_texts(records)) == [
        ("medqa?", "medqa?"),
        ("medmcqa?", "medmcqa?"),
        ("pubmedqa?", "pubmedqa? one two"),
    ]


# 15 words
STEM = "Which of the following is the most likely explanation of the findings in this patient"


def unrelated(count: int, first: int = 0) -> list[Case]:
    """Cases that have STEM in common and nothing else."""
    return [
        Case(
            " ".join(f"word{number * 40 + at}" for at in range(30)) + f" {STEM}?", "r", f"a{number}"
        )
        for number in range(first, first + count)
    ]


def held_out(cases: list[Case]) -> MeasuredTexts:
    made = MeasuredTexts()
    made.add(
        "held-out cases",
        [case.question for case in cases],
        [f"{case.question} {case.answer}" for case in cases],
    )
    return made


def test_a_stem_that_many_cases_share_is_no_leak():
    assert find_contamination(unrelated(50), held_out(unrelated(8, first=100))) == []
    assert (
        len(find_contamination(unrelated(FREQUENT), held_out(unrelated(8, first=100)))) == FREQUENT
    )
    assert find_contamination(unrelated(FREQUENT + 1), held_out(unrelated(8, first=100))) == []


def test_text_that_is_really_shared_is_found_beside_a_stem():
    measured = unrelated(8, first=100)
    copied = Case("Another patient altogether.", " ".join(measured[3].question.split()[5:25]), "a")
    (found,) = find_contamination([*unrelated(50), copied], held_out(measured))
    assert (found.case, found.measured, found.same_question) == (50, 3, False)
    assert "which" not in found.shared


def test_a_measured_text_that_many_cases_hold_is_found_however_many_they_are():
    measured = unrelated(8, first=100)
    copies = [
        Case(f"{measured[3].question} And question {number}?", "r", "a")
        for number in range(3 * FREQUENT)
    ]
    found = find_contamination([*unrelated(50), *copies], held_out(measured))
    assert [each.case for each in found] == list(range(50, 50 + 3 * FREQUENT))
