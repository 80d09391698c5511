import json
import re
from collections import Counter
from itertools import combinations

import pytest

from medexp.config.registration import find_conf_dir
from medexp.data import loading as data_loading
from medexp.data.split import split_cases

KEYS = ["Question", "Complex_CoT", "Response", "condition", "specialty", "urgency"]
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
        assert list(record) == KEYS
        assert all(
            isinstance(text, str) and text == text.strip() != "" for text in record.values()
        ), record


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
