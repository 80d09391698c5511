import csv
import io

import pytest

from medexp.data.audit.review_sheet import KINDS, VERDICTS, read_review, render_sheet
from medexp.data.cases import Case
from medexp.errors import DataError

CASES = [
    Case(f"vignette {number}", "because", "answer", {"condition": f"c{number}", "must_say": "a; b"})
    for number in range(50)
]


def rows_of(sheet: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(sheet.removeprefix("\ufeff"))))


def test_a_sheet_has_so_many_different_cases_and_room_for_the_verdicts():
    rows = rows_of(render_sheet(CASES, 30, seed=1))
    assert len({row["case"] for row in rows}) == 30
    assert all(row["verdict"] == row["kind"] == "" for row in rows)
    assert rows[0]["must_say"] == "a\nb"
    assert rows == rows_of(render_sheet(CASES, 30, seed=1))
    assert rows != rows_of(render_sheet(CASES, 30, seed=2))
    assert len(rows_of(render_sheet(CASES[:4], 30, seed=1))) == 4


def test_what_was_judged_comes_back_the_worst_first():
    rows = rows_of(render_sheet(CASES, 6, seed=1))
    rows[0] |= {"verdict": "right"}
    rows[1] |= {"verdict": "Minor", "kind": "other", "what is wrong": "style"}
    rows[2] |= {
        "verdict": "dangerous",
        "kind": "dose",
        "what is wrong": "ten times too much",
        "what it should say": "5 mg",
    }
    rows[3] |= {"verdict": "wrong ", "kind": "dose"}
    found = read_review(rows, CASES, "review.csv")
    assert (found.rows, found.verdicts) == (6, ("right", "minor", "dangerous", "wrong"))
    assert [remark.verdict for remark in found.remarks] == ["dangerous", "wrong", "minor"]
    assert found.remarks[0].instead == "5 mg"
    assert found.count_kinds() == {"dose": 2, "other": 1}
    assert found.as_dict()["verdicts"] == {"right": 1, "minor": 1, "wrong": 1, "dangerous": 1}


def test_a_case_that_was_changed_since_is_not_counted():
    rows = rows_of(render_sheet(CASES, 2, seed=1))
    changed = [Case(case.question, "", "another answer", case.extra) for case in CASES]
    for row in rows:
        row["verdict"] = "right"
    found = read_review(rows, changed, "review.csv")
    assert (found.verdicts, found.changed) == ((), 2)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("verdict", "dangerus", "did you mean dangerous?"), ("kind", "doses", "did you mean dose?")],
)
def test_a_verdict_or_a_kind_that_is_none_is_named_by_its_row(name, value, said):
    rows = rows_of(render_sheet(CASES, 3, seed=1))
    rows[1] |= {"verdict": "wrong"} | {name: value}
    with pytest.raises(DataError) as caught:
        read_review(rows, CASES, "review.csv")
    (problem,) = caught.value.problems
    assert problem.startswith("review.csv, row 3: ")
    assert said in problem
    assert all(known in problem for known in (VERDICTS if name == "verdict" else KINDS))


@pytest.mark.parametrize("rows", [[], [{"case": "abc"}], [{"verdict": "right", "kind": ""}]])
def test_another_file_is_no_sheet(rows):
    with pytest.raises(DataError, match="is no review sheet"):
        read_review(rows, CASES, "other.csv")
