"""Words as the measures of answers compare them: stems, one spelling, the key of a clinical term.

Also which part of an answer counts, and which language it is in. Tells English and Chinese from
everything else and no more: by script, and for Latin script by the share of English function words
among its different words (few in a list of findings).
"""

import re
from functools import lru_cache

from snowballstemmer import stemmer

from medexp.data.think_marks import THINK_END, THINK_START
from medexp.data.words import HAN, split_words

POSSESSIVE = re.compile(r"[’'`]s?\b")
_STEM = stemmer("english")
_ENGLISH = frozenset(
    "a about after all also an and any are as at be been but by can do does for from had has have"
    " he her his how if in into is it its may more no nor not of on only or other she should so"
    " some such than that the their them then there these they this to until up was were what when"
    " where which while who will with without you your".split()
)
STOP_WORDS = _ENGLISH | frozenset(
    "because both each even like make most need own same still take too under very via yet".split()
)
# English and hardly any other language's: a, no, of, in, is and the like are left out.
_TELLING = frozenset(
    "the and with for that this are should not from if which when may be by to or his her he she"
    " without while "
    # What notes are made of that leave function words out; spelt so in no other language of Latin
    # script at hand.
    "year years old day days hour hours week weeks month months woman girl boy history pain chest"
    " heart blood breath shortness fever cough headache vomiting left right since after before what"
    " next started taking takes presents complains".split()
)
# The share of Chinese words that makes a text Chinese, that of telling English words which makes
# one English, and how many different words a text needs to be told at all.
MIN_HAN, MIN_TELLING, MIN_LATIN_WORDS = 0.3, 0.04, 8


def extract_answer(text: str) -> str:
    """Return what follows the last `</think>`, the whole text where there is none.

    A text that begins a chain of thought (`<think>`) that never ends has no answer.
    """
    _, mark, after = text.rpartition(THINK_END)
    begins_only = not mark and text.lstrip().startswith(THINK_START)
    return "" if begins_only else after


def end_reasoning(text: str) -> str:
    """Return `text`, the continuation of a prompt that ends with `<think>`, with its reasoning
    ended: where it was cut off before `</think>` that is put at its end, and the answer is empty.
    """
    return text if THINK_END in text else f"{text}{THINK_END}"


# "Two weeks" is "2 weeks"; "one" is more often no number.
_NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        "two three four five six seven eight nine ten eleven twelve".split(), 2
    )
}


@lru_cache(maxsize=50_000)
def stem_words(text: str) -> frozenset[str]:
    """Return the different content words of `text`, cut to their stems and spelt one way, numbers
    up to twelve in digits.

    Source: Porter's English stemmer (snowballstemmer).
    """
    return frozenset(_stem(word) for word in split_words(text) if word not in STOP_WORDS)


@lru_cache(maxsize=100_000)
def _stem(word: str) -> str:
    return _NUMBERS.get(word) or fold_spelling(_STEM.stemWord(word))


def fold_spelling(word: str) -> str:
    """Return `word` in one spelling for British and American English: oedema, edema."""
    return word.replace("ae", "e").replace("oe", "e").replace("our", "or").replace("sulph", "sulf")


def to_singular(word: str) -> str:
    """Return `word` without a plural s; a word that ends in ss, is or us keeps it."""
    return (
        word[:-1]
        if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "is", "us"))
        else word
    )


def make_term_key(name: str) -> tuple[str, ...]:
    """Return the words that a clinical term is looked up by: folded, singular, no possessives."""
    return tuple(to_singular(fold_spelling(word)) for word in split_words(POSSESSIVE.sub("", name)))


def detect_language(text: str) -> str | None:
    """Return en, zh or other; None where there is too little text to tell.

    That is fewer than MIN_LATIN_WORDS different words, none of them Chinese.
    """
    words = split_words(text)
    han = sum(1 for word in words if re.match(f"[{HAN}]", word))
    if han and han >= MIN_HAN * len(words):
        return "zh"
    different = {word for word in words if word.isalpha()}
    if len(different) < MIN_LATIN_WORDS:
        return None
    return "en" if len(different & _TELLING) >= MIN_TELLING * len(different) else "other"
