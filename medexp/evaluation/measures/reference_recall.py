"""Does an answer say what the reference says: the condition by name, its red flags, its
precautions? By words, or by meaning.

The rules, in full:
- The condition is named when the answer, without denying it, holds a term of the same concept
  (synonyms of the lexicon, of condition_synonyms.tsv, and those that the case carries in
  `synonyms`), or one line of it has all content words of the condition or of a synonym. A name in
  capitals alone (PE, CAP) is looked for in capitals. A line that a question mark ends names
  nothing.
- An item of the reference is recalled when one line of the answer, in whatever section, holds at
  least MIN_SHARE of its content words (stems), denied where the item denies them and affirmed where
  it affirms them: "give aspirin" does not recall "do not give aspirin". Recall is the share of
  items recalled, over the items of one section of the reference.
- By meaning: the same with the cosine of two sentence embeddings, at least MIN_COSINE, in place of
  shared words.

A recalled item may still be wrong in a detail (`support` looks for those). The thresholds are
chosen so that few items are found in a good answer to another case; benchmarks/answers has the
figures.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path

from medexp.data.words import locate_words
from medexp.evaluation.measures.clinical_terms import Concept, Lexicon, find_mentions, is_negated
from medexp.evaluation.measures.sections import parse_sections
from medexp.evaluation.measures.words import extract_answer, stem_words

MIN_SHARE, MIN_COSINE = 0.35, 0.55
_BULLET = re.compile(r"^\W*(?:\d+[.)]\s+)?")


def names_condition(answer: str, names: Sequence[str], lexicon: Lexicon) -> bool:
    """Return whether `answer` names the condition, by one of `names` or a synonym of theirs."""
    names = [
        *names,
        *(
            synonym
            for name in names
            for synonym in load_condition_synonyms().get(name.casefold(), ())
        ),
    ]
    meant = {concept for name in names for concept in _find_concepts_of(name, lexicon)}
    text = extract_answer(answer)
    if any(
        meant & set(mention.concepts) and not mention.negated
        for mention in find_mentions(text, lexicon)
    ):
        return True
    return any(
        _holds(line, name)
        for line in split_answer_lines(answer)
        if not line.endswith("?")
        for name in names
    )


@lru_cache(maxsize=10_000)
def _find_concepts_of(name: str, lexicon: Lexicon) -> frozenset[Concept]:
    """Return the concepts that the whole of `name` may mean."""
    return frozenset(
        concept
        for mention in find_mentions(name, lexicon)
        if mention.text == name
        for concept in mention.concepts
    )


@cache
def load_condition_synonyms() -> Mapping[str, tuple[str, ...]]:
    """Return the hand-checked synonyms of the shipped conditions, by the condition's name in lower
    case.
    """
    rows = (
        Path(__file__).with_name("condition_synonyms.tsv").read_text(encoding="utf-8").splitlines()
    )
    return {
        name: tuple(synonyms.split(";"))
        for name, _, synonyms in (row.partition("\t") for row in rows)
    }


def split_answer_lines(answer: str) -> list[str]:
    """Return the lines of the answer part without bullets, paragraphs sentence by sentence."""
    lines = [_BULLET.sub("", line).strip() for line in extract_answer(answer).splitlines()]
    return [part for line in lines for part in re.split(r"(?<=[.!?。])\s+", line) if part]


def list_reference_items(reference: str, section: str) -> tuple[str, ...]:
    """Return the items of `section` in `reference`; none where it has no such section."""
    return next((part.items for part in parse_sections(reference) if part.name == section), ())


def measure_lexical_recall(reference_items: Sequence[str], answer: str) -> float | None:
    """Return the share of items whose words a line of `answer` holds; None without items."""
    if not reference_items:
        return None
    line_stems = [_read_polar_stems(line) for line in split_answer_lines(answer)]
    recalled = [_is_recalled(_read_polar_stems(item), line_stems) for item in reference_items]
    return sum(recalled) / len(recalled)


def measure_embedded_recall(cosines: Sequence[Sequence[float]]) -> float | None:
    """Return the share of items with a line near in meaning; None without items.

    `cosines` has a row an item and a column a line of the answer.
    """
    if not cosines:
        return None
    return sum(max(row, default=0.0) >= MIN_COSINE for row in cosines) / len(cosines)


def _is_recalled(
    wanted: frozenset[tuple[str, bool]], lines: Sequence[frozenset[tuple[str, bool]]]
) -> bool:
    return bool(wanted) and any(len(wanted & line) >= MIN_SHARE * len(wanted) for line in lines)


def _read_polar_stems(line: str) -> frozenset[tuple[str, bool]]:
    """Return the stem of every content word of `line`, and whether it is denied there."""
    return frozenset(
        (stem, is_negated(line, start, end))
        for _, start, end in locate_words(line)
        for stem in stem_words(line[start:end])
    )


def _holds(line: str, name: str) -> bool:
    """Return whether `line` has all content words of `name`, and denies none of them."""
    if name.isupper():
        return any(
            not is_negated(line, *at.span()) for at in re.finditer(rf"\b{re.escape(name)}\b", line)
        )
    wanted = stem_words(name)
    if not wanted or not wanted <= stem_words(line):
        return False
    places = [
        (start, end) for _, start, end in locate_words(line) if stem_words(line[start:end]) & wanted
    ]
    return not any(is_negated(line, start, end) for start, end in places)
