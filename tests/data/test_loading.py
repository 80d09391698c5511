import csv
import json
import re

import pyarrow
import pyarrow.parquet
import pytest

from medexp.config.schema import Columns, Faulty, Prompt
from medexp.data import loading as data_loading
from medexp.data.cases import Case, compute_digest
from medexp.errors import DataError
from medexp.system import hub

RECORDS = [
    {
        "Question": "Fever, what now?",
        "Complex_CoT": "Hot.\nSo: ill.",
        "Response": 'Rest, "drink".',
        "condition": "flu",
    },
    {
        "Question": "Hústen?\u2028Why",
        "Complex_CoT": "Cold.",
        "Response": "喝水 🫖",
        "condition": "cold",
    },
]
CASES = tuple(
    Case(r["Question"], r["Complex_CoT"], r["Response"], {"condition": r["condition"]})
    for r in RECORDS
)


def write_json(path, records):
    path.write_text(json.dumps(records), encoding="utf-8")


def write_jsonl(path, records):
    path.write_text(
        "\n".join(json.dumps(record, ensure_ascii=False) for record in records) + "\n",
        encoding="utf-8",
    )


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
    """The first thing that is said against a file."""

    def said(path, prompt=None, **changes) -> str:
        with pytest.raises(DataError) as refused:
            data_loading.load_cases(dataset(path=str(path), **changes), prompt)
        return refused.value.problems[0]

    return said


@pytest.mark.parametrize("ending", [*WRITERS, ".JSON", ".Csv"])
def test_every_kind_of_file_holds_the_same_cases(dataset, tmp_path, ending):
    path = tmp_path / f"cases{ending}"
    WRITERS[ending.lower()](path, RECORDS)
    loaded = data_loading.load_cases(dataset(path=str(path)))
    assert loaded.cases == CASES
    assert (loaded.origin, loaded.commit, loaded.digest) == (str(path), None, compute_digest(CASES))


@pytest.mark.parametrize("ending", [".json", ".jsonl", ".csv"])
def test_a_byte_order_mark_is_no_part_of_the_first_column(dataset, tmp_path, ending):
    path = tmp_path / f"cases{ending}"
    WRITERS[ending](path, RECORDS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert data_loading.load_cases(dataset(path=str(path))).cases == CASES


@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
def test_windows_line_ends_are_line_ends(dataset, tmp_path, ending):
    path = tmp_path / f"cases{ending}"
    plain = [RECORDS[1], RECORDS[1] | {"Question": "another"}]
    WRITERS[ending](path, plain)
    path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    assert [case.answer for case in data_loading.load_cases(dataset(path=str(path))).cases] == [
        "喝水 🫖"
    ] * 2


def test_blank_lines_of_jsonl_are_skipped(dataset, tmp_path):
    lines = [json.dumps(record) for record in RECORDS]
    (tmp_path / "cases.jsonl").write_text(f"\n{lines[0]}\n\n  \t\n{lines[1]}\n\n\n")
    assert data_loading.load_cases(dataset(path=str(tmp_path / "cases.jsonl"))).cases == CASES


def test_a_line_separator_inside_a_text_ends_no_line(dataset, tmp_path):
    record = dict.fromkeys(RECORDS[0], "one\u2028two\u2029three\x85four")
    write_jsonl(tmp_path / "cases.jsonl", [record])
    (case,) = data_loading.load_cases(dataset(path=str(tmp_path / "cases.jsonl"))).cases
    assert case.answer == "one\u2028two\u2029three\x85four"


def test_a_broken_line_of_jsonl_is_named(refusal, tmp_path):
    path = tmp_path / "cases.jsonl"
    path.write_text(json.dumps(RECORDS[0]) + "\n\n{'Question': 1}\n")
    assert re.match(r"line 3 of cases.jsonl is not valid JSON: ", refusal(path))


@pytest.mark.parametrize(
    ("line", "kind"), [("[1]", "list"), ('"text"', "str"), ("null", "NoneType"), ("7", "int")]
)
def test_a_line_of_jsonl_that_is_no_object_is_named(refusal, tmp_path, line, kind):
    path = tmp_path / "cases.jsonl"
    path.write_text(json.dumps(RECORDS[0]) + f"\n{line}\n")
    assert refusal(path) == f"line 2 of cases.jsonl is {kind}, not an object"


def test_broken_json_names_the_line(refusal, tmp_path):
    path = tmp_path / "cases.json"
    path.write_text('[\n{"Question": "q"},\n{"Question" "q"}\n]')
    assert re.match(rf"{path} is not valid JSON: .* in line 3; fix it$", refusal(path))


@pytest.mark.parametrize(
    "content", ['{"Question": "q"}', '"text"', "[1, 2]", '[{"Question": "q"}, null]', "null"]
)
def test_json_that_is_no_array_of_objects_is_no_dataset(refusal, tmp_path, content):
    (tmp_path / "cases.json").write_text(content)
    assert refusal(tmp_path / "cases.json").endswith(
        "is JSON but not a dataset: it must hold one array of objects"
    )


def test_broken_csv_is_named(refusal, tmp_path):
    path = tmp_path / "cases.csv"
    path.write_text('Question,Complex_CoT,Response\n"q"x,r,a\n')
    assert re.match(rf"{path} is not valid CSV: .*; fix it$", refusal(path))


def test_a_csv_row_with_an_unquoted_comma_is_not_cut(refusal, tmp_path):
    path = tmp_path / "cases.csv"
    path.write_text("Question,Complex_CoT,Response\nq,r,a\nq,r,rest, and drink\n")
    assert (
        refusal(path)
        == "row 3 of cases.csv has more cells than the header has columns; quote a cell that holds"
        " a separator"
    )


def test_empty_cells_after_the_last_column_are_nothing(dataset, tmp_path):
    (tmp_path / "cases.csv").write_text("Question,Complex_CoT,Response\nq,r,a,,\n")
    assert data_loading.load_cases(dataset(path=str(tmp_path / "cases.csv"))).cases == (
        Case("q", "r", "a"),
    )


def test_a_csv_row_that_is_too_short_names_the_column_it_lacks(refusal, tmp_path):
    (tmp_path / "cases.csv").write_text("Question,Complex_CoT,Response\nq,r\n")
    assert refusal(tmp_path / "cases.csv").startswith("row 2 of cases.csv: 'Response' is ")


def test_rows_are_counted_as_a_spreadsheet_and_an_editor_count_them(refusal, tmp_path):
    (tmp_path / "cases.csv").write_text(
        'Question,Complex_CoT,Response\n\nq,"two\nlines",a\n\n\nq,r,\n'
    )
    assert refusal(tmp_path / "cases.csv").startswith("row 6 of cases.csv: 'Response' is empty")
    (tmp_path / "cases.jsonl").write_text(
        f"{json.dumps(RECORDS[0])}\n\n{json.dumps(RECORDS[1] | {'Response': ''})}\n"
    )
    assert refusal(tmp_path / "cases.jsonl").startswith("row 3 of cases.jsonl: 'Response' is empty")


def test_two_columns_of_one_name_are_refused(refusal, tmp_path):
    (tmp_path / "cases.csv").write_text("Question,Complex_CoT,Response,Response,,\nq,r,a,b,,\n")
    assert (
        refusal(tmp_path / "cases.csv")
        == f"{tmp_path / 'cases.csv'} has more than one column 'Response'; rename or remove all"
        " but one"
    )


@pytest.mark.parametrize(
    ("separator", "name"), [(";", "semicolons"), ("\t", "tabs"), ("|", "bars")]
)
def test_another_separator_is_read_and_said(dataset, tmp_path, separator, name):
    rows = ["Question|Complex_CoT|Response", "q, now|r|38,6", '"a ""b"" | c"|r|a', "\n"]
    (tmp_path / "cases.csv").write_text(
        "\n".join(rows).replace(" | ", "~").replace("|", separator).replace("~", f" {separator} ")
    )
    loaded = data_loading.load_cases(dataset(path=str(tmp_path / "cases.csv")))
    assert loaded.cases == (Case("q, now", "r", "38,6"), Case(f'a "b" {separator} c', "r", "a"))
    assert loaded.reading.notes == (f"cases.csv has cells parted by {name}",)


def test_tab_separated_values_are_read(dataset, tmp_path):
    (tmp_path / "cases.tsv").write_text("Question\tComplex_CoT\tResponse\nq, now\tr\t38,6\n")
    loaded = data_loading.load_cases(dataset(path=str(tmp_path / "cases.tsv")))
    assert loaded.cases == (Case("q, now", "r", "38,6"),)


def test_a_long_cell_is_read(dataset, tmp_path):
    write_csv(tmp_path / "cases.csv", [RECORDS[0] | {"Complex_CoT": "long " * 50_000}])
    (case,) = data_loading.load_cases(dataset(path=str(tmp_path / "cases.csv"))).cases
    assert len(case.reasoning) == 249_999


BLANKS = [("", WRITERS), (" ", WRITERS), (None, WRITERS), (float("nan"), [".json", ".jsonl"])]


@pytest.mark.parametrize(
    ("blank", "ending"), [(blank, ending) for blank, endings in BLANKS for ending in endings]
)
def test_a_record_without_a_group_is_named(dataset, refusal, tmp_path, blank, ending):
    path = tmp_path / f"cases{ending}"
    WRITERS[ending](path, [RECORDS[0], RECORDS[1] | {"condition": blank}])
    row = 3 if ending == ".csv" else 2
    assert (
        refusal(path, group_by="condition")
        == f"row {row} of cases{ending}: 'condition' is empty, and dataset.group_by=condition would"
        " make one group of all such records; fill it, or set dataset.group_by=null to split"
        " case by case"
    )
    assert len(data_loading.load_cases(dataset(path=str(path))).cases) == 2


def test_a_number_that_is_none_groups_nothing(refusal, tmp_path):
    path = tmp_path / "cases.parquet"
    write_parquet(path, [RECORDS[0] | {"condition": 1.5}, RECORDS[1] | {"condition": float("nan")}])
    assert refusal(path, group_by="condition").startswith(
        "row 2 of cases.parquet: 'condition' is empty"
    )


def test_a_text_file_called_parquet_is_named(refusal, tmp_path):
    (tmp_path / "cases.parquet").write_text("Question,Complex_CoT,Response\n")
    assert refusal(tmp_path / "cases.parquet").startswith(
        f"{tmp_path / 'cases.parquet'} is not a Parquet file: "
    )


@pytest.mark.parametrize(
    ("ending", "wrong"), [(".json", "é"), (".jsonl", "é"), (".csv", "患者患者"), (".csv", "жар")]
)
def test_a_file_that_is_not_utf_8_names_the_byte(refusal, tmp_path, ending, wrong):
    path = tmp_path / f"cases{ending}"
    path.write_bytes(
        b"x" * 20_000 + wrong.encode({"é": "latin-1", "жар": "cp1251"}.get(wrong, "gbk")) + b"\n"
    )
    assert refusal(path) == f"{path} is not UTF-8 text (byte 20000); save it as UTF-8"


def test_a_missing_file_is_named_with_its_key(refusal, tmp_path):
    path = tmp_path / "nothing.json"
    assert refusal(path) == (
        f"dataset.path={path} does not exist; give a JSON, JSONL, CSV, TSV or Parquet file, or a"
        " folder of them"
    )


@pytest.mark.parametrize(
    ("name", "ending", "remedy"),
    [
        ("cases.xlsx", ".xlsx", "; save the sheet as CSV"),
        ("cases", "nothing", ""),
        ("cases.json.gz", ".gz", ""),
    ],
)
def test_an_unknown_ending_lists_the_known_ones(refusal, tmp_path, name, ending, remedy):
    (tmp_path / name).write_text("x")
    assert (
        refusal(tmp_path / name)
        == f"dataset.path={tmp_path / name} ends in {ending}; allowed are .json, .jsonl, .csv,"
        f" .tsv, .parquet{remedy}"
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [("c.json", "[]"), ("c.jsonl", "\n\n"), ("c.csv", ""), ("c.csv", "Question,Response\n")],
)
def test_a_file_without_records_says_how_many_are_needed(refusal, tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert (
        refusal(tmp_path / name, held_out=16)
        == f"{tmp_path / name} holds no records; dataset=local needs at least 17"
    )


@pytest.mark.parametrize("ending", WRITERS)
def test_a_missing_column_lists_the_columns(refusal, tmp_path, ending):
    path = tmp_path / f"cases{ending}"
    WRITERS[ending](path, [{"vignette": "q", "why": "r", "Response": "a"}])
    assert refusal(path).startswith(
        f"row {2 if ending == '.csv' else 1} of cases{ending} has no column 'Question'; it has"
        " vignette, why, Response"
    )


@pytest.mark.parametrize("ending", WRITERS)
def test_an_empty_field_names_the_row(refusal, tmp_path, ending):
    path = tmp_path / f"cases{ending}"
    WRITERS[ending](path, [RECORDS[0], RECORDS[1] | {"Response": "  "}])
    assert (
        refusal(path) == f"row {3 if ending == '.csv' else 2} of cases{ending}: 'Response' is empty"
    )


@pytest.mark.parametrize("ending", [".json", ".jsonl", ".parquet"])
def test_a_field_that_is_no_text_names_the_row(refusal, tmp_path, ending):
    path = tmp_path / f"cases{ending}"
    WRITERS[ending](path, [RECORDS[0] | {"Response": 7}])
    assert refusal(path) == f"row 1 of cases{ending}: 'Response' is int, not text"


def test_half_a_character_in_json_names_the_row(refusal, tmp_path):
    write_json(tmp_path / "cases.json", [RECORDS[0], RECORDS[1] | {"Response": "half \ud83d"}])
    assert refusal(tmp_path / "cases.json").startswith(
        "row 2 of cases.json: 'Response' holds half a character"
    )


def test_a_dataset_of_the_hub_is_its_rows_at_a_commit(dataset, monkeypatch):
    monkeypatch.setattr(hub, "find_commit", lambda *_: "c0ffee")
    monkeypatch.setattr(
        hub, "load_table", lambda *asked: RECORDS if asked == ("me/cases", "en", "c0ffee") else []
    )
    loaded = data_loading.load_cases(dataset(hub_id="me/cases", config="en"))
    assert (loaded.cases, loaded.origin, loaded.commit) == (
        CASES,
        "hf://datasets/me/cases/en",
        "c0ffee",
    )


def test_a_hub_that_does_not_answer_says_what_to_do(dataset, monkeypatch):
    def unreachable(*_):
        raise hub.HubError("no connection")

    monkeypatch.setattr(hub, "find_commit", unreachable)
    with pytest.raises(DataError) as refused:
        data_loading.load_cases(dataset(hub_id="me/cases", config="en"))
    said = str(refused.value)
    assert said.startswith(
        "dataset me/cases (en, revision main) could not be downloaded from the Hub: no connection."
    )
    assert "Set dataset.path=FILE" in said
    assert "HF_TOKEN" in said


def test_all_faulty_rows_are_counted_and_the_first_ten_named(dataset, tmp_path):
    path = tmp_path / "cases.csv"
    rows = [
        RECORDS[0] | {"Question": f"q{number}", "Response": "" if number % 2 else "a"}
        for number in range(24)
    ]
    write_csv(path, rows)
    with pytest.raises(DataError) as refused:
        data_loading.load_cases(dataset(path=str(path)))
    *named, last = refused.value.problems
    assert named == [
        f"row {number} of cases.csv: 'Response' is empty" for number in range(3, 23, 2)
    ]
    assert (
        last
        == "12 of 24 rows of cases.csv cannot be used; the first 10 are named above: fix or remove"
        " them, or set dataset.faulty=drop to leave them out"
    )
    loaded = data_loading.load_cases(dataset(path=str(path), faulty=Faulty.drop))
    assert [case.question for case in loaded.cases] == [f"q{number}" for number in range(0, 24, 2)]
    assert loaded.reading.faulty == 12


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv"])
def test_faults_of_every_kind_are_named_in_their_order_and_may_be_dropped(
    dataset, tmp_path, ending
):
    path = tmp_path / f"cases{ending}"
    whole = json.dumps(RECORDS[0])
    path.write_text(f"{whole}\n{{nonsense}}\n{json.dumps(RECORDS[0] | {'Response': 5})}\n[]\n")
    if ending == ".csv":
        path.write_text("Question,Complex_CoT,Response\nq,r,a\nq,r,a,too many\nq,r\nq,r, \n")
    loaded = data_loading.load_cases(dataset(path=str(path), faulty=Faulty.drop))
    assert (len(loaded.cases), loaded.reading.faulty) == (1, 3)
    with pytest.raises(DataError) as refused:
        data_loading.load_cases(dataset(path=str(path)))
    first = 3 if ending == ".csv" else 2
    assert [
        int(re.search(r"(?:row|line) (\d+)", each)[1]) for each in refused.value.problems[:3]
    ] == [first, first + 1, first + 2]


def test_a_file_of_which_nothing_is_left_is_refused_even_when_dropping(dataset, tmp_path):
    write_csv(tmp_path / "cases.csv", [RECORDS[0] | {"Response": ""}])
    with pytest.raises(DataError, match=r"1 of 1 rows of cases\.csv cannot be used"):
        data_loading.load_cases(dataset(path=str(tmp_path / "cases.csv"), faulty=Faulty.drop))


@pytest.mark.parametrize("ending", WRITERS)
def test_rows_in_which_nothing_stands_are_passed_over_and_counted(dataset, tmp_path, ending):
    blank = dict.fromkeys(RECORDS[0], None if ending == ".parquet" else " ")
    WRITERS[ending](tmp_path / f"cases{ending}", [*RECORDS, blank, blank, blank])
    loaded = data_loading.load_cases(dataset(path=str(tmp_path / f"cases{ending}")))
    assert (loaded.cases, loaded.reading.blank, loaded.reading.faulty) == (CASES, 3, 0)


@pytest.mark.parametrize("ending", [".json", ".jsonl"])
def test_json_is_read_by_what_it_holds(dataset, tmp_path, ending):
    path, other = tmp_path / f"cases{ending}", {".json": ".jsonl", ".jsonl": ".json"}[ending]
    WRITERS[other](path, RECORDS)
    loaded = data_loading.load_cases(dataset(path=str(path)))
    assert loaded.cases == CASES
    assert loaded.reading.notes == (
        f"cases{ending} holds {'JSON Lines' if ending == '.json' else 'one JSON array'}",
    )


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize("ending", [".json", ".jsonl", ".csv"])
def test_unicode_is_read_in_every_encoding(dataset, tmp_path, encoding, ending):
    path = tmp_path / f"cases{ending}"
    WRITERS[ending](path, RECORDS)
    path.write_bytes(path.read_bytes().decode().encode(encoding))
    loaded = data_loading.load_cases(dataset(path=str(path)))
    assert loaded.cases == CASES
    assert [encoding[:6].upper() in note for note in loaded.reading.notes] == (
        [] if encoding == "utf-8-sig" else [True]
    )


def test_what_a_european_excel_writes_is_read(dataset, tmp_path):
    text = (
        'sep=;\r\nQuestion;Complex_CoT;Response\r\n"Größe 1,80 m; 39,5 °C";Näher: „heiß“ – 5 €;Café'
        " d'été, señor…\r\n;;\r\n"
    )
    (tmp_path / "cases.csv").write_bytes(text.encode("cp1252"))
    loaded = data_loading.load_cases(dataset(path=str(tmp_path / "cases.csv")))
    assert loaded.cases == (
        Case("Größe 1,80 m; 39,5 °C", "Näher: „heiß“ – 5 €", "Café d'été, señor…"),
    )
    assert loaded.reading.notes == (
        "cases.csv is Windows-1252",
        "cases.csv has cells parted by semicolons",
    )
    assert loaded.cases[0].place == "row 3 of cases.csv"


FOREIGN = [
    ("患者三十岁，发热三天。", "gbk"),
    ("患者は熱がある。", "shift-jis"),
    ("У больного жар.", "cp1251"),
    ("miał gorączkę", "cp1250"),
]


@pytest.mark.parametrize(
    ("text", "encoding"), [*FOREIGN, ("für Grüße", "mac-roman"), ("für Ärzte, Größe", "cp850")]
)
def test_another_old_encoding_is_not_taken_for_western(refusal, tmp_path, text, encoding):
    (tmp_path / "cases.csv").write_bytes(
        f"Question,Complex_CoT,Response\n{text},r,a\n".encode(encoding)
    )
    assert "is not UTF-8 text" in refusal(tmp_path / "cases.csv")


def test_commas_in_a_header_of_semicolons_part_nothing(dataset, tmp_path):
    (tmp_path / "cases.csv").write_text(
        "Question;Complex_CoT;Response;age, sex\nq, a;r;a, b, c;1\n"
    )
    (case,) = data_loading.load_cases(dataset(path=str(tmp_path / "cases.csv"))).cases
    assert (case.question, case.answer, case.extra) == ("q, a", "a, b, c", {"age, sex": "1"})


HOSTILE = {
    "deep array": ("[" * 100_000, "is not valid JSON: it is nested too deeply in line 1; fix it"),
    "deep value": ('[{"Question": ' + "[" * 100_000 + "]" * 100_000 + "}]", "nested too deeply"),
    "long integer": (
        '[\n{"Question": "q", "age": ' + "9" * 5000 + "}]",
        "an integer of over 4,300 digits in line 2",
    ),
    "NUL": (
        '[{"Question": "q\\u0000", "Complex_CoT": "r", "Response": "a"}]',
        "row 1 of cases.json: 'Question' holds a NUL",
    ),
    "raw NUL": ('[{"Question": "q\0"}]', "Invalid control character"),
    "NaN": (
        '[{"Question": "q", "Complex_CoT": "r", "Response": NaN}]',
        "row 1 of cases.json: 'Response' is empty",
    ),
    "infinity": (
        '[{"Question": "q", "Complex_CoT": "r", "Response": Infinity}]',
        "'Response' is float, not text",
    ),
    "surrogate": (
        '[{"Question": "q\\udc00", "Complex_CoT": "r", "Response": "a"}]',
        "'Question' holds half a character",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_json_is_refused_in_a_sentence(refusal, tmp_path, kind):
    text, said = HOSTILE[kind]
    (tmp_path / "cases.json").write_text(text)
    assert said in refusal(tmp_path / "cases.json")


def test_hostile_lines_are_faulty_rows(dataset, tmp_path):
    lines = [
        json.dumps(RECORDS[0]),
        '{"Question": ' + "[" * 100_000,
        '{"Question": ' + "9" * 5000 + "}",
        '{"Question": "\0"}',
    ]
    (tmp_path / "cases.jsonl").write_text("\n".join(lines))
    loaded = data_loading.load_cases(
        dataset(path=str(tmp_path / "cases.jsonl"), faulty=Faulty.drop)
    )
    assert (loaded.cases, loaded.reading.faulty) == (CASES[:1], 3)


REASONING = Prompt("reasons", "Q: {question}\n<think>\n", "{reasoning}\n</think>\n\n{answer}")
PLAIN = Prompt("direct", "Q: {question}\n", "{answer}")


def test_answers_with_marks_are_read_with_either_prompt(dataset, tmp_path):
    write_csv(
        tmp_path / "cases.csv",
        [
            {"Question": "q", "Response": "<think>r</think>a"},
            {"Question": "p", "Response": "s</think>b"},
        ],
    )
    columns = Columns("Question", None, "Response")
    for prompt in (REASONING, PLAIN):
        loaded = data_loading.load_cases(
            dataset(path=str(tmp_path / "cases.csv"), columns=columns), prompt
        )
        assert loaded.cases == (Case("q", "r", "a"), Case("p", "s", "b"))
        assert loaded.reading.told_apart == 2
    assert loaded.reading.notes == (
        "prompt=direct trains on the answer alone, without the reasoning told apart",
    )


def test_a_prompt_that_reasons_needs_reasoning_in_every_row(dataset, refusal, tmp_path):
    columns, path = Columns("Question", None, "Response"), tmp_path / "cases.csv"
    write_csv(path, [{"Question": "q", "Response": "a"}] * 2)
    assert (
        refusal(path, REASONING, columns=columns)
        == "prompt=reasons needs a chain of thought, dataset.columns.reasoning is null, and no"
        " answer of cases.csv holds one between <think> and </think>; use prompt=direct"
        " dataset.overlong=drop"
    )
    assert len(data_loading.load_cases(dataset(path=str(path), columns=columns), PLAIN).cases) == 2
    write_csv(
        path,
        [{"Question": "q", "Response": "a"}, {"Question": "q", "Response": "<think>r</think>a"}],
    )
    assert (
        refusal(path, REASONING, columns=columns)
        == "row 2 of cases.csv has no reasoning, and prompt=reasons asks for it"
    )


def test_a_mark_that_would_end_the_reasoning_early_is_a_faulty_row(dataset, refusal, tmp_path):
    write_json(
        tmp_path / "cases.json", [RECORDS[0], RECORDS[0] | {"Complex_CoT": "so </think> then"}]
    )
    assert refusal(tmp_path / "cases.json", REASONING).startswith(
        "row 2 of cases.json: the reasoning holds a <think> mark"
    )
    assert (
        len(data_loading.load_cases(dataset(path=str(tmp_path / "cases.json")), PLAIN).cases) == 2
    )


def test_columns_of_other_names_are_proposed(refusal, tmp_path):
    write_csv(tmp_path / "cases.csv", [{"question": "q", "Model answer": "?", "Answer": "a"}])
    assert refusal(tmp_path / "cases.csv").endswith(
        "as in dataset.columns.question=question dataset.columns.reasoning=null"
        " dataset.columns.answer=Answer prompt=direct dataset.overlong=drop"
    )
