import csv
import json
import re

import pyarrow
import pyarrow.parquet
import pytest

from medexp.data import loading as source
from medexp.data.cases import Case, digest_of
from medexp.errors import DataError
from medexp.system import hub

RECORDS = [
    {"Question": "Fever, what now?", "Complex_CoT": "Hot.\nSo: ill.", "Response": 'Rest, "drink".', "condition": "flu"},
    {"Question": "Hústen?\u2028Why", "Complex_CoT": "Cold.", "Response": "喝水 🫖", "condition": "cold"},
]
CASES = tuple(Case(r["Question"], r["Complex_CoT"], r["Response"], {"condition": r["condition"]}) for r in RECORDS)


def write_json(path, records):
    path.write_text(json.dumps(records), encoding="utf-8")


def write_jsonl(path, records):
    path.write_text("\n".join(json.dumps(record, ensure_ascii=False) for record in records) + "\n", encoding="utf-8")


def write_csv(path, records):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)


def write_parquet(path, records):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)


WRITERS = {".json": write_json, ".jsonl": write_jsonl, ".csv": write_csv, ".parquet": write_parquet}


@pytest.fixture
def refusal(dataset):
    """What is said against a file."""

    def said(path, **changes) -> str:
        with pytest.raises(DataError) as refused:
            source.load(dataset(path=str(path), **changes))
        return str(refused.value)

    return said


@pytest.mark.parametrize("ending", [*WRITERS, ".JSON", ".Csv"])
def test_every_kind_of_file_holds_the_same_cases(dataset, tmp_path, ending):
    path = tmp_path / f"cases{ending}"
    WRITERS[ending.lower()](path, RECORDS)
    loaded = source.load(dataset(path=str(path)))
    assert loaded.cases == CASES
    assert (loaded.origin, loaded.commit, loaded.digest) == (str(path), None, digest_of(CASES))


@pytest.mark.parametrize("ending", [".json", ".jsonl", ".csv"])
def test_a_byte_order_mark_is_no_part_of_the_first_column(dataset, tmp_path, ending):
    path = tmp_path / f"cases{ending}"
    WRITERS[ending](path, RECORDS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert source.load(dataset(path=str(path))).cases == CASES


@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
def test_windows_line_ends_are_line_ends(dataset, tmp_path, ending):
    path = tmp_path / f"cases{ending}"
    plain = [RECORDS[1], RECORDS[1] | {"Question": "another"}]
    WRITERS[ending](path, plain)
    path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    assert [case.answer for case in source.load(dataset(path=str(path))).cases] == ["喝水 🫖"] * 2


def test_blank_lines_of_jsonl_are_skipped(dataset, tmp_path):
    lines = [json.dumps(record) for record in RECORDS]
    (tmp_path / "cases.jsonl").write_text(f"\n{lines[0]}\n\n  \t\n{lines[1]}\n\n\n")
    assert source.load(dataset(path=str(tmp_path / "cases.jsonl"))).cases == CASES


def test_a_line_separator_inside_a_text_ends_no_line(dataset, tmp_path):
    record = dict.fromkeys(RECORDS[0], "one\u2028two\u2029three\x85four")
    write_jsonl(tmp_path / "cases.jsonl", [record])
    (case,) = source.load(dataset(path=str(tmp_path / "cases.jsonl"))).cases
    assert case.answer == "one\u2028two\u2029three\x85four"


def test_a_broken_line_of_jsonl_is_named(refusal, tmp_path):
    path = tmp_path / "cases.jsonl"
    path.write_text(json.dumps(RECORDS[0]) + "\n\n{'Question': 1}\n")
    assert re.match(rf"{path} line 3 is not valid JSON: .*; fix or remove the line$", refusal(path))


@pytest.mark.parametrize(("line", "kind"), [("[1]", "list"), ('"text"', "str"), ("null", "NoneType"), ("7", "int")])
def test_a_line_of_jsonl_that_is_no_object_is_named(refusal, tmp_path, line, kind):
    path = tmp_path / "cases.jsonl"
    path.write_text(json.dumps(RECORDS[0]) + f"\n{line}\n")
    assert refusal(path) == f"{path} line 2 is {kind}, not an object; fix or remove the line"


def test_broken_json_names_the_line(refusal, tmp_path):
    path = tmp_path / "cases.json"
    path.write_text('[\n{"Question": "q"},\n{"Question" "q"}\n]')
    assert re.match(rf"{path} is not valid JSON: .* in line 3; fix it$", refusal(path))


@pytest.mark.parametrize("content", ['{"Question": "q"}', '"text"', "[1, 2]", '[{"Question": "q"}, null]', "null"])
def test_json_that_is_no_array_of_objects_is_no_dataset(refusal, tmp_path, content):
    (tmp_path / "cases.json").write_text(content)
    assert refusal(tmp_path / "cases.json").endswith("is JSON but not a dataset: it must hold one array of objects")


def test_broken_csv_is_named(refusal, tmp_path):
    path = tmp_path / "cases.csv"
    path.write_text('Question,Complex_CoT,Response\n"q"x,r,a\n')
    assert re.match(rf"{path} is not valid CSV: .*; fix it$", refusal(path))


def test_a_csv_row_with_an_unquoted_comma_is_not_cut(refusal, tmp_path):
    path = tmp_path / "cases.csv"
    path.write_text("Question,Complex_CoT,Response\nq,r,a\nq,r,rest, and drink\n")
    assert refusal(path) == f"row 3 of {path} has more cells than the header has columns; quote a cell that holds a comma"


def test_empty_cells_after_the_last_column_are_nothing(dataset, tmp_path):
    (tmp_path / "cases.csv").write_text("Question,Complex_CoT,Response\nq,r,a,,\n")
    assert source.load(dataset(path=str(tmp_path / "cases.csv"))).cases == (Case("q", "r", "a"),)


def test_a_csv_row_that_is_too_short_names_the_column_it_lacks(refusal, tmp_path):
    (tmp_path / "cases.csv").write_text("Question,Complex_CoT,Response\nq,r\n")
    assert refusal(tmp_path / "cases.csv").startswith("row 2 of cases.csv: 'Response' is ")


def test_rows_are_counted_as_a_spreadsheet_and_an_editor_count_them(refusal, tmp_path):
    (tmp_path / "cases.csv").write_text('Question,Complex_CoT,Response\n\nq,"two\nlines",a\n\n\nq,r,\n')
    assert refusal(tmp_path / "cases.csv").startswith("row 6 of cases.csv: 'Response' is empty")
    (tmp_path / "cases.jsonl").write_text(f"{json.dumps(RECORDS[0])}\n\n{json.dumps(RECORDS[1] | {'Response': ''})}\n")
    assert refusal(tmp_path / "cases.jsonl").startswith("row 3 of cases.jsonl: 'Response' is empty")


def test_two_columns_of_one_name_are_refused(refusal, tmp_path):
    (tmp_path / "cases.csv").write_text("Question,Complex_CoT,Response,Response,,\nq,r,a,b,,\n")
    assert refusal(tmp_path / "cases.csv") == (
        f"{tmp_path / 'cases.csv'} has more than one column 'Response'; rename or remove all but one"
    )


@pytest.mark.parametrize("separator", [";", "\t"])
def test_another_separator_is_guessed(refusal, tmp_path, separator):
    (tmp_path / "cases.csv").write_text(f"Question{separator}Complex_CoT{separator}Response\nq, now{separator}r{separator}a\n")
    assert f"has cells parted by {separator!r}, as it seems, and not by commas" in refusal(tmp_path / "cases.csv")


def test_a_long_cell_is_read(dataset, tmp_path):
    write_csv(tmp_path / "cases.csv", [RECORDS[0] | {"Complex_CoT": "long " * 50_000}])
    (case,) = source.load(dataset(path=str(tmp_path / "cases.csv"))).cases
    assert len(case.reasoning) == 249_999


BLANKS = [("", WRITERS), (" ", WRITERS), (None, WRITERS), (float("nan"), [".json", ".jsonl"])]


@pytest.mark.parametrize(("blank", "ending"), [(blank, ending) for blank, endings in BLANKS for ending in endings])
def test_a_record_without_a_group_is_named(dataset, refusal, tmp_path, blank, ending):
    path = tmp_path / f"cases{ending}"
    WRITERS[ending](path, [RECORDS[0], RECORDS[1] | {"condition": blank}])
    row = 3 if ending == ".csv" else 2
    assert refusal(path, group_by="condition") == (
        f"row {row} of cases{ending}: 'condition' is empty, and dataset.group_by=condition would make one group of all such "
        "records; fill it, or set dataset.group_by=null to split case by case"
    )
    assert len(source.load(dataset(path=str(path))).cases) == 2


def test_a_number_that_is_none_groups_nothing(refusal, tmp_path):
    path = tmp_path / "cases.parquet"
    write_parquet(path, [RECORDS[0] | {"condition": 1.5}, RECORDS[1] | {"condition": float("nan")}])
    assert refusal(path, group_by="condition").startswith("row 2 of cases.parquet: 'condition' is empty")


def test_a_text_file_called_parquet_is_named(refusal, tmp_path):
    (tmp_path / "cases.parquet").write_text("Question,Complex_CoT,Response\n")
    assert refusal(tmp_path / "cases.parquet").startswith(f"{tmp_path / 'cases.parquet'} is not a Parquet file: ")


@pytest.mark.parametrize("ending", [".json", ".jsonl", ".csv"])
def test_a_file_that_is_not_utf_8_names_the_byte(refusal, tmp_path, ending):
    path = tmp_path / f"cases{ending}"
    path.write_bytes(b"x" * 20_000 + "é".encode("latin-1") + b"\n")
    assert refusal(path) == f"{path} is not UTF-8 text (byte 20000); save it as UTF-8"


@pytest.mark.parametrize("name", ["nothing.json", "."])
def test_a_missing_file_is_named_with_its_key(refusal, tmp_path, name):
    path = tmp_path / name
    assert refusal(path) == f"dataset.path={path} does not exist; give a JSON, JSONL, CSV or Parquet file"


@pytest.mark.parametrize(("name", "ending"), [("cases.xlsx", ".xlsx"), ("cases", "nothing"), ("cases.json.gz", ".gz")])
def test_an_unknown_ending_lists_the_known_ones(refusal, tmp_path, name, ending):
    (tmp_path / name).write_text("x")
    assert refusal(tmp_path / name) == f"dataset.path={tmp_path / name} ends in {ending}; allowed are .json, .jsonl, .csv, .parquet"


@pytest.mark.parametrize(
    ("name", "content"), [("c.json", "[]"), ("c.jsonl", "\n\n"), ("c.csv", ""), ("c.csv", "Question,Response\n")]
)
def test_a_file_without_records_says_how_many_are_needed(refusal, tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert refusal(tmp_path / name, held_out=16) == f"{tmp_path / name} holds no records; dataset=local needs at least 17"


@pytest.mark.parametrize("ending", WRITERS)
def test_a_missing_column_lists_the_columns(refusal, tmp_path, ending):
    path = tmp_path / f"cases{ending}"
    WRITERS[ending](path, [{"vignette": "q", "why": "r", "Response": "a"}])
    assert refusal(path).startswith(
        f"row {2 if ending == '.csv' else 1} of cases{ending} has no column 'Question'; it has vignette, why, Response"
    )


@pytest.mark.parametrize("ending", WRITERS)
def test_an_empty_field_names_the_row(refusal, tmp_path, ending):
    path = tmp_path / f"cases{ending}"
    WRITERS[ending](path, [RECORDS[0], RECORDS[1] | {"Response": "  "}])
    assert refusal(path) == f"row {3 if ending == '.csv' else 2} of cases{ending}: 'Response' is empty; fix or remove the record"


@pytest.mark.parametrize("ending", [".json", ".jsonl", ".parquet"])
def test_a_field_that_is_no_text_names_the_row(refusal, tmp_path, ending):
    path = tmp_path / f"cases{ending}"
    WRITERS[ending](path, [RECORDS[0] | {"Response": 7}])
    assert refusal(path) == f"row 1 of cases{ending}: 'Response' is int, not text; fix or remove the record"


def test_half_a_character_in_json_names_the_row(refusal, tmp_path):
    write_json(tmp_path / "cases.json", [RECORDS[0], RECORDS[1] | {"Response": "half \ud83d"}])
    assert refusal(tmp_path / "cases.json").startswith("row 2 of cases.json: 'Response' holds half a character")


def test_a_dataset_of_the_hub_is_its_rows_at_a_commit(dataset, monkeypatch):
    monkeypatch.setattr(hub, "commit_of", lambda *_: "c0ffee")
    monkeypatch.setattr(hub, "load_table", lambda *asked: RECORDS if asked == ("me/cases", "en", "c0ffee") else [])
    loaded = source.load(dataset(hub_id="me/cases", config="en"))
    assert (loaded.cases, loaded.origin, loaded.commit) == (CASES, "hf://datasets/me/cases/en", "c0ffee")


def test_a_hub_that_does_not_answer_says_what_to_do(dataset, monkeypatch):
    def unreachable(*_):
        raise hub.HubError("no connection")

    monkeypatch.setattr(hub, "commit_of", unreachable)
    with pytest.raises(DataError) as refused:
        source.load(dataset(hub_id="me/cases", config="en"))
    said = str(refused.value)
    assert said.startswith("dataset me/cases (en, revision main) could not be downloaded from the Hub: no connection.")
    assert "Set dataset.path=FILE" in said
    assert "HF_TOKEN" in said
