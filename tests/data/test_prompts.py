import pytest
from hypothesis import given
from hypothesis import strategies as st

from medexp.config.schema import Prompt
from medexp.data.cases import Case
from medexp.data.prompts import closes_reasoning, render_case, render_question, trains_reasoning

HOSTILE = st.sampled_from(
    [
        "{question}",
        "{reasoning}",
        "{answer}",
        "{",
        "}",
        "{}",
        "{0}",
        "%s",
        "\\1",
        "\\g<0>",
        "$x",
        "</think>",
    ]
)
TEXTS = st.lists(st.text(max_size=8) | HOSTILE, max_size=4).map("".join)
CASES = st.builds(Case, TEXTS, TEXTS, TEXTS)

MARKERS = {  # completion: is there a chain of thought, and can it be told from the answer
    "{reasoning}\n</think>\n\n{answer}": (True, True),
    "{reasoning}\n[END]\n{answer}": (True, False),
    "\n</think>\n\n{answer}": (False, False),
    "{answer}": (False, False),
}

SEED = """Below is a task description along with additional context provided in the input section. \
Your goal is to provide a well-reasoned response that effectively addresses the request.

Before crafting your answer, take a moment to carefully analyze the question. \
Develop a clear, step-by-step thought process to ensure your response is both logical and accurate.

### Task:
You are a medical expert specializing in clinical reasoning, diagnostics, and treatment planning. \
Answer the medical question below using your advanced knowledge.

### Query:
Chest pain?

### Answer:
<think>
"""
SECTIONS = """### Task:
You are a physician. Reason about the case, then answer in four sections: \
Symptoms, Causes, Precautions, Red Flags.

### Query:
Chest pain?

### Answer:
<think>
"""
DIRECT = """### Task:
You are a physician. Answer the question below.

### Query:
Chest pain?

### Answer:
"""
REASONED = "It may be cardiac.\n</think>\n\nECG first."


@pytest.mark.parametrize(
    ("name", "prompt_text", "completion"),
    [
        ("clinical", SEED, REASONED),
        ("clinical_sections", SECTIONS, REASONED),
        ("direct", DIRECT, "ECG first."),
        ("r1_reasoning", "<｜User｜>Chest pain?<｜Assistant｜><think>\n", REASONED),
    ],
)
def test_the_shipped_prompts_letter_by_letter(resolved, name, prompt_text, completion):
    prompt = resolved(f"prompt={name}", "dataset.overlong=drop").prompt
    rendered = render_case(prompt, Case("Chest pain?", "It may be cardiac.", "ECG first."))
    assert (rendered.prompt, rendered.completion) == (prompt_text, completion)


@given(CASES)
def test_what_is_asked_is_exactly_how_the_training_text_begins(prompt, case):
    rendered = render_case(prompt, case)
    assert (rendered.prompt + rendered.completion).startswith(
        render_question(prompt, case.question)
    )
    assert rendered.prompt == render_question(prompt, case.question)


@given(CASES)
def test_braces_and_placeholders_in_a_case_survive(prompt, case):
    rendered = render_case(prompt, case)
    assert rendered.prompt == "Q: " + case.question + "\n<think>\n"
    assert rendered.completion == case.reasoning + "\n</think>\n\n" + case.answer


def test_braces_in_a_prompt_survive():
    prompt = Prompt("json", '{"q": {question}, "n": {}}', "{ {answer} }")
    rendered = render_case(prompt, Case("why", "", "so"))
    assert (rendered.prompt, rendered.completion) == ('{"q": why, "n": {}}', "{ so }")


def test_a_prompt_without_reasoning_leaves_it_out(prompt):
    direct = Prompt("direct", prompt.question, "{answer}")
    assert render_case(direct, Case("q", "never shown", "a")).completion == "a"


@pytest.mark.parametrize("completion", MARKERS)
def test_whether_a_prompt_reasons(completion):
    prompt = Prompt("mine", "{question}", completion)
    assert (trains_reasoning(prompt), closes_reasoning(prompt)) == MARKERS[completion]
