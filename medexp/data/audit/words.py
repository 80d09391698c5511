"""Words of a text for comparing texts: lower case, without punctuation; a Chinese or Japanese
character counts as a word.
"""

import re

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")


def words_of(text: str) -> list[str]:
    """The words of `text` in order."""
    return _WORD.findall(text.casefold())
