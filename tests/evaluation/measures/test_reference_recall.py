"""The condition by name or synonym, items recalled by words and by meaning."""

import pytest
from helpers.vignettes import REFERENCE

from medexp.config.shipped import find_conf_dir
from medexp.data.loading import read_records
from medexp.evaluation.measures.clinical_terms import Lexicon
from medexp.evaluation.measures.conditions import are_related
from medexp.evaluation.measures.reference_recall import (
    list_reference_items,
    load_condition_synonyms,
    measure_embedded_recall,
    measure_lexical_recall,
    names_condition,
    split_answer_lines,
)


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


@pytest.mark.parametrize(("condition", "synonyms"), load_condition_synonyms().items())
def test_every_synonym_names_its_condition_and_a_denied_one_does_not(condition, synonyms, lexicon):
    for synonym in synonyms:
        assert names_condition(f"The most likely diagnosis is {synonym}.", [condition], lexicon), (
            synonym
        )
        assert not names_condition(f"This is not {synonym}.", [condition], lexicon), synonym


def test_every_shipped_condition_has_synonyms():
    shipped = read_records(find_conf_dir().parent / "medexp" / "data" / "clinical_cases.jsonl")
    assert {record["condition"] for record in shipped} == set(load_condition_synonyms())


def _find_named(synonym: str, conditions: list[str], lexicon: Lexicon) -> list[str]:
    """Those of `conditions` that the synonym names, looked for in halves: hardly one does."""
    if not names_condition(f"It is {synonym}.", conditions, lexicon):
        return []
    if len(conditions) == 1:
        return conditions
    middle = len(conditions) // 2
    return [
        *_find_named(synonym, conditions[:middle], lexicon),
        *_find_named(synonym, conditions[middle:], lexicon),
    ]


def test_a_synonym_names_no_other_condition(lexicon):
    every = load_condition_synonyms()
    crossed = {
        (synonym, other)
        for condition, synonyms in every.items()
        for synonym in synonyms
        for other in _find_named(
            synonym, [other for other in every if not are_related(condition, other)], lexicon
        )
    }
    # These two cross by their words.
    assert crossed == {("stomach flu", "influenza"), ("biliary sepsis", "sepsis")}


def test_capitals_are_looked_for_in_capitals(lexicon):
    assert names_condition("CAP, most likely.", ["community-acquired pneumonia"], lexicon)
    assert not names_condition(
        "Take the cap off the inhaler.", ["community-acquired pneumonia"], lexicon
    )


def test_words_in_another_order_are_denied_too(lexicon):
    assert not names_condition(
        "There is no exacerbation of asthma.", ["asthma exacerbation"], lexicon
    )


@pytest.mark.parametrize(
    ("item", "answer", "recalled"),
    [
        ("Do not give aspirin to a child", "Give aspirin to the child.", 0),
        ("Do not give aspirin to a child", "Never give a child aspirin.", 1),
        ("Give oxygen to 88 to 92 percent", "Withhold oxygen at 88 percent.", 0),
        ("Give oxygen to 88 to 92 percent", "Oxygen to 88 to 92 percent.", 1),
    ],
)
def test_an_item_said_the_other_way_round_is_not_recalled(item, answer, recalled):
    assert measure_lexical_recall((item,), answer) == recalled


def test_items_of_a_section_come_without_bullets():
    assert list_reference_items(REFERENCE, "red flags") == (
        "Drooling or stridor: airway obstruction",
        "Rash with neck stiffness: meningitis",
    )
    assert list_reference_items("Rest and drink.", "red flags") == ()


def test_lines_lose_their_bullets_and_paragraphs_their_length():
    assert split_answer_lines("x</think>- One\n2. Two. Three!\n\n") == ["One", "Two.", "Three!"]


def test_recall_is_the_share_of_items_said_somewhere():
    wanted = list_reference_items(REFERENCE, "red flags")
    assert measure_lexical_recall(wanted, REFERENCE) == 1
    assert measure_lexical_recall(wanted, "Come back with drooling or stridor.") == 0.5
    assert measure_lexical_recall(wanted, "Rest and drink.") == 0
    assert measure_lexical_recall((), "Rest") is None
    assert measure_lexical_recall(("the",), "the") == 0


def test_recall_by_meaning_takes_the_nearest_line():
    assert measure_embedded_recall([[0.1, 0.7], [0.2, 0.3]]) == 0.5
    assert measure_embedded_recall([[]]) == 0
    assert measure_embedded_recall([]) is None
