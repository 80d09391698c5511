"""Names of conditions, their synonyms, and what is broader."""

from medexp.config.registration import find_conf_dir
from medexp.data.loading import read_records
from medexp.evaluation.measures.conditions import (
    are_related,
    broader_than,
    shipped_conditions,
    synonyms_of,
    written_name,
)


def test_every_shipped_condition_has_synonyms_and_a_broader_name():
    shipped = read_records(find_conf_dir().parent / "medexp" / "data" / "clinical_cases.jsonl")
    names = {row["condition"] for row in shipped}
    assert names == set(shipped_conditions())
    assert all(synonyms_of(name) and broader_than(name) for name in names)


def test_no_name_stands_in_both_lists_or_twice():
    for name in shipped_conditions():
        names = [each.casefold() for each in (name, *synonyms_of(name), *broader_than(name))]
        assert len(set(names)) == len(names), name


def test_names_are_written_as_in_a_sentence():
    assert written_name("bell palsy") == "Bell palsy"
    assert written_name("copd exacerbation") == "COPD exacerbation"
    assert written_name("gout") == "gout"


def test_a_condition_is_related_to_itself_and_to_what_is_broader():
    assert are_related("gout", "gout")
    assert are_related("neutropenic sepsis", "sepsis")
    assert are_related("sepsis", "neutropenic sepsis")
    assert not are_related("gout", "septic arthritis")
    assert synonyms_of("no such condition") == () == broader_than("no such condition")
