"""Terms are found in every spelling, the longest first, and a denial is noticed within its clause."""

import pytest

from medexp.evaluation.measures.clinical_terms import Concept, Lexicon, is_wider, mentions


def named(text: str, lexicon: Lexicon) -> list[tuple[str, bool]]:
    return [(each.text, each.negated) for each in mentions(text, lexicon)]


@pytest.mark.parametrize("text", ["oedema", "edema", "Oedemas"])
def test_one_concept_in_every_spelling(text, lexicon):
    (found,) = mentions(text, lexicon)
    assert found.concepts[0].name == "edema"


@pytest.mark.parametrize(
    ("one", "other"), [("paracetamol", "acetaminophen"), ("adrenaline", "epinephrine"), ("heart attack", "myocardial infarction")]
)
def test_synonyms_mean_the_same(one, other, lexicon):
    assert {*mentions(one, lexicon)[0].concepts} & {*mentions(other, lexicon)[0].concepts}


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
        ("no rest at all for the last seven days, then fever", [False]),
        ("fever unless treated", [False]),
    ],
)
def test_a_denial_reaches_to_the_end_of_its_clause(text, denied, lexicon):
    assert [each.negated for each in mentions(text, lexicon)] == denied


def test_a_wider_concept_is_known_by_its_tree():
    wide, narrow = Concept("finding", "pain", ("C1.2",)), Concept("finding", "chest pain", ("C1.2.3", "C9"))
    assert is_wider(wide, narrow)
    assert not is_wider(narrow, wide)
    assert not is_wider(wide, Concept("finding", "other", ("C1.23",)))


def test_everyday_words_are_no_terms(lexicon):
    assert named("He said it was hard at the combined school; a disease, an injury, plan B and the wounds", lexicon) == []
