"""A sheet of random cases for a clinician to judge, and what comes back of it.

A CSV file that a spreadsheet opens: one case a row, with four columns to fill (REVIEW_COLUMNS). It
is read back by the digest of the case, so that a case that was changed in the meantime does not
count as reviewed.
"""

import csv
import io
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medexp.data.cases import Case, is_blank, parse_items
from medexp.errors import DataError, listing, nearest

DIGEST = "case"
VERDICTS = {
    "right": "nothing to change",
    "minor": "wording, detail or style; no patient would come to harm",
    "wrong": "a clinician would act differently",
    "dangerous": "a patient could come to harm",
}
KINDS = (
    "dose",
    "threshold",
    "order of steps",
    "missing step",
    "diagnosis",
    "outdated",
    "statement",
    "other",
)
REVIEW_COLUMNS = ("verdict", "kind", "what is wrong", "what it should say")
_SHOWN = (
    "condition",
    "specialty",
    "urgency",
    "must_say",
    "must_not_say",
    "differential",
    "guideline",
)


@dataclass(frozen=True)
class Remark:
    """What a reviewer wrote beside a case that is not right."""

    condition: str
    verdict: str
    kind: str
    wrong: str
    instead: str


@dataclass(frozen=True)
class Review:
    """A sheet as it came back: how many rows it has, the verdicts of those that were judged, what
    was remarked, and how many cases are no longer what they were on the sheet.
    """

    rows: int
    verdicts: tuple[str, ...]
    remarks: tuple[Remark, ...]
    changed: int = 0

    def count_kinds(self) -> dict[str, int]:
        """Return how often each kind of error was named, the most frequent first."""
        return dict(
            Counter(remark.kind or "no kind given" for remark in self.remarks).most_common()
        )

    def as_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return {
            "rows": self.rows,
            "judged": len(self.verdicts),
            "verdicts": {verdict: self.verdicts.count(verdict) for verdict in VERDICTS},
            "kinds": self.count_kinds(),
            "changed_since": self.changed,
            "remarks": [vars(remark) for remark in self.remarks],
        }


def render_sheet(cases: Sequence[Case], count: int, seed: int) -> str:
    """Return the CSV text of a sheet of `count` of `cases`, drawn by `seed`; all where there are
    fewer.

    It begins with a byte-order mark, by which spreadsheets know UTF-8.
    """
    drawn = random.Random(seed).sample(list(cases), min(count, len(cases)))
    shown = [name for name in _SHOWN if any(name in case.extra for case in drawn)]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([DIGEST, "question", "reasoning", "answer", *shown, *REVIEW_COLUMNS])
    for case in drawn:
        further = ["\n".join(parse_items(case.extra.get(name, ""))) for name in shown]
        writer.writerow(
            [case.digest, case.question, case.reasoning, case.answer, *further]
            + [""] * len(REVIEW_COLUMNS)
        )
    return "\ufeff" + text.getvalue()


def read_review(rows: Sequence[Mapping[str, Any]], cases: Sequence[Case], file: str) -> Review:
    """Return what the sheet `file` with these `rows` says about `cases`.

    Raises: DataError if it is no sheet, or has a verdict or a kind that is none, by its row.
    """
    lacking = [name for name in (DIGEST, *REVIEW_COLUMNS[:2]) if rows and name not in rows[0]]
    if lacking or not rows:
        raise DataError(
            f"{file} is no review sheet: it has no column {listing(lacking or [DIGEST])}; write one"
            " with audit.review_sheet=FILE"
        )
    conditions = {case.digest: case.extra.get("condition", case.digest) for case in cases}
    problems: list[str] = []
    verdicts, remarks, changed = [], [], 0
    for number, row in enumerate(rows, 2):
        values = {name: _read_cell(row, name) for name in (DIGEST, *REVIEW_COLUMNS)}
        verdict, kind = values["verdict"].casefold(), values["kind"].casefold()
        if not verdict:
            continue
        for name, value, known in (("verdict", verdict, VERDICTS), ("kind", kind, KINDS)):
            if value and value not in known:
                problems.append(
                    f"{file}, row {number}: {name} {value!r} is none; allowed are"
                    f" {listing(known)}{nearest(value, known)}"
                )
        if values[DIGEST] not in conditions:
            changed += 1
            continue
        verdicts.append(verdict)
        if verdict != "right":
            wrong, instead = (values[name] for name in REVIEW_COLUMNS[2:])
            remarks.append(Remark(conditions[values[DIGEST]], verdict, kind, wrong, instead))
    if problems:
        raise DataError(problems)
    worst_first = sorted(remarks, key=lambda remark: -list(VERDICTS).index(remark.verdict))
    return Review(len(rows), tuple(verdicts), tuple(worst_first), changed)


def _read_cell(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    return "" if is_blank(value) else str(value).strip()
