"""A question in the form that a model is asked it, up to where its answer begins: the training
prompt of the run, or what the base was made for.

Likelihoods are taken of what follows. The chain of thought that a form opens is closed again with
nothing in it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from medexp.config.schema import Prompt
from medexp.data.cases import Case
from medexp.data.encoding import Vocabulary, encode_prompt
from medexp.data.prompts import render_case, render_question
from medexp.evaluation.base_prompt import (
    choose_way,
    close_reasoning,
    encode_best_way,
    render_best_way,
)


@dataclass(frozen=True)
class QuestionForm:
    """`encode_prefix(question, opening)` gives the tokens of a question and of an answer that
    begins with `opening` ("": with nothing yet), `encode` those of what follows.
    """

    encode_prefix: Callable[[str, str], tuple[int, ...]]
    encode: Callable[[str], list[int]]


def make_training_form(prompt: Prompt, vocabulary: Vocabulary) -> QuestionForm:
    """Return the form in which the run is trained."""

    def encode_prefix(question: str, opening: str) -> tuple[int, ...]:
        mark = "{answer}"
        before = render_case(prompt, Case("", "", mark)).completion
        opened = before[: before.rindex(mark)] + opening
        start = encode_prompt(render_question(prompt, question), vocabulary)
        return (*start, *(vocabulary.encode(opened) if opened else ()))

    return QuestionForm(encode_prefix, vocabulary.encode)


def make_best_form(tokenizer: Any, vocabulary: Vocabulary) -> QuestionForm:
    """Return the form that the base of `tokenizer` was made for, the four sections asked for."""
    way = choose_way(tokenizer)

    def encode_prefix(question: str, opening: str) -> tuple[int, ...]:
        text = close_reasoning(render_best_way(tokenizer, question, way)) + opening
        return tuple(encode_best_way(tokenizer, text, way))

    return QuestionForm(encode_prefix, vocabulary.encode)
