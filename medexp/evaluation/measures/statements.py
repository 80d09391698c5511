"""The statements of a text, which are checked one by one: a line, a bullet or a sentence of the
answer part, headings left out. One that stood there before, word by word, counts once.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from medexp.data.words import split_words
from medexp.evaluation.measures.sections import find_bare_heading, find_section_heading
from medexp.evaluation.measures.words import extract_answer

# Between the parts of a statement, which are checked apart.
PART = re.compile(r";\s+")
_BULLET = re.compile(r"^\W*(?:\d+[.)]\s+)?")
_SENTENCE = re.compile(r"(?<=[.!?。])\s+")


@dataclass(frozen=True)
class Statement:
    """One statement of a text at [start, end), and the section that it stands under."""

    text: str
    start: int
    end: int
    section: str | None = None


def split_statements(text: str, deduplicate: bool = True) -> list[Statement]:
    """Return the statements of the answer part of `text` in order; places are those in the whole
    text.
    """
    answer = extract_answer(text)
    at, section = len(text) - len(answer), None
    statements: list[Statement] = []
    for line in answer.splitlines(keepends=True):
        section = find_section_heading(line.strip()) or section
        if find_bare_heading(line.strip()) is None and not line.lstrip().startswith("#"):
            statements += _split_line(line, at, section)
        at += len(line)
    return list(_drop_repeats(statements)) if deduplicate else statements


def _split_line(line: str, at: int, section: str | None) -> Iterator[Statement]:
    bullet = _BULLET.match(line)
    start = bullet.end() if bullet else 0
    for part in _SENTENCE.split(line[start:]):
        begin = line.index(part, start)
        start = begin + len(part)
        text = part.strip().strip("*_")
        if any(character.isalnum() for character in text):
            begin += part.index(text)
            yield Statement(text, at + begin, at + begin + len(text), section)


def _drop_repeats(statements: Sequence[Statement]) -> Iterator[Statement]:
    seen = set()
    for statement in statements:
        key = " ".join(split_words(statement.text))
        if key not in seen:
            seen.add(key)
            yield statement
