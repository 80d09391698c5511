"""A rendered case as tokens and labels, at most so many tokens long. Never cuts an answer: too long means dropped, or a shorter
chain of thought, or an error, as `dataset.overlong` says."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from medexp.config.schema import LossOn, Overlong, Prompt
from medexp.data.cases import Case
from medexp.data.prompts import THINK_END, render
from medexp.errors import DataError

IGNORED = -100  # the label that every Hugging Face loss skips
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True)
class Vocabulary:
    """The part of a tokenizer that is needed here: text to ids without adding any, the ids at both ends of a text, and the texts
    it reads as control tokens."""

    encode: Callable[[str], list[int]]
    bos_id: int | None
    eos_id: int
    control: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Encoded:
    """`input_ids` = BOS, prompt, completion, EOS; `labels` of equal length with IGNORED where no loss is taken."""

    input_ids: list[int]
    labels: list[int]
    prompt_tokens: int


@dataclass(frozen=True)
class Encoding:
    """The cases that fit, in order, and how many were dropped or had their reasoning trimmed to fit."""

    cases: tuple[Case, ...]
    encoded: tuple[Encoded, ...]
    dropped: int
    trimmed: int


def encode(prompt: Prompt, case: Case, vocabulary: Vocabulary, loss_on: LossOn) -> Encoded:
    """The tokens of `case`. Prompt and completion are tokenised apart, so that the inference prompt is an exact prefix."""
    text = render(prompt, case)
    start = prompt_ids(text.prompt, vocabulary)
    completion = [*vocabulary.encode(text.completion), vocabulary.eos_id]
    masked = [IGNORED] * len(start) if loss_on is LossOn.completion else start
    return Encoded(start + completion, masked + completion, prompt_tokens=len(start))


def prompt_ids(prompt_text: str, vocabulary: Vocabulary) -> list[int]:
    """The tokens a model is asked with: one BOS (where the tokenizer has one) and `prompt_text`."""
    bos = [] if vocabulary.bos_id is None else [vocabulary.bos_id]
    return bos + vocabulary.encode(prompt_text)


def encode_all(
    prompt: Prompt, cases: Iterable[Case], vocabulary: Vocabulary, max_tokens: int, overlong: Overlong, loss_on: LossOn
) -> Encoding:
    """Every case of at most `max_tokens` tokens, longer ones treated as `overlong` says.

    Raises: DataError on the first over-long case with `overlong=error`, and on a case that holds a control token as text.
    """
    marks = vocabulary.control | {mark for mark in ("<think>", THINK_END) if mark in prompt.question + prompt.completion}
    kept: list[tuple[Case, Encoded]] = []
    dropped = trimmed = 0
    for number, case in enumerate(cases, 1):
        _refuse_control(case, marks)
        encoded = encode(prompt, case, vocabulary, loss_on)
        if len(encoded.input_ids) <= max_tokens:
            kept.append((case, encoded))
            continue
        if overlong is Overlong.error:
            raise DataError(
                f"case {number} ({case.question[:50]!r}...) has {len(encoded.input_ids)} tokens and the limit is {max_tokens}; "
                "raise the limit or set dataset.overlong=drop or trim_reasoning"
            )
        shorter = _with_less_reasoning(prompt, case, vocabulary, max_tokens) if overlong is Overlong.trim_reasoning else None
        dropped += shorter is None
        trimmed += shorter is not None
        if shorter is not None:
            kept.append((shorter, encode(prompt, shorter, vocabulary, loss_on)))
    return Encoding(tuple(case for case, _ in kept), tuple(encoded for _, encoded in kept), dropped, trimmed)


def _refuse_control(case: Case, marks: Iterable[str]) -> None:
    """A control token written in a case would end the answer, or begin another text, in the middle of it."""
    for mark in marks:
        if mark in case.question or mark in case.reasoning or mark in case.answer:
            raise DataError(
                f"the case {case.question[:50]!r}... holds {mark!r}, which the model reads as a control token; "
                "take it out of the record"
            )


def _with_less_reasoning(prompt: Prompt, case: Case, vocabulary: Vocabulary, max_tokens: int) -> Case | None:
    """`case` with the longest run of opening sentences of its reasoning that fits, at least one; None if not even that fits."""
    shorter = [replace(case, reasoning=case.reasoning[: end.start()]) for end in _SENTENCE_END.finditer(case.reasoning)]
    low, high = 0, len(shorter)  # `low` sentences fit, more than `high` do not
    while low < high:
        middle = (low + high + 1) // 2
        if len(encode(prompt, shorter[middle - 1], vocabulary, LossOn.all).input_ids) <= max_tokens:
            low = middle
        else:
            high = middle - 1
    return shorter[low - 1] if low else None
