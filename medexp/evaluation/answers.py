"""Is an answer built as asked: Symptoms, Causes, Precautions, Red Flags, each with something in it? A score from its text alone.

The rules, in full:
- Only what follows the last `</think>` counts. A heading is a line of its own: the section's name, whatever its case, with or
  without Markdown marks, a number or a colon. Names inside a sentence are no headings.
- A section has substance when its text has at least MIN_WORDS different words, at least half of its lines differ from one
  another, and it is not the copy of an earlier section (at most MAX_OVERLAP of its different words in common).
- The score is the share of the four sections with substance, times OUT_OF_ORDER when those sections come in another order, times
  REPEATED when any of the four headings stands more than once.

It says nothing about whether the content is true.
"""

import re
from dataclasses import dataclass

SECTIONS = ("symptoms", "causes", "precautions", "red flags")
MIN_WORDS, MAX_OVERLAP = 5, 0.7
OUT_OF_ORDER, REPEATED = 0.75, 0.75
_HEADING = re.compile(rf"^\W*(?:\d+\W+)?({'|'.join(SECTIONS)})\W*$", re.IGNORECASE)
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Section:
    """A heading found and the lines under it."""

    name: str
    lines: tuple[str, ...]

    @property
    def words(self) -> frozenset[str]:
        """The different words of the section, in lower case."""
        return frozenset(word.casefold() for line in self.lines for word in _WORD.findall(line))


@dataclass(frozen=True)
class Structure:
    """What the rules above found in an answer: its score in [0, 1], the sections with substance, and why it is not more."""

    score: float
    sections: tuple[str, ...]
    in_order: bool
    repeated: bool


def structure(text: str) -> Structure:
    """How well `text` follows the four sections."""
    found = sections(text)
    first: dict[str, Section] = {}
    for section in found:
        first.setdefault(section.name, section)
    kept: list[Section] = []
    for section in first.values():
        if _has_substance(section) and not any(_is_copy(section, earlier) for earlier in kept):
            kept.append(section)
    names = tuple(section.name for section in kept)
    in_order = list(names) == sorted(names, key=SECTIONS.index)
    repeated = len(found) > len(first)
    score = len(names) / len(SECTIONS) * (1 if in_order else OUT_OF_ORDER) * (REPEATED if repeated else 1)
    return Structure(score, names, in_order, repeated)


def sections(text: str) -> list[Section]:
    """Every section of the answer, in its order, repeated ones too."""
    found: list[tuple[str, list[str]]] = []
    for line in text.rpartition("</think>")[2].splitlines():
        if heading := _HEADING.match(line):
            found.append((heading[1].casefold(), []))
        elif found and line.strip():
            found[-1][1].append(line.strip())
    return [Section(name, tuple(lines)) for name, lines in found]


def _has_substance(section: Section) -> bool:
    return len(section.words) >= MIN_WORDS and 2 * len(set(section.lines)) >= len(section.lines)


def _is_copy(section: Section, earlier: Section) -> bool:
    return len(section.words & earlier.words) > MAX_OVERLAP * min(len(section.words), len(earlier.words))
