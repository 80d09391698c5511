"""The form of an answer: did it end by itself, how long is it, does it repeat itself, is it in the
question's language?

The rules, in full: repetition is the share of word 4-grams of the whole text (reasoning too) that
stood in it before; the language (`words.detect_language`) must be that of the question, where both
can be told; the reasoning is closed when `</think>` stands in the text.
"""

from medexp.data.prompts import THINK_END
from medexp.data.words import split_words
from medexp.evaluation.measures.words import detect_language, extract_answer

NGRAM = 4


def measure_repetition(text: str) -> float:
    """The share of word 4-grams that are repeats, 0 to under 1; 0 for a text of fewer than four
    words.
    """
    found = split_words(text)
    grams = [tuple(found[at : at + NGRAM]) for at in range(len(found) - NGRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def has_same_language(answer: str, question: str) -> bool | None:
    """Are both in one language? None where one of them is too short to tell."""
    asked, said = detect_language(question), detect_language(extract_answer(answer))
    return None if asked is None or said is None else asked == said


def is_closed(text: str) -> bool:
    """Does the reasoning end, so that an answer can follow?"""
    return THINK_END in text
