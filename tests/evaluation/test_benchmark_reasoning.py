"""Questions in the words of the run, and the option that an answer ends up with."""

import json

import pytest
from helpers.commands import TinyRuns

from medexp.config.schema import Benchmark, Prompt
from medexp.data.encoding import make_vocabulary
from medexp.errors import DataError
from medexp.evaluation.benchmark_questions import parse_questions
from medexp.evaluation.benchmark_reasoning import answer_questions, read_choice, write_question
from medexp.evaluation.generation import limit_batch_size
from medexp.models import backend as stack
from medexp.models import loading as model
from medexp.models import weights
from medexp.models.tokenizer import load_tokenizer
from medexp.system import machine

XPERT = {
    "question": "A man faints. Why?\nAnswer Choices: (A) Heat (B) Pump (C) Fear",
    "options": [
        {"letter": "A", "content": "Heat stroke"},
        {"letter": "B", "content": "Heart block"},
        {"letter": "C", "content": "Vasovagal syncope"},
    ],
    "label": ["C"],
}
BULLETS = {
    "question": "A man faints. Why?",
    "options": {"A": "Heat stroke", "B": "Heart block", "C": "Vasovagal syncope", "D": "Gout"},
    "answer": "Vasovagal syncope",
    "answer_idx": "C",
}
PUBMED = {"question": "Does it?", "contexts": ["It was."], "final_decision": "no"}
(QUESTION,) = parse_questions(Benchmark.medbullets, [BULLETS], "here")
(DECISION,) = parse_questions(Benchmark.pubmedqa, [PUBMED], "here")


def test_sets_outside_the_family_are_read():
    (xpert,) = parse_questions(Benchmark.medxpertqa, [XPERT], "here")
    assert xpert.choices == ("A", "B", "C")
    assert xpert.right == 2
    assert xpert.prompt == (
        "Question: A man faints. Why?"
        "\nA. Heat stroke\nB. Heart block\nC. Vasovagal syncope\nAnswer:"
    )
    assert QUESTION.choices == ("A", "B", "C", "D")
    assert QUESTION.right == 2


@pytest.mark.parametrize(
    ("benchmark", "row"),
    [
        (Benchmark.medxpertqa, XPERT | {"label": ["Z"]}),
        (Benchmark.medxpertqa, XPERT | {"label": ["A", "B"]}),
        (Benchmark.medxpertqa, XPERT | {"options": XPERT["options"][1:]}),
        (Benchmark.medxpertqa, BULLETS),
        (Benchmark.medbullets, BULLETS | {"answer_idx": "E"}),
        (Benchmark.medbullets, BULLETS | {"options": {"A": "alone"}}),
        (Benchmark.medbullets, XPERT),
    ],
)
def test_a_broken_row_of_theirs_is_named(benchmark, row):
    with pytest.raises(DataError, match=r"row 1 of here.* it needs `question`"):
        parse_questions(benchmark, [row], "here")


def test_a_question_is_put_with_its_options():
    assert write_question(QUESTION).startswith("A man faints. Why?\nA. Heat stroke\n")
    assert write_question(QUESTION).endswith('End with "The answer is" and its letter.')
    assert write_question(DECISION).endswith("Answer with yes, no or maybe.")
    assert "Answer:" not in write_question(QUESTION)


@pytest.mark.parametrize(
    ("answer", "choice"),
    [
        ("The answer is C.", "C"),
        ("The correct answer is **C**: vasovagal.", "C"),
        ("Answer: (C)", "C"),
        ("**Final Answer:** C. Vasovagal syncope", "C"),
        (r"\boxed{C}", "C"),
        (r"So \boxed{\text{C}}", "C"),
        ("I would choose option B.", "B"),
        ("Option A is wrong. The answer is C", "C"),
        ("C", "C"),
        ("C. Vasovagal syncope", "C"),
        ("This is a vasovagal syncope.", "C"),
        ("Heat stroke or heart block.", None),
        ("A. Heat stroke\nB. Heart block", None),
        ("The answer is a virus.", None),
        ("The answer is A's own.", None),
        ("The answer is E.", None),
        ("Rest and drink.", None),
        ("", None),
    ],
)
def test_the_option_of_an_answer_is_read(answer, choice):
    assert read_choice(answer, QUESTION, reasons=False) == choice


@pytest.mark.parametrize(
    ("answer", "choice"),
    [("Yes, it does.", "yes"), ("The answer is **No**.", "no"), ("It may be so.", None)],
)
def test_a_decision_is_read(answer, choice):
    assert read_choice(answer, DECISION, reasons=False) == choice


def test_an_option_that_is_only_thought_of_is_no_answer():
    cut_off = "The answer is C"
    assert read_choice(cut_off, QUESTION, reasons=True) is None
    assert read_choice(f"{cut_off}</think>The answer is B.", QUESTION, reasons=True) == "B"


def test_a_model_is_asked_and_its_answers_are_kept(tiny_runs: TinyRuns, tmp_path):
    run = tiny_runs.run("hardware.dtype=float32")
    modules = stack.load_backend(run.hardware, machine.cache_dir())
    found = weights.find_weights(run.model)
    tuned = model.load_model(run, found, load_tokenizer(found, modules), modules)
    prompt = Prompt("a", "Q: {question}\nA:", "{answer}")
    words = make_vocabulary(tuned.tokenizer, prompt)
    file = tmp_path / "answers.jsonl"

    def ask():
        return answer_questions(
            tuned,
            prompt,
            [QUESTION] * 2,
            words,
            4,
            limit_batch_size(2),
            file,
            False,
            lambda _: None,
        )

    assert ask().right == (False, False)
    assert ask().without_option == 2
    written = [json.loads(line) for line in file.read_text().splitlines()]
    assert [each["case"] for each in written] == [0, 1]
    file.write_text(
        "".join(json.dumps(each | {"text": "The answer is C."}) + "\n" for each in written)
    )
    assert ask().right == (True, True)
    assert ask().without_option == 0
