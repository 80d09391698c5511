"""A text as words, for comparing texts: lower case, without punctuation, digits and accents as they
are. A Chinese or Japanese character counts as a word, since neither language parts its words.
"""

import re

HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_KANA = "\u3040-\u30ff"
_WORD = re.compile(rf"[{HAN}{_KANA}]|[^\W_{HAN}{_KANA}]+")


def split_words(text: str) -> list[str]:
    """Return the words of `text` in order."""
    return [word.casefold() for word in _WORD.findall(text)]


def locate_words(text: str) -> list[tuple[str, int, int]]:
    """Return the words of `text` in order, each with where it begins and ends in `text`."""
    return [(match[0].casefold(), match.start(), match.end()) for match in _WORD.finditer(text)]
