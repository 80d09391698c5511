import csv
import hashlib
import json
import re
from collections import Counter
from itertools import combinations

import pytest

from medexp.config.registration import find_conf_dir
from medexp.data import loading as data_loading
from medexp.data.cases import parse_items
from medexp.data.split import split_cases
from medexp.evaluation.measures.safety import split_alternatives

KEYS = ["Question", "Complex_CoT", "Response", "condition", "specialty", "urgency"]
LISTS = {"must_say": (3, 5), "must_not_say": (1, 3), "synonyms": (1, 8), "differential": (3, 5)}
# SHA-256 of the six columns of text as they were before the lists came.
TEXTS = "a714d6110288f4f2"
SECTIONS = ["## Symptoms", "## Causes", "## Precautions", "## Red Flags"]
FILE = find_conf_dir().parent / "medexp" / "data" / "clinical_cases.jsonl"


@pytest.fixture(scope="module")
def records():
    return [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


def five_grams(record: dict[str, str]) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", " ".join(record[name] for name in KEYS[:3]).casefold())
    return set(zip(*(words[start:] for start in range(5)), strict=False))


def test_there_are_enough_of_them(records):
    assert len(records) >= 120
    assert len({record["condition"] for record in records}) >= 60
    assert len({record["specialty"] for record in records}) >= 12


def test_every_record_has_exactly_these_keys_with_text(records):
    for record in records:
        assert list(record) == [*KEYS, *LISTS, "guideline"]
        texts = [record[name] for name in (*KEYS, "guideline")]
        assert all(isinstance(text, str) and text == text.strip() != "" for text in texts), record


def test_the_columns_of_text_are_what_runs_were_trained_on(records):
    texts = json.dumps([[record[name] for name in KEYS] for record in records])
    assert hashlib.sha256(texts.encode()).hexdigest()[:16] == TEXTS


@pytest.mark.parametrize("name", LISTS)
def test_a_list_has_some_items_and_none_twice(records, name):
    least, most = LISTS[name]
    for record in records:
        items = record[name]
        assert least <= len(items) <= most, record["condition"]
        assert all(item == item.strip() != "" and ";" not in item for item in items), items
        assert len({item.casefold() for item in items}) == len(items), items


@pytest.mark.parametrize("name", ["must_say", "must_not_say"])
def test_a_statement_has_short_alternatives_and_none_twice(records, name):
    for record in records:
        for statement in record[name]:
            parts = split_alternatives(statement)
            assert len(set(parts)) == len(parts), statement
            assert all(len(part.split()) <= 8 for part in parts), statement


def test_both_cases_of_a_condition_have_its_synonyms(records):
    synonyms = {(record["condition"], tuple(record["synonyms"])) for record in records}
    assert len(synonyms) == len({record["condition"] for record in records})


def test_a_differential_does_not_name_the_condition_itself(records):
    for record in records:
        names = {name.casefold() for name in (record["condition"], *record["synonyms"])}
        assert not names & {name.casefold() for name in record["differential"]}, record["condition"]


def test_a_guideline_has_its_year(records):
    for record in records:
        assert re.search(r"\b20[0-2]\d\b|continuously updated", record["guideline"])


def test_lists_arrive_in_a_case_as_they_were_written(resolved, records):
    cases = data_loading.load_cases(resolved("dataset=clinical_cases").dataset).cases
    for case, record in zip(cases, records, strict=True):
        for name in LISTS:
            assert parse_items(case.extra[name]) == record[name]


def test_every_answer_has_the_four_sections_in_order_with_items(records):
    for record in records:
        lines = record["Response"].splitlines()
        assert [line for line in lines if line.startswith("#")] == SECTIONS, record["Question"]
        assert lines[0] == SECTIONS[0]
        sections = re.split(r"^## .*$", record["Response"], flags=re.MULTILINE)[1:]
        for items in (section.strip().splitlines() for section in sections):
            assert len(items) >= 2, record["Question"]
            assert all(re.fullmatch(r"- \S.*", item) for item in items), record["Question"]


def test_urgency_reaches_from_self_limiting_to_emergency(records):
    urgencies = Counter(record["urgency"] for record in records)
    assert set(urgencies) == {"emergency", "urgent", "routine", "self-limiting"}
    assert min(urgencies.values()) >= 12


def test_a_condition_belongs_to_one_specialty(records):
    assert len({(record["condition"], record["specialty"]) for record in records}) == len(
        {r["condition"] for r in records}
    )


def test_no_question_is_there_twice(records):
    assert len({" ".join(record["Question"].casefold().split()) for record in records}) == len(
        records
    )


def test_no_two_records_share_more_than_half_of_their_words_in_a_row(records):
    grams = [five_grams(record) for record in records]
    assert min(map(len, grams)) > 50
    for (one, some), (two, others) in combinations(enumerate(grams), 2):
        assert len(some & others) <= min(len(some), len(others)) / 2, (
            records[one]["Question"],
            records[two]["Question"],
        )


@pytest.mark.parametrize("seed", [3407, 0, 1])
def test_a_condition_stands_on_one_side_of_the_split_only(resolved, records, seed):
    dataset = resolved("dataset=clinical_cases", f"dataset.split_seed={seed}").dataset
    sides = split_cases(data_loading.load_cases(dataset).cases, dataset)
    trained, held_out = (
        {case.extra["condition"] for case in side} for side in (sides.train, sides.held_out)
    )
    assert not trained & held_out
    assert trained | held_out == {record["condition"] for record in records}
    assert len(sides.train) + len(sides.held_out) == len(records)
    assert len(sides.held_out) == dataset.held_out


@pytest.mark.parametrize("kind", ["json", "jsonl", "parquet", "csv"])
def test_lists_survive_every_kind_of_file(resolved, records, tmp_path, kind):
    file, some = tmp_path / f"cases.{kind}", records[:20]
    if kind == "parquet":
        pq = pytest.importorskip("pyarrow.parquet")
        pa = pytest.importorskip("pyarrow")
        pq.write_table(pa.Table.from_pylist(some), file)
    elif kind == "csv":
        with file.open("w", encoding="utf-8", newline="") as opened:
            writer = csv.DictWriter(opened, list(some[0]))
            writer.writeheader()
            # One statement a line, as a spreadsheet's cell shows it.
            writer.writerows(
                {
                    name: "\n".join(value) if isinstance(value, list) else value
                    for name, value in record.items()
                }
                for record in some
            )
    else:
        lines = map(json.dumps, some)
        text = json.dumps(some) if kind == "json" else "\n".join(lines)
        file.write_text(text, encoding="utf-8")
    dataset = resolved("dataset=local", f"dataset.path={file}").dataset
    cases = data_loading.load_cases(dataset).cases
    assert len(cases) == len(some)
    for case, record in zip(cases, some, strict=True):
        assert {name: parse_items(case.extra[name]) for name in LISTS} == {
            name: record[name] for name in LISTS
        }
