"""What the tokens of a case are: instructions, question, reasoning, answer, marks between them,
EOS. Counted where each token ends in the text, so that the leading space of a word counts with the
word."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from medexp.config.schema import Prompt
from medexp.data.cases import Case
from medexp.data.chat_template import locate_turns
from medexp.data.encoding import IGNORED, EncodedCase
from medexp.data.prompts import ChatPrompt, get_completion, locate_values, render_case


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
    asked = _locate_asked(prompt, case, encoded, start, rendered.prompt)
    values = {"reasoning": case.reasoning, "answer": case.answer}
    said = _name_roles(locate_values(get_completion(prompt, case), values))
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


Place = tuple[Role, int, int]


def _locate_asked(
    prompt: Prompt, case: Case, encoded: EncodedCase, start: TokenizedText, text: str
) -> list[Place]:
    """Return what of `text`, which asks `case`, is the question: with a chat template all that was
    said, save earlier answers that are learnt, which are answers, each with its EOS.
    """
    if not isinstance(prompt, ChatPrompt):
        return _name_roles(locate_values(prompt.question, {"question": case.question}))
    places: list[Place] = []
    for turn, first, last in locate_turns(text, case.asked):
        token = bisect_right(start.ends, first)
        if turn.role == "system":
            continue
        if turn.role == "user" or encoded.labels[token] == IGNORED:
            places.append((Role.question, first, last))
            continue
        end = prompt.template.end
        ended = text.find(end, last)
        places += [(Role.answer, first, ended), (Role.eos, ended, ended + len(end))]
    return places


def _name_roles(where: Mapping[str, tuple[int, int]]) -> list[Place]:
    return [(Role(name), first, last) for name, (first, last) in where.items()]


def _cut_text(
    text: str, spelled: TokenizedText, where: Sequence[Place], between: Role
) -> Iterator[tuple[Role, str, int]]:
    """Return `text` as (role, text, tokens): the places in `where`, and what stands before, between
    and after them."""
    at = 0
    for role, first, last in sorted(where, key=lambda place: place[1]):
        yield between, text[at:first], _count_tokens_ending(spelled, at, first)
        yield role, text[first:last], _count_tokens_ending(spelled, first, last)
        at = last
    yield between, text[at:], len(spelled.ends) - bisect_right(spelled.ends, at)


def _count_tokens_ending(spelled: TokenizedText, first: int, last: int) -> int:
    """Return how many tokens end within text[first:last]."""
    return bisect_right(spelled.ends, last) - bisect_right(spelled.ends, first)
