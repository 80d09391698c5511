"""One fact of a reference item turned wrong, and nothing else."""

from collections import Counter
from difflib import SequenceMatcher

import pytest

from medexp.config.shipped import find_conf_dir
from medexp.data.loading import read_records
from medexp.evaluation.measures.corruptions import KINDS, SWAPS, corrupt_item, corrupt_reference

SHIPPED = read_records(find_conf_dir().parent / "medexp" / "data" / "clinical_cases.jsonl")
EVERY = [
    each
    for row in SHIPPED
    for each in corrupt_reference(row["Response"], row["Question"], limit=1000)
]


@pytest.mark.parametrize(
    ("kind", "section", "item", "corrupted"),
    [
        ("dose", "precautions", "Aspirin 300 mg chewed", "Aspirin 3000 mg chewed"),
        ("dose", "precautions", "Aspirin 300 mg chewed", "Aspirin 30 mg chewed"),
        ("dose", "precautions", "Give 80–90 mg/kg/day now", "Give 800–900 mg/kg/day now"),
        ("dose", "precautions", "0.15 mg/kg by mouth", "1.5 mg/kg by mouth"),
        ("dose", "precautions", "Drain 1,500 mL slowly", "Drain 15000 mL slowly"),
        ("drug", "causes", "Naproxen blocks kidneys", "Celecoxib blocks kidneys"),
        ("polarity", "precautions", "Avoid morphine", "Recommend morphine"),
        ("polarity", "precautions", "Do not give aspirin", "Do give aspirin"),
        ("polarity", "precautions", "Fluids; no sedatives", "Fluids; allow sedatives"),
        ("polarity", "precautions", "She cannot drive", "She can drive"),
        ("polarity", "red flags", "A day without urine", "A day with urine"),
        ("direction", "red flags", "Systolic under 90", "Systolic over 90"),
        ("direction", "symptoms", "Tachycardia and pallor", "Bradycardia and pallor"),
        ("laterality", "red flags", "Cold left hand", "Cold right hand"),
        ("laterality", "symptoms", "Tender upper abdomen", "Tender lower abdomen"),
        ("order", "precautions", "Scan before surgery", "Scan after surgery"),
        ("order", "precautions", "Thiamine first; then sugar", "Thiamine last; then sugar"),
        ("send_home", "precautions", "Admit and observe", "Discharge and observe"),
        ("send_home", "precautions", "Scan within one hour", "Scan within six months"),
        ("duration", "precautions", "For five days", "For five months"),
    ],
)
def test_a_rule_turns_its_fact_wrong(kind, section, item, corrupted):
    assert (kind, corrupted) in {(each.kind, each.text) for each in corrupt_item(item, section)}, (
        corrupt_item(item, section)
    )


@pytest.mark.parametrize(
    ("kind", "section", "item"),
    [
        ("dose", "precautions", "Keep haemoglobin above 80 g/L"),
        ("dose", "red flags", "Less than 200 mL an hour"),
        ("dose", "precautions", "Adrenaline 1:1000 at once"),
        ("drug", "precautions", "Ibuprofen or aspirin"),
        ("polarity", "red flags", "No urine for a day"),
        ("polarity", "precautions", "A tablet that will stop-gap"),
        ("direction", "causes", "Simple low back pain"),
        ("direction", "red flags", "Jerks on falling asleep"),
        ("laterality", "precautions", "Call right away"),
        ("laterality", "causes", "Vomiting left her without tablets"),
        ("send_home", "red flags", "Admit if drowsy"),
        ("duration", "causes", "A child six weeks old"),
    ],
)
def test_what_is_not_meant_is_left_alone(kind, section, item):
    assert kind not in {each.kind for each in corrupt_item(item, section)}


def test_a_drug_that_the_case_names_is_not_swapped_in():
    assert [each.kind for each in corrupt_item("Give morphine", "precautions")] == ["drug"]
    assert not corrupt_item("Give morphine", "precautions", named="She takes Codeine already")


def test_no_drug_is_swapped_for_itself_and_every_swap_is_a_name():
    assert all(old != new and new.strip() == new for old, new in SWAPS.items())


def test_every_shipped_reference_gives_at_least_two():
    counts = {
        row["Question"]: len(corrupt_reference(row["Response"], row["Question"])) for row in SHIPPED
    }
    assert len(counts) == len(SHIPPED)
    assert min(counts.values()) >= 2
    assert max(counts.values()) == 12


def test_every_kind_is_found_in_the_shipped_references():
    counts = Counter(each.kind for each in EVERY)
    assert set(counts) == set(KINDS)
    assert min(counts.values()) >= 90


def test_each_differs_from_its_item_in_one_place_of_a_few_words():
    for each in EVERY:
        assert each.text != each.item
        assert each.text.startswith(each.item[: each.start])
        assert each.text.endswith(each.item[each.end :])
        old, new = each.item.split(), each.text.split()
        changes = [
            code for code in SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
            if code[0] != "equal"
        ]  # fmt: skip
        assert len(changes) <= 2, each
        assert sum(max(to - at, end - start) for _, at, to, start, end in changes) <= 5, each


def test_each_reads_as_one_sentence_with_its_capital():
    for each in EVERY:
        assert "  " not in each.text, each
        assert each.text[0].isupper() is each.item[0].isupper(), each


def test_no_two_are_the_same_and_the_kinds_come_in_turn():
    row = SHIPPED[0]
    found = corrupt_reference(row["Response"], row["Question"])
    assert len({(each.item, each.text) for each in found}) == len(found)
    first = [each.kind for each in found[:5]]
    assert first == sorted(first, key=KINDS.index)


def test_without_sections_there_are_none():
    assert corrupt_reference("Give aspirin 300 mg at once.") == []
