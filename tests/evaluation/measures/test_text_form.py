"""Repetition, language and the end of the reasoning."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medexp.evaluation.measures.text_form import has_same_language, is_closed, measure_repetition

ENGLISH = "The patient should rest and drink, and come back if the fever is not gone."


def test_repetition_is_the_share_of_repeated_4_grams():
    assert measure_repetition("a b c d e") == 0
    assert measure_repetition("a b c d " * 2) == pytest.approx(1 / 5)
    assert measure_repetition("rest " * 100) > 0.98
    assert measure_repetition("too short") == 0


@given(st.text())
def test_repetition_is_a_share(text):
    assert 0 <= measure_repetition(text) < 1


def test_the_language_is_compared_where_both_can_be_told():
    assert has_same_language(ENGLISH, ENGLISH) is True
    assert has_same_language("患者应休息并多喝水，如发热不退应复诊。", ENGLISH) is False
    assert has_same_language("Rest.", ENGLISH) is None


def test_reasoning_is_closed_by_its_mark():
    assert is_closed("so</think>Rest.")
    assert not is_closed("so it goes on")
