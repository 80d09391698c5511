"""A clinical case, and how a raw record becomes one. Refuses records with a missing, empty or non-text field, by their place."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from medexp.config.schema import Columns
from medexp.errors import DataError, listing, nearest


@dataclass(frozen=True)
class Case:
    """One question with its chain of thought ("" where there is none) and reference answer; `extra` holds the other columns."""

    question: str
    reasoning: str
    answer: str
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The question without case and white space: two cases with one key are the same question."""
        return " ".join(self.question.casefold().split())

    @property
    def digest(self) -> str:
        """Twelve hex digits that two cases share when question (whatever its case and spaces) and answer are the same."""
        return hashlib.sha256(json.dumps([self.key, self.answer]).encode()).hexdigest()[:12]


def case_of(record: Mapping[str, Any], columns: Columns, place: str) -> Case:
    """The case in `record`, whose `place` ("row 7 of cases.json") is named in errors.

    Raises: DataError if a column is missing, or a value is empty or not text.
    """
    wanted = [name for name in (columns.question, columns.reasoning, columns.answer) if name is not None]
    texts = {name: _text(record, name, place) for name in wanted}
    extra = {name: str(value) for name, value in record.items() if name not in wanted and value is not None}
    reasoning = texts[columns.reasoning] if columns.reasoning is not None else ""
    return Case(texts[columns.question], reasoning, texts[columns.answer], extra)


def _text(record: Mapping[str, Any], name: str, place: str) -> str:
    if name not in record:
        raise DataError(
            f"{place} has no column {name!r}; it has {listing(record)}{nearest(name, record) or '.'} "
            "Name your columns with dataset.columns.question, .reasoning and .answer"
        )
    value = record[name]
    if not isinstance(value, str):
        raise DataError(f"{place}: {name!r} is {type(value).__name__}, not text; fix or remove the record")
    if not value.strip():
        raise DataError(f"{place}: {name!r} is empty; fix or remove the record")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise DataError(f"{place}: {name!r} holds half a character (a lone UTF-16 surrogate); fix or remove the record")
    return value.strip()


def digest_of(cases: Iterable[Case]) -> str:
    """A short SHA-256 over `cases` in order, other columns included: equal exactly when the cases are."""
    sha = hashlib.sha256()
    for case in cases:
        whole = [case.question, case.reasoning, case.answer, dict(case.extra)]
        sha.update(json.dumps(whole, sort_keys=True).encode())
    return sha.hexdigest()[:16]
