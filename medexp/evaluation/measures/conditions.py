"""Names of conditions: how they are written in a sentence, their synonyms, and what is broader than
they are. From condition_synonyms.tsv and condition_broader.tsv, both checked by hand.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from medexp.evaluation.measures.reference_recall import load_condition_synonyms

# Names stand in lower case in the data; these words are written with capitals.
_WRITTEN = {
    "bell": "Bell",
    "copd": "COPD",
    "kawasaki": "Kawasaki",
    "stevens-johnson": "Stevens-Johnson",
}


def write_condition_name(condition: str) -> str:
    """Return `condition` as it stands inside an English sentence."""
    return " ".join(_WRITTEN.get(word, word) for word in condition.split())


def list_synonyms(condition: str) -> tuple[str, ...]:
    """Return the other names of `condition`, none where it is not a shipped one."""
    return load_condition_synonyms().get(condition.casefold(), ())


def list_broader_names(condition: str) -> tuple[str, ...]:
    """Return names that hold `condition` among other things."""
    return _read_broader().get(condition.casefold(), ())


def list_shipped_conditions() -> tuple[str, ...]:
    """Return the names of the shipped conditions."""
    return tuple(load_condition_synonyms())


def are_related(one: str, other: str) -> bool:
    """Return whether two conditions are the same, or one of them is broader than the other."""
    return bool(
        _list_wider_names(one) & {other.casefold()} or _list_wider_names(other) & {one.casefold()}
    )


def _list_wider_names(condition: str) -> set[str]:
    names = (condition, *list_synonyms(condition), *list_broader_names(condition))
    return {name.casefold() for name in names}


@cache
def _read_broader() -> Mapping[str, tuple[str, ...]]:
    file = Path(__file__).with_name("condition_broader.tsv")
    rows = file.read_text(encoding="utf-8").splitlines()
    return {
        name: tuple(names.split(";")) for name, _, names in (row.partition("\t") for row in rows)
    }
