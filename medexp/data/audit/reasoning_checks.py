"""What is wrong with chains of thought as teaching material: none there, another case's, the answer
itself, or going round in circles."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from medexp.data.cases import Case
from medexp.data.words import split_words

# a quarter or more of at least four sentences say again what an earlier one said
CIRCLES, FEWEST = 0.25, 4
_SENTENCE_END = re.compile(r"(?<=[.!?。！？])\s*")


@dataclass(frozen=True)
class ReasoningFaults:
    """The numbers of the cases with each fault."""

    empty: tuple[int, ...]
    of_another_case: tuple[int, ...]
    same_as_answer: tuple[int, ...]
    in_circles: tuple[int, ...]


def find_reasoning_faults(cases: Sequence[Case]) -> ReasoningFaults:
    """Return which of `cases` have which fault in their reasoning."""
    empty, another, same, circles = [], [], [], []
    seen: set[tuple[str, ...]] = set()
    for place, case in enumerate(cases):
        words = tuple(split_words(case.reasoning))
        if not words:
            empty.append(place)
            continue
        if words in seen:
            another.append(place)
        seen.add(words)
        if words == tuple(split_words(case.answer)):
            same.append(place)
        if goes_in_circles(case.reasoning):
            circles.append(place)
    return ReasoningFaults(tuple(empty), tuple(another), tuple(same), tuple(circles))


def goes_in_circles(text: str) -> bool:
    """Return whether CIRCLES or more of the sentences of `text` (at least FEWEST) repeat an earlier
    one."""
    sentences = [
        sentence for part in _SENTENCE_END.split(text) if (sentence := " ".join(split_words(part)))
    ]
    return len(sentences) >= FEWEST and len(sentences) - len(set(sentences)) >= CIRCLES * len(
        sentences
    )
