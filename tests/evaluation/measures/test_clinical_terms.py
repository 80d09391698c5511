"""Terms are found in every spelling, longest first; a denial is noticed within its clause."""

import pytest

from medexp.evaluation.measures.clinical_terms import Concept, Lexicon, find_mentions, is_wider


def named(text: str, lexicon: Lexicon) -> list[tuple[str, bool]]:
    return [(each.text, each.negated) for each in find_mentions(text, lexicon)]


@pytest.mark.parametrize("text", ["oedema", "edema", "Oedemas"])
def test_one_concept_in_every_spelling(text, lexicon):
    (found,) = find_mentions(text, lexicon)
    assert found.concepts[0].name == "edema"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("paracetamol", "acetaminophen"),
        ("adrenaline", "epinephrine"),
        ("heart attack", "myocardial infarction"),
    ],
)
def test_synonyms_mean_the_same(one, other, lexicon):
    assert {*find_mentions(one, lexicon)[0].concepts} & {*find_mentions(other, lexicon)[0].concepts}


def test_the_longest_name_wins(lexicon):
    assert named("acute chest pain today", lexicon) == [("chest pain", False)]


def test_possessives_do_not_hide_a_name(lexicon):
    text = "It is Graves’ disease"
    assert named(text, lexicon) == [("Graves’ disease", False)]


@pytest.mark.parametrize(
    ("text", "denied"),
    [
        ("no fever, cough or rash", [True, True, True]),
        ("no fever but a cough", [True, False]),
        ("no trauma. Fever since Monday", [False]),
        ("avoid ibuprofen; give paracetamol", [True, False]),
        ("pneumonia is unlikely", [True]),
        ("aspirin should not be given", [True]),
        ("not only fever", [False]),
        ("fever is not the only sign", [False]),
        ("not just fever", [False]),
        ("CT without contrast showed oedema", [False]),
        ("discharged without fever", [True]),
        ("no rest at all for the last seven days, then fever", [False]),
        ("fever unless treated", [False]),
    ],
)
def test_a_denial_reaches_to_the_end_of_its_clause(text, denied, lexicon):
    assert [each.negated for each in find_mentions(text, lexicon)] == denied


@pytest.mark.parametrize(
    ("text", "denied"),
    [
        # What is ordered anew ends a denial.
        ("Stop ibuprofen and start paracetamol.", [True, False]),
        ("There is no asthma, so give propranolol.", [True, False]),
        ("Do not give aspirin and begin heparin.", [True, False]),
        ("Stop ibuprofen, give paracetamol.", [True, False]),
        ("Never give aspirin and ibuprofen together.", [True, True]),
        # Advice against a drug, before and behind its name.
        ("Metformin must be stopped.", [True]),
        ("Hold metformin until the scan.", [True]),
        ("Omit furosemide tonight.", [True]),
        ("Stop digoxin, pause ramipril and furosemide.", [True, True, True]),
        ("Skip ibuprofen.", [True]),
        ("Warfarin is paused.", [True]),
        ("Pause in breathing, cyanosis.", [False]),
        ("Pneumonia was considered and dismissed.", [True]),
        ("This isn't pneumonia.", [True]),
        ("Asthma is less likely.", [True]),
        # Phrases that look like denials and are none.
        ("Give adrenaline without delay.", [False]),
        ("Without any delay give adrenaline.", [False]),
        ("Do not withhold morphine.", [False]),
        ("Do not pause heparin.", [False]),
        ("Morphine must not be delayed.", [False]),
        ("Ibuprofen is not contraindicated.", [False]),
        ("There is no contraindication to heparin.", [False]),
        ("Sepsis cannot be ruled out.", [False]),
        ("There was no improvement in her asthma.", [False]),
    ],
)
def test_ordinary_clinical_phrases_are_read_the_right_way_round(text, denied, lexicon):
    assert [each.negated for each in find_mentions(text, lexicon)] == denied


def test_a_wider_concept_is_known_by_its_tree():
    wide, narrow = (
        Concept("finding", "pain", ("C1.2",)),
        Concept("finding", "chest pain", ("C1.2.3", "C9")),
    )
    assert is_wider(wide, narrow)
    assert not is_wider(narrow, wide)
    assert not is_wider(wide, Concept("finding", "other", ("C1.23",)))


def test_everyday_words_are_no_terms(lexicon):
    assert (
        named(
            "He said it was hard at the combined school; a disease, an injury, plan B and the"
            " wounds",
            lexicon,
        )
        == []
    )
