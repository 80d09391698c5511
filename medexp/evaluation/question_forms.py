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
    begins with `opening` ("": with nothing yet), `encode` those of what follows. A question is a
    case, asked with all that was said before, or a text.
    """

    encode_prefix: Callable[[Case | str, str], tuple[int, ...]]
    encode: Callable[[str], list[int]]


def make_training_form(prompt: Prompt, vocabulary: Vocabulary) -> QuestionForm:
    """Return the form in which the run is trained."""

    def encode_prefix(question: Case | str, opening: str) -> tuple[int, ...]:
        case = Case(question, "", "") if isinstance(question, str) else question
        bare = Case("x", "", "{answer}")
        before = render_case(prompt, bare).completion
        opened = before[: before.rindex(bare.answer)] + opening
        start = encode_prompt(render_question(prompt, case.question, case.turns), vocabulary)
        return (*start, *(vocabulary.encode(opened) if opened else ()))

    return QuestionForm(encode_prefix, vocabulary.encode)


def make_best_form(tokenizer: Any, vocabulary: Vocabulary) -> QuestionForm:
    """Return the form that the base of `tokenizer` was made for, the four sections asked for."""
    way = choose_way(tokenizer)

    def encode_prefix(question: Case | str, opening: str) -> tuple[int, ...]:
        asked = question if isinstance(question, str) else question.question
        text = close_reasoning(render_best_way(tokenizer, asked, way)) + opening
        return tuple(encode_best_way(tokenizer, text, way))

    return QuestionForm(encode_prefix, vocabulary.encode)
