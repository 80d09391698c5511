"""Which language a text is in, by its letter sequences. For short notes full of numbers it is a
guess: look at the counts.
"""

from collections import Counter
from collections.abc import Sequence

# Enough to be sure, and quick.
LETTERS = 600


def detect_language(text: str) -> str:
    """Return the ISO 639-1 code of `text`'s language.

    Source: py3langid, after Lui & Baldwin 2012.
    """
    import py3langid

    code, _ = py3langid.classify(text[:LETTERS])
    return str(code)


def count_languages(texts: Sequence[str]) -> list[tuple[str, int]]:
    """Return every language with its number of texts, the most frequent first."""
    return Counter(map(detect_language, texts)).most_common()
