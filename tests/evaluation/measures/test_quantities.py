"""Numbers with units, what is none, and when two agree."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medexp.evaluation.measures.quantities import find_quantities


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("aspirin 300 mg", [(300, "mg")]),
        ("1 g", [(1000, "mg")]),
        ("250 µg and 250 micrograms", [(0.25, "mg"), (0.25, "mg")]),
        ("80-90 mg/kg/day", [(80, "mg"), (90, "mg")]),
        ("BP 120/80", [(120, None), (80, None)]),
        ("1,000 units", [(1000, "unit")]),
        ("38.5 °C", [(38.5, "°c")]),
        ("within 48 hours", [(2880, "min")]),
        ("twenty-five minutes", [(25, "min")]),
        ("a 29-year-old", [(29 * 525600, "min")]),
        ("two puffs", [(2, "dose")]),
        ("two of them", []),
        ("V4, B12, CHA2DS2, 12-lead ECG, 5-HT3, 2nd", []),
        ("1. first\n2) second", []),
    ],
)
def test_numbers_are_read_with_their_units(text, found):
    assert [(each.value, each.unit) for each in find_quantities(text)] == [
        (pytest.approx(value), unit) for value, unit in found
    ]


@pytest.mark.parametrize(
    ("one", "other", "agree"),
    [
        ("1 g", "1000 mg", True),
        ("48 hours", "2 days", True),
        ("haemoglobin 80", "80 g/L", True),
        ("300 mg", "300 g", False),
        ("300 mg", "500 mg", False),
        ("2 mg", "two", False),
        ("2", "two", True),
    ],
)
def test_agreement_needs_value_and_unit(one, other, agree):
    (left,), (right,) = (
        find_quantities(one, every_word=True),
        find_quantities(other, every_word=True),
    )
    assert left.agrees(right) is right.agrees(left) is agree


def test_doses_are_known_by_their_unit():
    assert [each.is_dose for each in find_quantities("5 mg for 5 days")] == [True, False]


@given(st.integers(0, 10**6), st.sampled_from(["mg", "ml", "hours", "%", "mmol"]))
def test_a_written_number_is_read_back(number, unit):
    (found,) = find_quantities(f"give {number} {unit} now")
    assert found.bare == number


@given(st.text())
def test_any_text_can_be_read(text):
    for each in find_quantities(text, every_word=True):
        assert 0 <= each.start < each.end <= len(text)
