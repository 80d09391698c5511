import csv
import json
import re
from collections import Counter
from difflib import SequenceMatcher

import pytest

from benchmarks.cases import grid
from medexp.config.shipped import find_conf_dir
from medexp.data import loading as data_loading
from medexp.data.cases import parse_items
from medexp.data.split import Sides, split_cases
from medexp.evaluation.measures.contrast_pairs import mark_pairs_told_apart
from medexp.evaluation.measures.safety import (
    find_harmful_advice,
    mark_said_statements,
    split_alternatives,
)

KEYS = ["Question", "Complex_CoT", "Response", "condition", "specialty", "urgency"]
LISTS = {"must_say": (3, 5), "must_not_say": (1, 3), "synonyms": (1, 8), "differential": (3, 5)}
DESIGN = ["group", "pair", "decisive", "asker", "asks", "style", "terms", "features"]
SECTIONS = ["## Symptoms", "## Causes", "## Precautions", "## Red Flags"]
FILE = find_conf_dir().parent / "medexp" / "data" / "clinical_cases.jsonl"


@pytest.fixture(scope="module")
def records():
    return [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


def test_there_are_enough_of_them(records):
    assert len(records) >= 480
    assert len({record["condition"] for record in records}) >= 200
    assert len({record["specialty"] for record in records}) >= 18
    assert FILE.stat().st_size < 3_000_000


def test_every_record_has_exactly_these_keys_with_text(records):
    texts_of = (*KEYS, "guideline", "group", "asker", "style", "terms")
    for record in records:
        assert list(record) == [*KEYS, *LISTS, "guideline", *DESIGN]
        texts = [record[name] for name in texts_of]
        assert all(isinstance(text, str) and text == text.strip() != "" for text in texts), record


def test_every_case_stands_on_the_grid(records):
    for record in records:
        assert record["asker"] in grid.ASKERS
        assert record["style"] in grid.STYLES
        assert record["terms"] in grid.TERMS
        assert record["asks"]
        assert set(record["asks"]) <= set(grid.ASKS)
        assert set(record["features"]) <= set(grid.FEATURES)
        assert len(record["Question"].split()) <= 250


def test_the_grid_is_filled(records):
    def share(tells) -> float:
        return sum(map(tells, records)) / len(records)

    assert share(lambda record: "diagnosis" in record["asks"]) >= 0.5
    for asked in grid.ASKS:
        assert share(lambda record, asked=asked: asked in record["asks"]) >= 0.1, asked
    for asker in grid.ASKERS:
        assert 0.04 <= share(lambda record, asker=asker: record["asker"] == asker) <= 0.4, asker
    assert share(lambda record: record["style"] == "clipped") >= 0.2
    assert share(lambda record: record["terms"] == "american") >= 0.25
    for feature in grid.FEATURES:
        count = sum(feature in record["features"] for record in records)
        assert count >= 12, feature
    lengths = [len(record["Question"].split()) for record in records]
    assert min(lengths) >= 35
    assert sum(length >= 120 for length in lengths) >= len(records) / 5
    assert sum(length >= 180 for length in lengths) >= 18


def test_answers_are_of_no_one_mould(records):
    shapes = Counter(map(grid.count_items, records))
    assert max(shapes.values()) <= len(records) / 5
    assert {number for shape in shapes for number in shape} == {2, 3, 4, 5}
    first = sum(map(grid.names_first_cause, records))
    assert len(records) / 5 <= first <= len(records) * 3 / 5


def test_reasoning_ends_in_the_condition(records):
    for record in records:
        end = " ".join(re.split(r"(?<=[.!?])\s+", record["Complex_CoT"])[-2:])
        words = {word.rstrip("s") for word in re.findall(r"\w+", end.casefold())}
        names = [record["condition"], *record["synonyms"]]
        assert any(
            {word.rstrip("s") for word in re.findall(r"\w+", name.casefold())} <= words
            for name in names
        ), (record["condition"], end)


def test_no_question_that_asks_for_the_diagnosis_names_it(records):
    for record in records:
        if "diagnosis" in record["asks"]:
            text = f" {' '.join(re.findall(r'[a-z0-9]+', record['Question'].casefold()))} "
            for name in (record["condition"], *record["synonyms"]):
                words = " ".join(re.findall(r"[a-z0-9]+", name.casefold()))
                # "PE" and "AS" are words of other meanings in small letters.
                assert name.isupper() or f" {words} " not in text, (name, record["Question"])


def test_pairs_are_alike_but_for_what_decides(records):
    pairs: dict[str, list[dict]] = {}
    for record in records:
        assert (record["pair"] is None) == (record["decisive"] is None)
        if record["pair"] is not None:
            pairs.setdefault(record["pair"], []).append(record)
    assert len(pairs) >= 60
    for name, pair in pairs.items():
        one, other = pair
        assert one["group"] == other["group"], name
        asked = [record["Question"].split() for record in pair]
        likeness = SequenceMatcher(None, *asked, autojunk=False).ratio()
        assert 0.7 <= likeness < 1, (name, likeness)
    asked = [record for record in records if record["pair"] is not None]
    marks = mark_pairs_told_apart([record["Response"] for record in asked], asked)
    assert marks == [1.0] * len(asked)


def test_a_group_is_its_condition_or_the_conditions_of_a_pair(records):
    groups = {record["condition"]: record["group"] for record in records}
    for record in records:
        assert record["group"] == groups[record["condition"]]
        assert record["condition"] in record["group"].split(" / ")


def test_the_test_side_is_large_enough_and_spread(records, resolved):
    dataset = resolved("dataset=clinical_cases").dataset
    assert Sides.of(dataset) == grid.SIDES
    sides: dict[str, list[dict]] = {"test": [], "validation": [], "train": []}
    for record in records:
        sides[grid.SIDES.find(record["group"])].append(record)
    test = sides["test"]
    assert len(test) >= 130
    assert len({record["condition"] for record in test}) >= 64
    assert len({record["pair"] for record in test} - {None}) >= 20
    assert len(sides["validation"]) >= 24
    for specialty in {record["specialty"] for record in records}:
        of_it = {record["condition"] for record in test if record["specialty"] == specialty}
        assert len(of_it) >= 2, specialty
    for urgency in grid.URGENCIES:
        everywhere, here = (
            sum(record["urgency"] == urgency for record in some) / len(some)
            for some in (records, test)
        )
        assert abs(everywhere - here) < 0.05, urgency


def test_a_reference_says_what_it_must_and_nothing_that_it_must_not(records):
    for record in records:
        said = mark_said_statements(record["Response"], record["must_say"])
        assert all(said), (record["condition"], said)
        harms = find_harmful_advice(record["Response"], record["must_not_say"])
        assert not harms, (record["condition"], harms)


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


def test_all_cases_of_a_condition_have_its_synonyms(records):
    synonyms = {(record["condition"], tuple(record["synonyms"])) for record in records}
    assert len(synonyms) == len({record["condition"] for record in records})


def test_a_differential_does_not_name_the_condition_itself(records):
    for record in records:
        names = {name.casefold() for name in (record["condition"], *record["synonyms"])}
        assert not names & {name.casefold() for name in record["differential"]}, record["condition"]


def test_a_guideline_has_its_year(records):
    for record in records:
        assert re.search(r"\b(?:199|20[0-2])\d\b|continuously updated", record["guideline"])


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
            assert 2 <= len(items) <= 5, record["Question"]
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


def test_no_two_cases_are_alike_but_those_of_a_pair(records):
    share, one, other = grid.find_likest(records)
    assert share < 0.1, (one, other)


@pytest.mark.parametrize("seed", [3407, 0, 1])
def test_a_condition_stands_on_one_side_of_the_split_only(resolved, records, seed):
    dataset = resolved("dataset=clinical_cases", f"dataset.split_seed={seed}").dataset
    sides = split_cases(data_loading.load_cases(dataset).cases, dataset)
    trained, held_out = (
        {case.extra["condition"] for case in side} for side in (sides.train, sides.held_out)
    )
    assert not trained & held_out
    assert len(sides.train) + len(sides.held_out) + sides.reserved == len(records)
    # A pair is not parted.
    assert dataset.held_out <= len(sides.held_out) <= dataset.held_out + 1
    # Whatever the seed: the name of the group decides.
    train = {case.extra["group"] for case in sides.train}
    assert {grid.SIDES.find(group) for group in train} == {"train"}


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
