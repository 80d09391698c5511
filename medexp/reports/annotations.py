"""An answer cut into pieces that can be shown: by section, and within it what counts against it.
Text only; a page colours them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from medexp.evaluation.measures.sections import section_at
from medexp.evaluation.measures.words import answer_part
from medexp.evaluation.scorecard import ScoredAnswer


@dataclass(frozen=True)
class MarkedText:
    """Words of an answer and why they count against it ("" where they do not)."""

    text: str
    against: str = ""


@dataclass(frozen=True)
class Block:
    """A run of an answer under one heading: `section` is reasoning, one of the four, or "" before
    any heading.
    """

    section: str
    pieces: tuple[MarkedText, ...]


def split_into_blocks(text: str, scored: ScoredAnswer | None = None) -> list[Block]:
    """`text` block by block, in order and complete; what `scored` found is marked."""
    marks = _find_marks(scored) if scored is not None else []
    found, start, section = [], 0, ""
    at = len(text) - len(answer_part(text))
    if at:
        found.append(Block("reasoning", _cut_into_pieces(text, 0, at, marks)))
        start = at
    for line in text[at:].splitlines(keepends=True):
        heading = section_at(line)
        if heading is not None and at > start:
            found.append(Block(section, _cut_into_pieces(text, start, at, marks)))
            start = at
        section = heading or section
        at += len(line)
    return (
        [*found, Block(section, _cut_into_pieces(text, start, len(text), marks))]
        if start < len(text)
        else found
    )


def _find_marks(scored: ScoredAnswer) -> list[tuple[int, int, str]]:
    claims = [(each.start, each.end, f"unsupported {each.kind}") for each in scored.claims]
    against = [
        (each.start, each.end, f"contradicts the {each.about}") for each in scored.contradictions
    ]
    kept = list(against)  # a contradiction says more than that the same words are unsupported
    for mark in claims:
        if not any(mark[0] < end and start < mark[1] for start, end, _ in kept):
            kept.append(mark)
    return sorted(kept)


def _cut_into_pieces(
    text: str, start: int, end: int, marks: Sequence[tuple[int, int, str]]
) -> tuple[MarkedText, ...]:
    pieces, at = [], start
    for left, right, why in marks:
        if start <= left and right <= end:
            pieces += [MarkedText(text[at:left]), MarkedText(text[left:right], why)]
            at = right
    return tuple(piece for piece in (*pieces, MarkedText(text[at:end])) if piece.text)
