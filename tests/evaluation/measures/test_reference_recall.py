"""The condition by name or synonym, items recalled by words and by meaning."""

import pytest
from helpers.vignettes import REFERENCE

from medexp.evaluation.measures.reference_recall import embedded_recall, items, lexical_recall, lines, names_condition


@pytest.mark.parametrize(
    ("answer", "names", "is_named"),
    [
        ("It is a heart attack.", ["myocardial infarction"], True),
        ("It is not a heart attack.", ["myocardial infarction"], False),
        ("Is this a heart attack?", ["myocardial infarction"], True),
        ("An exacerbation of his asthma.", ["asthma exacerbation"], True),
        ("Is this an exacerbation of asthma?", ["asthma exacerbation"], False),
        ("No asthma exacerbation here.", ["asthma exacerbation"], False),
        ("Glandular fever.", ["epstein-barr illness", "infectious mononucleosis"], True),
        ("Rest.", ["malaria"], False),
        ("Malaria?</think>Rest.", ["malaria"], False),
        ("", ["malaria"], False),
        ("Anything", ["the"], False),
    ],
)
def test_the_condition_is_named_by_any_of_its_names(answer, names, is_named, lexicon):
    assert names_condition(answer, names, lexicon) is is_named


def test_items_of_a_section_come_without_bullets():
    assert items(REFERENCE, "red flags") == ("Drooling or stridor: airway obstruction", "Rash with neck stiffness: meningitis")
    assert items("Rest and drink.", "red flags") == ()


def test_lines_lose_their_bullets_and_paragraphs_their_length():
    assert lines("x</think>- One\n2. Two. Three!\n\n") == ["One", "Two.", "Three!"]


def test_recall_is_the_share_of_items_said_somewhere():
    wanted = items(REFERENCE, "red flags")
    assert lexical_recall(wanted, REFERENCE) == 1
    assert lexical_recall(wanted, "Come back with drooling or stridor.") == 0.5
    assert lexical_recall(wanted, "Rest and drink.") == 0
    assert lexical_recall((), "Rest") is None
    assert lexical_recall(("the",), "the") == 0


def test_recall_by_meaning_takes_the_nearest_line():
    assert embedded_recall([[0.1, 0.7], [0.2, 0.3]]) == 0.5
    assert embedded_recall([[]]) == 0
    assert embedded_recall([]) is None
