import pytest
from hypothesis import given
from hypothesis import strategies as st

from medexp.data.words import locate_words, split_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Fever, 38.5 °C -- since Monday!", ["fever", "38", "5", "c", "since", "monday"]),
        ("ST_elevation", ["st", "elevation"]),
        ("胸痛 3天 ECG", ["胸", "痛", "3", "天", "ecg"]),
        ("Take 300 mg, 每天", ["take", "300", "mg", "每", "天"]),
        ("Straße ÉTÉ", ["strasse", "été"]),
        ("休むこと", ["休", "む", "こ", "と"]),
        (" … ", []),
    ],
)
def test_words_are_lower_case_and_without_marks(text, words):
    assert split_words(text) == words


def test_words_are_located():
    text = "No Fever."
    assert [text[start:end] for _, start, end in locate_words(text)] == ["No", "Fever"]


@given(st.text())
def test_every_word_stands_where_it_is_located(text):
    located = locate_words(text)
    assert [word for word, _, _ in located] == split_words(text)
    assert all(text[start:end].casefold() == word and word for word, start, end in located)
