"""Contradictions of age, sex, pregnancy and allergy; and what is none."""

import json

import pytest

from medexp.config.shipped import find_conf_dir
from medexp.evaluation.measures.contradictions import find_age_years, find_contradictions, find_sex

MAN, WOMAN, CHILD = (
    "A 45-year-old man coughs.",
    "A 29-year-old woman faints.",
    "A 4-year-old girl coughs.",
)
ALLERGIC = "A 45-year-old man, allergic to penicillin, coughs."


@pytest.mark.parametrize(
    ("question", "answer", "about"),
    [
        (MAN, "This 54-year-old smokes.", "age"),
        (MAN, "The patient, aged 54, smokes.", "age"),
        (MAN, "This child needs rest.", "age"),
        (CHILD, "This woman needs rest.", "age"),
        (MAN, "She should rest.", "sex"),
        (WOMAN, "He should rest.", "sex"),
        ("A pregnant woman of 30 coughs.", "She is not pregnant.", "pregnancy"),
        (MAN, "The patient is pregnant.", "pregnancy"),
        ("A woman with a negative test: not pregnant.", "Her pregnancy matters.", "pregnancy"),
        (ALLERGIC, "Give amoxicillin.", "allergy"),
        (ALLERGIC, "He has no known allergies.", "allergy"),
        ("A man without any: no known allergies.", "He is allergic to latex.", "allergy"),
        ("A woman with ibuprofen anaphylaxis last year.", "Take naproxen.", "allergy"),
    ],
)
def test_a_contradiction_is_found_where_it_stands(question, answer, about, lexicon):
    (found,) = find_contradictions(f"Hm.</think>{answer}", question, lexicon)
    assert found.about == about
    assert f"Hm.</think>{answer}"[found.start : found.end] == found.text


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (MAN, "A 45-year-old man, so screen those over 65-year-old too."),
        (MAN, "He should rest. Aged 45, he is at risk."),
        (MAN, "Rest."),
        ("A 45-year-old man brings his 4-year-old son.", "The child should rest."),
        ("Four days after birth a 27-year-old woman is ill.", "Have the newborn seen."),
        (WOMAN, "Her husband should drive; she rests."),
        (MAN, "If pregnant contacts exist, tell them."),
        ("A pregnant woman coughs.", "Her pregnancy goes on."),
        (ALLERGIC, "Avoid amoxicillin; give doxycycline."),
        (ALLERGIC, "He is allergic to penicillin, so amoxicillin is out."),
        (MAN, "Give amoxicillin."),
        # A drug that is taken beside an allergy is none.
        ("A man on ramipril, allergic to penicillin, coughs.", "Continue ramipril."),
        ("A man allergic to penicillin who takes ramipril coughs.", "Continue ramipril."),
        ("Penicillin allergy, taking metformin and ramipril; he coughs.", "Continue metformin."),
        ("He has no known allergies.", "Give amoxicillin."),
        ("Allergy: anaphylaxis to ceftriaxone, adrenaline, ventilated.", "Adrenaline at hand."),
    ],
)
def test_what_fits_is_no_contradiction(question, answer, lexicon):
    assert find_contradictions(answer, question, lexicon) == []


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("A 12-day-old boy", 12 / 365),
        ("A 6-month-old", 0.5),
        ("aged 71", 71),
        ("his 4-year-old, he is aged 40", None),
        ("over 65-year-old", None),
    ],
)
def test_an_age_is_read_where_there_is_one(text, age):
    assert find_age_years(text) == (None if age is None else pytest.approx(age))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Her pulse", "female"),
        ("the man", "male"),
        ("her husband, a man", None),
        ("a patient", None),
    ],
)
def test_the_sex_is_told_where_all_words_agree(text, told):
    assert find_sex(text) == told


def test_no_shipped_reference_contradicts_its_question(lexicon):
    file = find_conf_dir().parent / "medexp" / "data" / "clinical_cases.jsonl"
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [
        r["condition"]
        for r in records
        if find_contradictions(r["Response"], r["Question"], lexicon)
    ] == []
