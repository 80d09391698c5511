import pytest

from medexp.data.audit.language import count_languages, detect_language


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("A 58-year-old bus driver has had chest pain for an hour; what should be done?", "en"),
        ("一名四十五岁男性患者因胸痛就诊，最可能的诊断是什么？", "zh"),
        ("Ein 58-jähriger Busfahrer klagt seit einer Stunde über Schmerzen in der Brust.", "de"),
    ],
)
def test_a_sentence_shows_its_language(text, language):
    assert detect_language(text) == language


def test_languages_are_counted_the_most_frequent_first():
    english, german = (
        "The patient has a fever and a cough since yesterday.",
        "Der Patient hat seit gestern Fieber und Husten.",
    )
    assert count_languages([german, english, english]) == [("en", 2), ("de", 1)]
