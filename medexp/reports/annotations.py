"""An answer cut into pieces that can be shown: by section, and within it what counts against it.
Text only; a page colours them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from medexp.evaluation.measures.sections import find_section_heading
from medexp.evaluation.measures.words import extract_answer
from medexp.evaluation.scored_answers import HarmfulPassage, ScoredAnswer

HARM = "would harm"


@dataclass(frozen=True)
class MarkedText:
    """Words of an answer and why they count against it ("" where they do not)."""

    text: str
    against: str = ""

    @property
    def is_harmful(self) -> bool:
        """Return whether they advise what would harm the patient."""
        return self.against.startswith(HARM)


@dataclass(frozen=True)
class Block:
    """A run of an answer under one heading: `section` is reasoning, one of the four, or "" before
    any heading.
    """

    section: str
    pieces: tuple[MarkedText, ...]


def split_into_blocks(text: str, scored: ScoredAnswer | None = None) -> list[Block]:
    """Return `text` block by block, in order and complete; what counts against it in `scored` is
    marked.
    """
    marks = _find_marks(scored) if scored is not None else []
    blocks, start, section = [], 0, ""
    at = len(text) - len(extract_answer(text))
    if at:
        blocks.append(Block("reasoning", _cut_into_pieces(text, 0, at, marks)))
        start = at
    for line in text[at:].splitlines(keepends=True):
        heading = find_section_heading(line)
        if heading is not None and at > start:
            blocks.append(Block(section, _cut_into_pieces(text, start, at, marks)))
            start = at
        section = heading or section
        at += len(line)
    if start < len(text):
        blocks.append(Block(section, _cut_into_pieces(text, start, len(text), marks)))
    return blocks


def _find_marks(scored: ScoredAnswer) -> list[tuple[int, int, str]]:
    """Return (start, end, why) of every place that counts against the answer; none overlap."""
    # Harm says more than a contradiction, and that more than that the same words are unsupported.
    candidates = [
        *_mark_harms(scored.harms),
        *(
            (found.start, found.end, f"contradicts the {found.about}")
            for found in scored.contradictions
        ),
        *((claim.start, claim.end, f"unsupported {claim.kind}") for claim in scored.claims),
    ]
    marks: list[tuple[int, int, str]] = []
    for start, end, why in candidates:
        if not any(start < right and left < end for left, right, _ in marks):
            marks.append((start, end, why))
    return sorted(marks)


def _mark_harms(harms: Sequence[HarmfulPassage]) -> Iterator[tuple[int, int, str]]:
    """Yield a mark for each sentence that harms; it names all that the sentence advises."""
    advised: dict[tuple[int, int], list[str]] = {}
    for harm in harms:
        advised.setdefault((harm.start, harm.end), []).append(harm.rule)
    for (start, end), names in advised.items():
        yield start, end, f"{HARM}: {', '.join(names)}"


def _cut_into_pieces(
    text: str, start: int, end: int, marks: Sequence[tuple[int, int, str]]
) -> tuple[MarkedText, ...]:
    pieces, at = [], start
    for left, right, why in marks:
        if start <= left and right <= end:
            pieces += [MarkedText(text[at:left]), MarkedText(text[left:right], why)]
            at = right
    return tuple(piece for piece in (*pieces, MarkedText(text[at:end])) if piece.text)
