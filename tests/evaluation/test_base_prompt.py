"""The base is asked in the form that it was made for."""

from typing import Any

import pytest

from medexp.evaluation.base_prompt import (
    INSTRUCTION,
    R1_ASSISTANT,
    R1_USER,
    choose_way,
    make_best_prompts,
    render_best_way,
)

QUESTION = "A cough for three days. What now?"


class Tokenizer:
    """A tokenizer of characters, with or without a template or R1's markers."""

    bos_token = "<s>"

    def __init__(self, template: str = "", markers: bool = False) -> None:
        self.chat_template = template or None
        self._markers = markers

    def get_vocab(self) -> dict[str, int]:
        return {R1_USER: 1, R1_ASSISTANT: 2} if self._markers else {"a": 0}

    def apply_chat_template(
        self, messages: Any, tokenize: bool, add_generation_prompt: bool
    ) -> str:
        assert (tokenize, add_generation_prompt) == (False, True)
        (message,) = messages
        return self.chat_template.replace("MESSAGE", message["content"])

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [-1] * add_special_tokens + [ord(letter) for letter in text]}


@pytest.mark.parametrize(
    ("tokenizer", "way"),
    [
        (Tokenizer("<|user|>MESSAGE<|assistant|>", markers=True), "chat template"),
        (Tokenizer(markers=True), "R1 markers"),
        (Tokenizer(), "plain instruction"),
    ],
)
def test_its_own_template_comes_first_then_r1_s_markers_then_plain_words(tokenizer, way):
    assert choose_way(tokenizer) == way
    text = render_best_way(tokenizer, QUESTION, way)
    assert text.count(QUESTION) == text.count(INSTRUCTION) == 1


def test_all_four_sections_are_asked_for():
    for section in ("Symptoms", "Causes", "Precautions", "Red Flags"):
        assert f"## {section}" in INSTRUCTION


def test_a_template_brings_its_own_beginning_and_plain_words_get_one():
    templated = make_best_prompts(Tokenizer("<s>MESSAGE"), [QUESTION]).prompts[0]
    assert templated[:3] == [ord(letter) for letter in "<s>"]
    assert make_best_prompts(Tokenizer(), [QUESTION]).prompts[0][0] == -1
    marked = make_best_prompts(Tokenizer(markers=True), [QUESTION]).prompts[0]
    assert "".join(map(chr, marked)).startswith(f"<s>{R1_USER}")


@pytest.mark.parametrize(
    ("tokenizer", "reasons"),
    [
        (Tokenizer("MESSAGE<think>\n"), True),
        (Tokenizer("MESSAGE<|assistant|>"), False),
        (Tokenizer(markers=True), True),
        (Tokenizer(), False),
    ],
)
def test_an_open_chain_of_thought_is_known(tokenizer, reasons):
    assert make_best_prompts(tokenizer, [QUESTION]).reasons is reasons


def test_the_embedded_model_is_asked_in_its_chat_template(embedded_tokenizer):
    best = make_best_prompts(embedded_tokenizer, [QUESTION])
    assert best.way == "chat template"
    text = embedded_tokenizer.decode(best.prompts[0])
    assert text.rstrip().endswith("<|im_start|>assistant")
    assert f"<|im_start|>user\n{QUESTION}" in text
