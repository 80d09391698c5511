"""Is an answer built as asked: Symptoms, Causes, Precautions, Red Flags, each with something in it?
A score from its text alone.

The rules, in full:
- Only what follows the last `</think>` counts. A heading begins a line: the section's name in
  English or Chinese (NAMES), whatever its case, with or without Markdown marks, a number or a word
  like "possible" before it. It ends its line, or a colon follows and the section's text begins
  behind it ("1. **Symptoms**: fever, cough"). Names inside a sentence are not headings.
- A section has substance when its text has at least MIN_WORDS different words (twice as many
  Chinese characters), at least half of its lines differ from one another, and it is not the copy of
  an earlier section (at most MAX_OVERLAP of its different words in common).
- The score is the share of the four sections with substance, times OUT_OF_ORDER when those sections
  come in another order, times REPEATED when any of the four headings stands more than once.
- The items of a section are its lines that begin with a bullet or a number, or all its lines where
  none does.

It says nothing about whether the content is true.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from medexp.data.words import split_words
from medexp.evaluation.measures.words import extract_answer

SECTIONS = ("symptoms", "causes", "precautions", "red flags")
NAMES: Mapping[str, Mapping[str, str]] = {
    "en": {
        **{name: name for name in SECTIONS},
        "signs and symptoms": "symptoms", "symptoms and signs": "symptoms",
        "red flag symptoms": "red flags", "red flag signs": "red flags",
        "warning signs": "red flags",
    },
    "zh": {
        "症状": "symptoms", "临床表现": "symptoms",
        "病因": "causes", "原因": "causes",
        "注意事项": "precautions", "预防措施": "precautions", "处理": "precautions",
        "危险信号": "red flags", "警示信号": "red flags", "警示症状": "red flags",
    },
}  # fmt: skip
_SECTION_OF = {name: section for names in NAMES.values() for name, section in names.items()}
MIN_WORDS, MAX_OVERLAP = 5, 0.7
# What a fault leaves of the score.
OUT_OF_ORDER, REPEATED = 0.75, 0.75
_HEADING = re.compile(
    rf"^\W*(?:(?:\d+|[一二三四])\W+)?(?:(?:possible|likely|probable|potential|key|main|common)\s+)?"
    rf"(?P<name>{'|'.join(sorted(_SECTION_OF, key=len, reverse=True))})"
    rf"(?:\W*|[*_\s]*[:：](?P<text>.*\w.*))$",
    re.IGNORECASE,
)
_ITEM = re.compile(r"^(?:[-*•·–]|\d+[.)、])\s*")


@dataclass(frozen=True)
class Section:
    """A heading found and the lines under it."""

    name: str
    lines: tuple[str, ...]

    @property
    def words(self) -> frozenset[str]:
        """The different words of the section, in lower case."""
        return frozenset(word for line in self.lines for word in split_words(line))

    @property
    def items(self) -> tuple[str, ...]:
        """Its items, without their bullets."""
        marked = [line for line in self.lines if _ITEM.match(line)]
        return tuple(_ITEM.sub("", line) for line in marked or self.lines)


@dataclass(frozen=True)
class Structure:
    """What the rules above found in an answer: its score in [0, 1], the sections with substance and
    how many items each has, and why it is not more."""

    score: float
    sections: tuple[str, ...]
    items: Mapping[str, int]
    in_order: bool
    repeated: bool

    @property
    def items_per_section(self) -> float:
        """The mean number of items over the four sections, a missing one counting 0."""
        return sum(self.items.values()) / len(SECTIONS)


def score_structure(text: str) -> Structure:
    """Return how well `text` follows the four sections."""
    sections = parse_sections(text)
    first: dict[str, Section] = {}
    for section in sections:
        first.setdefault(section.name, section)
    kept: list[Section] = []
    for section in first.values():
        if _has_substance(section) and not any(_is_copy(section, earlier) for earlier in kept):
            kept.append(section)
    names = tuple(section.name for section in kept)
    in_order = list(names) == sorted(names, key=SECTIONS.index)
    repeated = len(sections) > len(first)
    score = (
        len(names)
        / len(SECTIONS)
        * (1 if in_order else OUT_OF_ORDER)
        * (REPEATED if repeated else 1)
    )
    return Structure(
        score, names, {section.name: len(section.items) for section in kept}, in_order, repeated
    )


def parse_sections(text: str) -> list[Section]:
    """Return every section of the answer, in its order, repeated ones too."""
    headings: list[tuple[str, list[str]]] = []
    for line in extract_answer(text).splitlines():
        if heading := _HEADING.match(line):
            behind = (heading["text"] or "").strip(" *_")
            headings.append((_SECTION_OF[heading["name"].casefold()], [behind] if behind else []))
        elif headings and line.strip():
            headings[-1][1].append(line.strip())
    return [Section(name, tuple(lines)) for name, lines in headings]


def find_section_heading(line: str) -> str | None:
    """Return the section that begins with `line`, or None; its text may begin on that line."""
    heading = _HEADING.match(line)
    return _SECTION_OF[heading["name"].casefold()] if heading else None


def find_bare_heading(line: str) -> str | None:
    """Return the section that `line` is the heading of and nothing else, or None."""
    heading = _HEADING.match(line)
    return _SECTION_OF[heading["name"].casefold()] if heading and not heading["text"] else None


def _has_substance(section: Section) -> bool:
    is_chinese = any("\u3400" <= word[0] <= "\u9fff" for word in section.words)
    return len(section.words) >= MIN_WORDS * (2 if is_chinese else 1) and 2 * len(
        set(section.lines)
    ) >= len(section.lines)


def _is_copy(section: Section, earlier: Section) -> bool:
    return len(section.words & earlier.words) > MAX_OVERLAP * min(
        len(section.words), len(earlier.words)
    )
