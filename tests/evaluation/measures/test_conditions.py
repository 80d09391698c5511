"""Names of conditions, their synonyms, and what is broader."""

from medexp.config.shipped import find_conf_dir
from medexp.data.loading import read_records
from medexp.evaluation.measures.conditions import (
    are_related,
    list_broader_names,
    list_shipped_conditions,
    list_synonyms,
    write_condition_name,
)


def test_every_shipped_condition_has_synonyms_and_a_broader_name():
    shipped = read_records(find_conf_dir().parent / "medexp" / "data" / "clinical_cases.jsonl")
    names = {row["condition"] for row in shipped}
    assert names == set(list_shipped_conditions())
    assert all(list_synonyms(name) and list_broader_names(name) for name in names)


def test_no_name_stands_in_both_lists_or_twice():
    for name in list_shipped_conditions():
        names = [
            each.casefold() for each in (name, *list_synonyms(name), *list_broader_names(name))
        ]
        assert len(set(names)) == len(names), name


def test_names_are_written_as_in_a_sentence():
    assert write_condition_name("bell palsy") == "Bell palsy"
    assert write_condition_name("copd exacerbation") == "COPD exacerbation"
    assert write_condition_name("gout") == "gout"


def test_a_condition_is_related_to_itself_and_to_what_is_broader():
    assert are_related("gout", "gout")
    assert are_related("neutropenic sepsis", "sepsis")
    assert are_related("sepsis", "neutropenic sepsis")
    assert not are_related("gout", "septic arthritis")
    assert list_synonyms("no such condition") == () == list_broader_names("no such condition")
