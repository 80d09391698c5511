"""Does an answer say what the reference says: the condition by name, its red flags, its precautions? By words, or by meaning.

The rules, in full:
- The condition is named when the answer, without denying it, holds a term of the same concept (synonyms of the lexicon, and those
  that the case carries in `synonyms`, separated by semicolons), or one line of it has all content words of the condition or of a
  synonym. A line that a question mark ends names nothing.
- An item of the reference is recalled when one line of the answer, in whatever section, holds at least MIN_SHARE of its content
  words (stems). Recall is the share of items recalled, over the items of one section of the reference.
- By meaning: the same with the cosine of two sentence embeddings, at least MIN_COSINE, in place of shared words.

A recalled item may still be wrong in a detail (`support` looks for those). The thresholds are chosen so that few items
are found in a good answer to another case; benchmarks/answers has the figures.
"""

import re
from collections.abc import Sequence

from medexp.evaluation.measures.clinical_terms import Lexicon, is_negated, mentions
from medexp.evaluation.measures.sections import sections
from medexp.evaluation.measures.words import answer_part, fold, stems

MIN_SHARE, MIN_COSINE = 0.35, 0.55
_BULLET = re.compile(r"^\W*(?:\d+[.)]\s+)?")


def names_condition(answer: str, names: Sequence[str], lexicon: Lexicon) -> bool:
    """Does `answer` name the condition, by one of `names` or a synonym of theirs?"""
    meant = {concept for name in names for each in mentions(name, lexicon) if each.text == name for concept in each.concepts}
    text = answer_part(answer)
    if any(meant & set(each.concepts) and not each.negated for each in mentions(text, lexicon)):
        return True
    return any(_holds(line, name) for line in lines(answer) if not line.endswith("?") for name in names)


def lines(answer: str) -> list[str]:
    """The lines of the answer part, without bullets and numbers; long paragraphs sentence by sentence."""
    found = [_BULLET.sub("", line).strip() for line in answer_part(answer).splitlines()]
    return [part for line in found for part in re.split(r"(?<=[.!?。])\s+", line) if part]


def items(reference: str, section: str) -> tuple[str, ...]:
    """The items of `section` in `reference`; none where it has no such section."""
    return next((each.items for each in sections(reference) if each.name == section), ())


def lexical_recall(reference_items: Sequence[str], answer: str) -> float | None:
    """The share of `reference_items` whose words a line of `answer` holds; None without items."""
    if not reference_items:
        return None
    said = [stems(line) for line in lines(answer)]
    return sum(_is_recalled(stems(item), said) for item in reference_items) / len(reference_items)


def embedded_recall(cosines: Sequence[Sequence[float]]) -> float | None:
    """The share of items with a line near in meaning; `cosines` has a row an item and a column a line of the answer."""
    if not cosines:
        return None
    return sum(max(row, default=0.0) >= MIN_COSINE for row in cosines) / len(cosines)


def _is_recalled(wanted: frozenset[str], said: Sequence[frozenset[str]]) -> bool:
    return bool(wanted) and any(len(wanted & line) >= MIN_SHARE * len(wanted) for line in said)


def _holds(line: str, name: str) -> bool:
    wanted = stems(name)
    if not wanted or not wanted <= stems(line):
        return False
    at = fold(line.casefold()).find(fold(name.casefold()))
    return at < 0 or not is_negated(fold(line.casefold()), at, at + len(name))
