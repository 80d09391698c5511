"""The diagnosis that an answer states: exact, broader, in the differential, absent."""

import pytest

from medexp.config.shipped import find_conf_dir
from medexp.data.loading import read_records
from medexp.evaluation.measures.conditions import (
    are_related,
    list_broader_names,
    list_shipped_conditions,
    list_synonyms,
)
from medexp.evaluation.measures.stated_diagnosis import grade_stated_diagnosis

SHIPPED = read_records(find_conf_dir().parent / "medexp" / "data" / "clinical_cases.jsonl")


@pytest.mark.parametrize(
    ("answer", "condition", "grade"),
    [
        ("This is a STEMI.", "acute coronary syndrome", "exact"),
        ("The findings point to PE.", "pulmonary embolism", "exact"),
        ("She has DKA and needs insulin.", "diabetic ketoacidosis", "exact"),
        ("You probably have the flu. Rest.", "influenza", "exact"),
        ("**Diagnosis:** Acute myocardial infarction (STEMI)", "acute coronary syndrome", "exact"),
        ("The most likely cause is an asthma attack.", "asthma exacerbation", "exact"),
        ("An exacerbation of his asthma.", "asthma exacerbation", "exact"),
        ("1. **Causes**: Pulmonary oedema with CHF", "acute decompensated heart failure", "exact"),
        ("## Causes\n- Addison's crisis", "adrenal crisis", "absent"),
        ("## Causes\n- Addisonian crisis: no tablets", "adrenal crisis", "exact"),
        ("The most likely diagnosis is a stroke.", "acute ischaemic stroke", "broader"),
        ("Diagnosis: Addison's disease", "adrenal crisis", "broader"),
        ("Diagnosis: anaemia", "iron deficiency anaemia", "broader"),
        ("Diagnosis: influenza-like illness", "influenza", "broader"),
        ("Diagnosis: Kawasaki disease, a vasculitis", "giant cell arteritis", "absent"),
        ("Diagnosis: viral meningitis.", "bacterial meningitis", "absent"),
        ("Final diagnosis: chronic pancreatitis", "acute pancreatitis", "absent"),
        ("Diagnosis: pneumonia or pulmonary embolism", "pulmonary embolism", "differential"),
        ("Diagnosis: pneumonia. Also consider PE.", "pulmonary embolism", "differential"),
        (
            "Differential diagnosis: PE, gout.\n## Causes\n- Rib fracture",
            "pulmonary embolism",
            "differential",
        ),
        ("PE must be ruled out. The diagnosis is pneumonia.", "pulmonary embolism", "absent"),
        ("This is not sepsis; it is a cold.", "sepsis", "absent"),
        ("Is this a PE? Diagnosis: bronchitis", "pulmonary embolism", "absent"),
        ("A pet scan was done.", "pulmonary embolism", "absent"),
        ("Take the cap off.", "community-acquired pneumonia", "absent"),
        ("Rest and drink.", "malaria", "absent"),
        ("", "malaria", "absent"),
    ],
)
def test_a_stated_diagnosis_is_graded(answer, condition, grade):
    assert grade_stated_diagnosis(answer, condition, reasons=False).grade == grade


def test_a_final_diagnosis_goes_before_an_earlier_one():
    said = "Working diagnosis: pneumonia.\nFinal diagnosis: pulmonary embolism."
    assert grade_stated_diagnosis(said, "pulmonary embolism", reasons=False).is_right
    assert not grade_stated_diagnosis(said, "community-acquired pneumonia", reasons=False).is_right


def test_a_chain_of_thought_that_never_ends_is_no_answer():
    cut_off = "The ST elevation means a STEMI. Diagnosis: STEMI"
    whole = f"{cut_off}</think>Diagnosis: pericarditis"
    assert (
        grade_stated_diagnosis(cut_off, "acute coronary syndrome", reasons=True).grade == "absent"
    )
    assert grade_stated_diagnosis(cut_off, "acute coronary syndrome", reasons=False).is_right
    assert grade_stated_diagnosis(whole, "acute coronary syndrome", reasons=True).grade == "absent"
    assert grade_stated_diagnosis(whole, "acute pericarditis", reasons=True).is_right


def test_a_case_brings_names_of_its_own():
    said = "Diagnosis: break-bone fever"
    assert not grade_stated_diagnosis(said, "dengue", reasons=False).is_right
    assert grade_stated_diagnosis(said, "dengue", False, ["break-bone fever"]).is_right


def test_nearly_every_shipped_reference_states_its_own_condition():
    grades = [
        grade_stated_diagnosis(row["Response"], row["condition"], False, row["synonyms"]).grade
        for row in SHIPPED
    ]
    assert set(grades) <= {"exact", "broader", "differential"}
    # The others begin with two causes that are conditions, too, or leave the name to Precautions.
    assert grades.count("exact") >= 0.92 * len(SHIPPED)


def test_hardly_a_reference_of_another_condition_states_it():
    rows = SHIPPED[::12]
    pairs = [
        (row["condition"], other)
        for row in rows
        for other in rows
        if not are_related(row["condition"], other["condition"])
    ]
    stated = [
        (condition, other["condition"])
        for condition, other in pairs
        if grade_stated_diagnosis(other["Response"], condition, reasons=False).is_right
    ]
    # A cause that is a condition of its own, as cystitis before pyelonephritis.
    assert len(stated) <= 0.005 * len(pairs), stated


@pytest.mark.parametrize("condition", list_shipped_conditions())
def test_every_synonym_is_exact_every_broader_name_broader_and_denied_ones_absent(condition):
    for name in (condition, *list_synonyms(condition)):
        for said in (f"The most likely diagnosis is {name}.", f"## Causes\n- {name}: as before"):
            found = grade_stated_diagnosis(said, condition, reasons=False)
            assert found.grade == "exact", (said, found)
        denied = grade_stated_diagnosis(f"This is not {name}.", condition, reasons=False)
        assert denied.grade == "absent", name
    assert list_broader_names(condition)
    for name in list_broader_names(condition):
        found = grade_stated_diagnosis(f"Diagnosis: {name}", condition, reasons=False)
        assert found.grade == "broader", (name, found)
