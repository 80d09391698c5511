"""A clinical case, and how a raw record becomes one. Refuses records with a missing, empty or
non-text field, by their place.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from typing import Any, NamedTuple

from medexp.config.schema import Columns
from medexp.data.think_marks import THINK_END, holds_marks, split_reasoning
from medexp.errors import DataError, listing, nearest

# What measures read beside question and answer; nothing is trained on it.
MEASURED_COLUMNS = ("must_say", "must_not_say", "synonyms", "differential", "guideline")
# Which two cases are alike but for a detail, and what the answer to this one says and to that not.
PAIR, DECISIVE = "pair", "decisive"
# Which record of a chat a case was read from: its cases stay in one part of the split.
CONVERSATION = "conversation_of_file"
# The turns of a conversation up to a question, in a record made of one.
TURNS = "turns_of_conversation"
# What a case was written to be: counted, and read by no measure.
DESIGN_COLUMNS = ("asker", "asks", "style", "terms", "features")
_NEVER_TRAINED_ON = frozenset({*MEASURED_COLUMNS, PAIR, DECISIVE, *DESIGN_COLUMNS})
_NO_TEXT = re.compile("[\x00\ud800-\udfff]")


class Turn(NamedTuple):
    """What somebody says in a conversation: `role` is system, user or assistant."""

    role: str
    text: str


@dataclass(frozen=True)
class Case:
    """One question with its chain of thought ("" where there is none) and reference answer; `extra`
    holds the other columns, `place` says where it was read, for errors.

    `turns` is the question as a conversation: a system text first where there is one, then user and
    assistant by turns, the user last. It is empty where `question` was asked by itself.
    """

    question: str
    reasoning: str
    answer: str
    extra: Mapping[str, str] = field(default_factory=dict)
    place: str = field(default="", compare=False)
    turns: tuple[Turn, ...] = ()

    @property
    def asked(self) -> tuple[Turn, ...]:
        """The question as turns, whatever it was read from."""
        return self.turns or (Turn("user", self.question),)

    @property
    def key(self) -> str:
        """The question without case and white space: two cases with one key are the same
        question."""
        return " ".join(self.question.casefold().split())

    @property
    def digest(self) -> str:
        """Twelve hex digits that two cases share when question (whatever its case and spaces) and
        answer are the same.
        """
        return hashlib.sha256(json.dumps([self.key, self.answer]).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class ReadingReport:
    """What was met before rows were cases: `faulty` rows left out, `blank` ones, answers whose
    reasoning was split off at its marks, and `notes` on files that are not what their
    ending says."""

    faulty: int = 0
    blank: int = 0
    told_apart: int = 0
    notes: tuple[str, ...] = ()


AS_EXPECTED = ReadingReport()


def parse_case(record: Mapping[str, Any], columns: Columns, place: str) -> Case:
    """Return the case in `record`, whose `place` ("row 7 of cases.json") is named in errors.

    Where no column has its reasoning and the answer begins with a chain of thought in <think>
    marks, it is told apart there.
    Raises: DataError if a column is missing, or a value is empty or not text.
    """
    question = _parse_text(record, columns.question, place)
    answer = _parse_text(record, columns.answer, place)
    reasoning = _parse_reasoning(record, columns, answer, place)
    if not reasoning and holds_marks(answer):
        reasoning, answer = _split_reasoning(answer, columns.answer, place)
    named = (columns.question, columns.reasoning, columns.answer)
    extra = {
        name: _format_extra(name, value, place)
        for name, value in record.items()
        if name not in (*named, TURNS) and value is not None
    }
    return Case(question, reasoning, answer, extra, place, tuple(record.get(TURNS, ())))


def missing_column_error(name: str, record: Mapping[str, Any], place: str) -> DataError:
    """Return the error of a `record` without a column of that name."""
    return DataError(
        f"{place} has no column {name!r}; it has"
        f" {listing(map(str, record))}{nearest(name, record) or '.'} Name your columns with"
        " dataset.columns.question, .reasoning and .answer"
    )


def is_blank(value: object) -> bool:
    """Return whether a cell holds nothing: null, NaN, or white space alone."""
    return (
        value is None
        or (isinstance(value, float) and isnan(value))
        or (isinstance(value, str) and not value.strip())
    )


def _parse_reasoning(record: Mapping[str, Any], columns: Columns, answer: str, place: str) -> str:
    """Return the value of the reasoning column, without marks around it; "" where there is none and
    the answer has marks of its own."""
    if columns.reasoning is None or (
        holds_marks(answer) and is_blank(record.get(columns.reasoning))
    ):
        return ""
    reasoning = _parse_text(record, columns.reasoning, place)
    whole = split_reasoning(reasoning)
    return whole[0] if whole is not None and not whole[1] and whole[0] else reasoning


def _split_reasoning(answer: str, name: str, place: str) -> tuple[str, str]:
    parts = split_reasoning(answer)
    if parts is None:
        raise DataError(f"{place}: {name!r} holds <think> marks that do not pair")
    if not parts[1]:
        raise DataError(f"{place}: {name!r} has no answer after {THINK_END}")
    return parts


def _parse_text(record: Mapping[str, Any], name: str, place: str) -> str:
    if name not in record:
        raise missing_column_error(name, record, place)
    value = record[name]
    if is_blank(value):
        raise DataError(f"{place}: {name!r} is empty")
    if not isinstance(value, str):
        raise DataError(f"{place}: {name!r} is {type(value).__name__}, not text")
    _refuse_non_text(value, name, place)
    return value.strip()


def _format_extra(name: str, value: object, place: str) -> str:
    """Return a value of another column as text; a list as its items between semicolons, as
    `synonyms` are written, or as JSON where that could not be taken apart: see `parse_items`."""
    try:
        text = _join_items(value) if isinstance(value, list | tuple) else str(value)
    except RecursionError as error:
        raise DataError(f"{place}: {name!r} is nested too deeply") from error
    _refuse_non_text(text, name, place)
    return text


def _join_items(values: Sequence[object]) -> str:
    items = [str(value) for value in values if not is_blank(value)]
    text = "; ".join(items)
    is_faithful = parse_items(text) == [item.strip() for item in items]
    return text if is_faithful else json.dumps(items, ensure_ascii=False)


def parse_items(cell: str) -> list[str]:
    """Return the items of a list that a cell holds as text: a JSON array of them, one a line, or
    between semicolons; in this order of preference.
    """
    try:
        array = json.loads(cell) if cell.lstrip().startswith("[") else None
    except (ValueError, RecursionError):
        array = None
    parts = array if isinstance(array, list) else cell.split("\n" if "\n" in cell.strip() else ";")
    return [item for part in parts if part is not None and (item := str(part).strip())]


def _refuse_non_text(text: str, name: str, place: str) -> None:
    if found := _NO_TEXT.search(text):
        what = (
            "a NUL character" if found[0] == "\0" else "half a character (a lone UTF-16 surrogate)"
        )
        raise DataError(f"{place}: {name!r} holds {what}")


def compute_digest(cases: Iterable[Case]) -> str:
    """Return a short SHA-256 over `cases` in order, equal exactly when the cases are.

    Columns that measure or describe do not count: no model is trained on them, and a run goes on
    when they are added to its cases.
    """
    sha = hashlib.sha256()
    for case in cases:
        extra = {name: text for name, text in case.extra.items() if name not in _NEVER_TRAINED_ON}
        whole = [case.question, case.reasoning, case.answer, extra]
        sha.update(json.dumps(whole, sort_keys=True).encode())
    return sha.hexdigest()[:16]
