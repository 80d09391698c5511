"""What the tokens of a case are: instructions, question, reasoning, answer, marks between them,
EOS. Counted where each token ends in the text, so that the leading space of a word counts with the
word."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from medexp.config.schema import Prompt
from medexp.data.cases import Case
from medexp.data.encoding import IGNORED, EncodedCase
from medexp.data.prompts import locate_values, render_case


class Role(Enum):
    """What a token is part of."""

    instructions = "instructions"
    question = "question"
    reasoning = "reasoning"
    answer = "answer"
    marks = "marks"
    eos = "EOS"


@dataclass(frozen=True)
class TokenizedText:
    """A text as tokens: their ids, and the number of characters of the text up to the end
    of each."""

    ids: Sequence[int]
    ends: Sequence[int]


@dataclass(frozen=True)
class TokenSpan:
    """A run of text in one role, its number of tokens, and whether the model learns to say it."""

    role: Role
    text: str
    tokens: int
    learnt: bool


def list_texts(prompt: Prompt, cases: Iterable[Case]) -> Iterator[str]:
    """Return every text that is tokenised for `cases`: prompt, completion, prompt,
    completion, ..."""
    for case in cases:
        rendered = render_case(prompt, case)
        yield rendered.prompt
        yield rendered.completion


def split_into_spans(
    prompt: Prompt, case: Case, encoded: EncodedCase, spelled: Mapping[str, TokenizedText]
) -> list[TokenSpan]:
    """Return the training text of `case`, piece by piece, with the labels that `encoded` has; BOS
    counts as instructions."""
    rendered = render_case(prompt, case)
    start, completion = spelled[rendered.prompt], spelled[rendered.completion]
    bos = encoded.prompt_tokens - len(start.ids)
    asked = locate_values(prompt.question, {"question": case.question})
    said = locate_values(prompt.completion, {"reasoning": case.reasoning, "answer": case.answer})
    found = [
        *_cut_text(rendered.prompt, start, asked, Role.instructions),
        *_cut_text(rendered.completion, completion, said, Role.marks),
    ]
    counts = [count + (bos if place == 0 else 0) for place, (_, _, count) in enumerate(found)]
    firsts = [sum(counts[:place]) for place in range(len(counts))]
    result = [
        TokenSpan(role, text, count, count > 0 and encoded.labels[first] != IGNORED)
        for (role, text, _), count, first in zip(found, counts, firsts, strict=True)
    ]
    return [*result, TokenSpan(Role.eos, "", 1, encoded.labels[-1] != IGNORED)]


def _cut_text(
    text: str, spelled: TokenizedText, where: Mapping[str, tuple[int, int]], between: Role
) -> Iterator[tuple[Role, str, int]]:
    """Return `text` as (role, text, tokens): the places in `where`, and what stands before, between
    and after them."""
    at = 0
    for name, (first, last) in sorted(where.items(), key=lambda item: item[1]):
        yield between, text[at:first], _count_tokens_ending(spelled, at, first)
        yield Role(name), text[first:last], _count_tokens_ending(spelled, first, last)
        at = last
    yield between, text[at:], len(spelled.ends) - bisect_right(spelled.ends, at)


def _count_tokens_ending(spelled: TokenizedText, first: int, last: int) -> int:
    """Return how many tokens end within text[first:last]."""
    return bisect_right(spelled.ends, last) - bisect_right(spelled.ends, first)
