import pytest

from medexp.data.audit.language import language_of, languages_of
from medexp.data.audit.words import words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Fever, 38.5 °C -- since Monday!", ["fever", "38", "5", "c", "since", "monday"]),
        ("ST_elevation", ["st", "elevation"]),
        ("胸痛 3天 ECG", ["胸", "痛", "3", "天", "ecg"]),
        ("Straße ÉTÉ", ["strasse", "été"]),
        (" … ", []),
    ],
)
def test_words_are_lower_case_and_without_marks(text, words):
    assert words_of(text) == words


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("A 58-year-old bus driver has had chest pain for an hour; what should be done?", "en"),
        ("一名四十五岁男性患者因胸痛就诊，最可能的诊断是什么？", "zh"),
        ("Ein 58-jähriger Busfahrer klagt seit einer Stunde über Schmerzen in der Brust.", "de"),
    ],
)
def test_a_sentence_shows_its_language(text, language):
    assert language_of(text) == language


def test_languages_are_counted_the_most_frequent_first():
    english, german = (
        "The patient has a fever and a cough since yesterday.",
        "Der Patient hat seit gestern Fieber und Husten.",
    )
    assert languages_of([german, english, english]) == [("en", 2), ("de", 1)]
