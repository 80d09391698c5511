"""The base asked its best way: in the form it was made for, with the four sections asked for.

The training prompt is what the tuned model was made for and the base was not. A gain over a base
that was asked in a stranger's words is partly the words, so the base is also asked in its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medexp.data.think_marks import THINK_END, THINK_START

INSTRUCTION = (
    "Answer in four sections, each a heading with short bullet points under it: ## Symptoms,"
    " ## Causes, ## Precautions, ## Red Flags. Name the most likely diagnosis under Causes."
)
# What DeepSeek's R1 models were trained with, where their tokenizer brings no chat template.
R1_USER, R1_ASSISTANT = "<｜User｜>", "<｜Assistant｜>"


@dataclass(frozen=True)
class BestPrompts:
    """The questions as token ids, and whether they end in a chain of thought that is open."""

    prompts: Sequence[list[int]]
    reasons: bool
    way: str


def make_best_prompts(tokenizer: Any, questions: Sequence[str]) -> BestPrompts:
    """Return `questions` in the form that the base of `tokenizer` was made for.

    Its own chat template where the tokenizer has one, R1's markers where it knows them, else a
    plain instruction.
    """
    way = choose_way(tokenizer)
    texts = [render_best_way(tokenizer, question, way) for question in questions]
    prompts = [encode_best_way(tokenizer, text, way) for text in texts]
    # A template may open the chain of thought itself, or leave that to the model.
    reasons = way == "R1 markers" or any(map(_opens_reasoning, texts))
    return BestPrompts(prompts, reasons, way)


def choose_way(tokenizer: Any) -> str:
    """Return how the base is asked: chat template, R1 markers, or plain instruction."""
    if getattr(tokenizer, "chat_template", None):
        return "chat template"
    if {R1_USER, R1_ASSISTANT} <= set(tokenizer.get_vocab()):
        return "R1 markers"
    return "plain instruction"


def render_best_way(tokenizer: Any, question: str, way: str) -> str:
    """Return the text that asks `question`, up to where the base's answer begins."""
    return render_request(tokenizer, f"{question.strip()}\n\n{INSTRUCTION}", way)


def render_request(tokenizer: Any, request: str, way: str) -> str:
    """Return the text that makes any `request` of the base, up to where its reply begins."""
    if way == "chat template":
        messages = [{"role": "user", "content": request}]
        return str(
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        )
    if way == "R1 markers":
        start = tokenizer.bos_token or ""
        return f"{start}{R1_USER}{request}{R1_ASSISTANT}{THINK_START}\n"
    return f"{request}\n\n"


def close_reasoning(asked: str) -> str:
    """Return a rendered question up to where the answer begins: the chain of thought that `asked`
    opens is closed with nothing in it.
    """
    return asked + (f"\n{THINK_END}\n\n" if _opens_reasoning(asked) else "")


def _opens_reasoning(asked: str) -> bool:
    return asked.rstrip().endswith(THINK_START)


def encode_best_way(tokenizer: Any, text: str, way: str) -> list[int]:
    """Return the tokens of a question that `way` has rendered; its own marks are in the text."""
    with_start = way == "plain instruction"
    ids: list[int] = tokenizer(text, add_special_tokens=with_start)["input_ids"]
    return ids
