"""Words, stems and looked-up terms; which language a text is in."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medexp.config.shipped import find_conf_dir
from medexp.evaluation.measures.words import (
    detect_language,
    end_reasoning,
    extract_answer,
    make_term_key,
    stem_words,
)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a</think>b", "b"),
        ("no end", "no end"),
        ("x</think>y</think> z", " z"),
        ("<think> cut off", ""),
        ("It says <think> here.", "It says <think> here."),
    ],
)
def test_the_answer_follows_the_last_end_of_thinking(text, part):
    assert extract_answer(text) == part


def test_reasoning_that_was_cut_off_leaves_no_answer():
    assert extract_answer(end_reasoning("She may have")) == ""
    assert end_reasoning("a</think>b") == "a</think>b"


def test_stems_join_forms_and_spellings_and_leave_function_words_out():
    assert stem_words("The swollen ankles") == stem_words("swollen ankle")
    assert stem_words("haemorrhages in oedema") == stem_words("hemorrhage edema")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("Graves' disease", "grave disease"),
        ("Bell's palsy", "bell palsy"),
        ("NSAIDs", "nsaid"),
        ("haemoptysis", "hemoptysis"),
        ("SS", "ss"),
    ],
)
def test_a_term_has_one_key_in_every_spelling(name, key):
    assert " ".join(make_term_key(name)) == key


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("The patient should rest and drink, and come back if the fever is not gone.", "en"),
        ("患者应休息并多喝水，如发热不退应复诊。", "zh"),
        ("おなかが痛くて、夜もよくねむれません。どうしたらよいでしょうか。", "other"),
        ("Der Patient soll sich ausruhen und viel trinken, bei Fieber wiederkommen.", "other"),
        (
            (
                "El paciente debe descansar y beber mucha agua, y volver si la fiebre no cede en"
                " tres días."
            ),
            "other",
        ),
        (
            (
                "Le patient doit se reposer et boire beaucoup d'eau; revenir si la fièvre persiste"
                " plus de trois jours."
            ),
            "other",
        ),
        (
            (
                "- Breathlessness and sputum\n- No ankle swelling\n- Chronic bronchitis\n- Acute"
                " asthma"
            ),
            "en",
        ),
        # Notes as they are written on a ward, without function words.
        ("71F, SOB 2 days, hx COPD, on tiotropium. BP 100/60, RR 28, sats 86%", "en"),
        ("38M crushing chest pain, sweating, ECG inferior ST elevation, smoker", "en"),
        ("Frau, 54 Jahre, Brustschmerz seit zwei Stunden, Husten, Fieber, Atemnot", "other"),
        ("Homme de 60 ans, toux, dyspnée depuis trois jours, sueurs, nausées", "other"),
        ("Too short to tell", None),
        ("kg 15 " * 40, None),
        ("", None),
    ],
)
def test_the_language_is_told(text, code):
    assert detect_language(text) == code


@given(st.text())
def test_any_text_has_a_language_or_none(text):
    assert detect_language(text) in ("en", "zh", "other", None)


def test_every_shipped_text_is_english():
    file = find_conf_dir().parent / "medexp" / "data" / "clinical_cases.jsonl"
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert {
        detect_language(record[name])
        for record in records
        for name in ("Question", "Complex_CoT", "Response")
    } == {"en"}
