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
    """Return the share of word 4-grams that are repeats, 0 to under 1.

    A text of fewer than four words has none: 0.
    """
    words = split_words(text)
    grams = [tuple(words[at : at + NGRAM]) for at in range(len(words) - NGRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def has_same_language(answer: str, question: str) -> bool | None:
    """Return whether both are in one language; None where one of them is too short to tell."""
    wanted, given = detect_language(question), detect_language(extract_answer(answer))
    return None if wanted is None or given is None else wanted == given


def is_closed(text: str) -> bool:
    """Return whether the reasoning ends, so that an answer can follow."""
    return THINK_END in text
