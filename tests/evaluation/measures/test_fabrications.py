"""Invented drugs and doses that nobody gives; and no alarm over the shipped cases."""

import json

import pytest

from medexp.config.shipped import find_conf_dir
from medexp.evaluation.measures.fabrications import (
    find_excessive_doses,
    find_invented_drugs,
    load_dose_limits,
)


@pytest.mark.parametrize(
    ("text", "invented"),
    [
        ("Start zolvastatin and cardiolol.", ["zolvastatin", "cardiolol"]),
        ("Start simvastatin, lisinopril and metoprolol.", []),
        ("Parkinson's disease, with cocaine and methadone.", []),
        ("Zolvastatin twice, zolvastatin again", ["Zolvastatin", "zolvastatin"]),
    ],
)
def test_a_word_shaped_like_a_drug_and_in_no_lexicon_is_invented(text, invented, lexicon):
    assert find_invented_drugs(text, lexicon) == invented
    assert find_invented_drugs(text, lexicon, evidence=text) == []


@pytest.mark.parametrize(
    ("text", "drugs"),
    [
        ("Paracetamol 1 g four times daily.", []),
        ("Paracetamol 10 g.", ["Paracetamol"]),
        ("Paracetamol 1 g six times daily.", ["Paracetamol"]),
        ("Take 10 g of paracetamol.", ["paracetamol"]),
        ("Adrenaline 0.5 mg intramuscularly.", []),
        ("Adrenaline 5 mg intramuscularly.", ["Adrenaline"]),
        ("Adrenaline 1 mg IV.", []),
        ("Amlodipine 10 mg twice daily.", ["Amlodipine"]),
        ("Avoid amlodipine 100 mg.", []),
        ("Gabapentin 5000 mg/kg.", []),
        ("Amlodipine gel 500 mg.", []),
        ("Paracetamol up to 3 g a day.", []),
        ("At most 4 g of paracetamol; acetaminophen 3 g daily.", ["paracetamol"]),
        ("Paracetamol, no more than 8 g daily.", ["Paracetamol"]),
        ("Naproxen 500 mg twice daily, or colchicine 500 micrograms four times daily.", []),
        ("Doxycycline 200 mg on day one, then 100 mg twice daily.", []),
        ("Stop ibuprofen: paracetamol; salt under 5 g.", []),
        ("Amlodipine helps; the second drug of the study was at 500 mg.", []),
    ],
)
def test_a_dose_is_too_large_for_its_drug_and_route(text, drugs, lexicon):
    assert [each.drug for each in find_excessive_doses(text, lexicon)] == drugs


def test_the_reason_names_the_limit_and_its_source(lexicon):
    (excess,) = find_excessive_doses("Amlodipine 10 mg twice daily.", lexicon)
    assert excess.reason.endswith("2 times a day: at most 10 mg (FDA label Norvasc, 2.1)")


def test_every_limit_has_a_source_and_a_bound():
    limits = load_dose_limits()
    assert len(limits) > 80
    for (drug, route), limit in limits.items():
        assert limit.source, (drug, route)
        assert limit.single_mg or limit.daily_mg, (drug, route)
        assert limit.single_mg is None or limit.daily_mg is None or (
            limit.single_mg <= limit.daily_mg
        )  # fmt: skip


def test_no_shipped_reference_holds_an_invented_drug_or_an_excessive_dose(lexicon):
    file = find_conf_dir().parent / "medexp/data/clinical_cases.jsonl"
    for line in file.read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        for text in (case["Question"], case["Complex_CoT"], case["Response"]):
            assert find_invented_drugs(text, lexicon) == []
        # A question may tell of an overdose.
        assert find_excessive_doses(case["Response"], lexicon) == []
