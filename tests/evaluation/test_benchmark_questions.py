"""Benchmark rows become questions in lm-eval's prompts; wrong keys and ranges are refused."""

import pytest

from medexp.config.schema import Benchmark
from medexp.errors import DataError
from medexp.evaluation.benchmark_questions import parse_questions

MEDQA = {"question": "Why?", "options": {"A": "a", "B": "b", "C": "c", "D": "d"}, "answer_idx": "C"}
MEDMCQA = {"question": "Why?", "opa": "a", "opb": "b", "opc": "c", "opd": "d", "cop": 2}
PUBMEDQA = {"question": "Why?", "contexts": ["One.", "Two."], "final_decision": "maybe"}
MMLU = {
    "question": " Why? ",
    "choices": ["a", "b", "c", "d"],
    "answer": 2,
    "subject": "medical_genetics",
}
ROWS = {
    Benchmark.medqa: MEDQA,
    Benchmark.medmcqa: MEDMCQA,
    Benchmark.pubmedqa: PUBMEDQA,
    Benchmark.mmlu_medical: MMLU,
    Benchmark.medbullets: MEDQA,
    Benchmark.medxpertqa: {
        "question": "Why?\nAnswer Choices: (A) a (B) b (C) c",
        "options": [{"letter": letter, "content": letter.lower()} for letter in "ABC"],
        "label": ["C"],
    },
}


@pytest.mark.parametrize("benchmark", Benchmark)
def test_a_row_becomes_a_question_with_its_key(benchmark):
    (found,) = parse_questions(benchmark, [ROWS[benchmark]], "here")
    assert found.right == 2
    assert "Why?" in found.prompt
    assert found.prompt.endswith("\nAnswer:")


def test_the_prompts_are_those_of_lm_eval():
    medmcqa = pytest.importorskip("lm_eval.tasks.medmcqa.utils_medmcqa")
    pubmedqa = pytest.importorskip("lm_eval.tasks.pubmedqa.preprocess_pubmedqa")
    medqa = pytest.importorskip("lm_eval.tasks.medqa.preprocess_medqa")
    asked = {
        benchmark: parse_questions(benchmark, [row], "here")[0].prompt
        for benchmark, row in ROWS.items()
    }
    assert asked[Benchmark.medmcqa] == medmcqa.doc_to_text(MEDMCQA)
    assert asked[Benchmark.pubmedqa] == pubmedqa.doc_to_text(
        {"CONTEXTS": ["One.", "Two."], "QUESTION": "Why?"}
    )
    assert asked[Benchmark.medqa] == medqa.doc_to_text(
        {"sent1": "Why?", "ending0": "a", "ending1": "b", "ending2": "c", "ending3": "d"}
    )
    assert (
        asked[Benchmark.mmlu_medical]
        == "The following are multiple choice questions (with answers) about medical genetics.\n\n"
        "Why?\nA. a\nB. b\nC. c\nD. d\nAnswer:"
    )


@pytest.mark.parametrize(
    ("benchmark", "row"),
    [
        (Benchmark.medqa, MEDQA | {"answer_idx": "E"}),
        (Benchmark.medqa, MEDQA | {"options": ["a"]}),
        (Benchmark.medmcqa, MEDMCQA | {"cop": -1}),
        (Benchmark.medmcqa, MEDMCQA | {"cop": None}),
        (Benchmark.medmcqa, {"question": "Why?"}),
        (Benchmark.pubmedqa, PUBMEDQA | {"final_decision": "perhaps"}),
        (Benchmark.mmlu_medical, MMLU | {"choices": ["a", "b"]}),
        (Benchmark.mmlu_medical, MMLU | {"answer": "A"}),
    ],
)
def test_a_broken_row_is_named(benchmark, row):
    with pytest.raises(DataError, match=r"row 2 of here.* it needs `question`"):
        parse_questions(benchmark, [ROWS[benchmark] | {"cop": 0, "answer": 0}, row], "here")


@pytest.mark.parametrize(
    ("benchmark", "key"), [(Benchmark.medmcqa, "cop"), (Benchmark.mmlu_medical, "answer")]
)
def test_keys_counted_from_1_are_refused(benchmark, key):
    rows = [ROWS[benchmark] | {key: value} for value in (1, 2, 3, 4)]
    with pytest.raises(
        DataError,
        match=(
            rf"here: `{key}` goes from 1 to 4 and never is 0, so it is counted from 1.*subtract 1"
        ),
    ):
        parse_questions(benchmark, rows, "here")
    # There is no 4 among many.
    with pytest.raises(DataError, match="counted from 1"):
        parse_questions(benchmark, rows[:3] * 10, "here")
    # Three rows are too few to tell.
    assert len(parse_questions(benchmark, rows[:3], "here")) == 3


def test_no_questions_are_refused():
    with pytest.raises(DataError, match="here holds no questions"):
        parse_questions(Benchmark.medqa, [], "here")
