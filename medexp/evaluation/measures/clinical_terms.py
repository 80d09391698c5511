"""Which clinical terms a text names, and whether it denies them. By a lexicon that is handed in: no term that is not in it is seen.

The rules, in full:
- Words are compared in lower case, in one spelling for British and American English, without plural or possessive s. The longest
  name wins where several begin at the same word.
- A mention is negated (NegEx, Chapman et al. 2001, doi:10.1006/jbin.2001.1029, with triggers for advice: avoid, withhold, stop)
  when one of BEFORE stands at most REACH words before it, or one of AFTER at most REACH words behind it, within the same clause.
  A clause ends at . ; : ! ? or a new line, and at but, although, however, except, unless. A comma does not end it: "no fever, cough
  or rash" denies all three.

Terms are English. A text in another language has none.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from medexp.evaluation.measures.words import POSSESSIVE, fold, singular, spans

REACH = 6
BEFORE = re.compile(
    r"\b(?:no|not|never|without|denies|denied|avoid\w*|withhold\w*|stop|stopping|stopped|absent|absence of|free of|lack\w* of|"
    r"rul\w+ out|exclud\w+|rather than|instead of|unlike|negative for|against|cannot|neither|nor|contraindicat\w+|don['’]t|"
    r"does ?n['’]t)\b(?![ -]only\b)",
    re.IGNORECASE,
)
AFTER = re.compile(
    r"\b(?:(?:is|are|was|were) (?:absent|unlikely|excluded|ruled out|avoided|not|no|contraindicated)|unlikely|ruled out|excluded|"
    r"should not|must not|does not|do not|would not|cannot|to be avoided|contraindicated)\b",
    re.IGNORECASE,
)
_CLAUSE_END = re.compile(r"[.;:!?](?=\s|$)|\n|\b(?:but|although|however|except|unless)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Concept:
    """A drug or a finding; `trees` are its MeSH tree numbers, by which a wider finding is known from a narrower one."""

    kind: str
    name: str
    trees: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lexicon:
    """Every name, as its looked-up words joined by spaces, and the concepts that it may mean."""

    names: Mapping[str, tuple[Concept, ...]]
    longest: int


@dataclass(frozen=True)
class Mention:
    """A term at [start, end) of a text."""

    text: str
    start: int
    end: int
    concepts: tuple[Concept, ...]
    negated: bool

    @property
    def kind(self) -> str:
        """drug or finding."""
        return self.concepts[0].kind


def lexicon_of(rows: Iterator[tuple[str, str, str, str]]) -> Lexicon:
    """The lexicon of rows of kind, concept, tree numbers (by spaces), names (by bars, each as its looked-up words)."""
    names: dict[str, tuple[Concept, ...]] = {}
    for kind, concept, trees, variants in rows:
        meant = Concept(kind, concept, tuple(trees.split()))
        for variant in variants.split("|"):
            names[variant] = (*names.get(variant, ()), meant)
    return Lexicon(names, max((name.count(" ") + 1 for name in names), default=0))


def mentions(text: str, lexicon: Lexicon) -> list[Mention]:
    """Every term of `lexicon` in `text`, in order, none overlapping."""
    plain = POSSESSIVE.sub(lambda match: " " * len(match[0]), text)
    found, words = [], [(singular(fold(word)), start, end) for word, start, end in spans(plain)]
    at = 0
    while at < len(words):
        length, concepts = _longest_name(words, at, lexicon)
        if length:
            start, end = words[at][1], words[at + length - 1][2]
            found.append(Mention(text[start:end], start, end, concepts, is_negated(text, start, end)))
        at += max(length, 1)
    return found


def is_negated(text: str, start: int, end: int) -> bool:
    """Is what stands at [start, end) of `text` denied, or advised against, in its own clause?"""
    before = _CLAUSE_END.split(text[:start])[-1]
    after = _CLAUSE_END.split(text[end:], maxsplit=1)[0]
    near_before = " ".join(before.split()[-REACH:])
    near_after = " ".join(after.split()[:REACH])
    return bool(BEFORE.search(near_before) or AFTER.search(near_after))


def is_wider(wide: Concept, narrow: Concept) -> bool:
    """Does `narrow` lie in a branch of MeSH below `wide`? Pain above chest pain."""
    return any(below.startswith(f"{above}.") for above in wide.trees for below in narrow.trees)


def _longest_name(words: list[tuple[str, int, int]], at: int, lexicon: Lexicon) -> tuple[int, tuple[Concept, ...]]:
    for length in range(min(lexicon.longest, len(words) - at), 0, -1):
        concepts = lexicon.names.get(" ".join(word for word, _, _ in words[at : at + length]))
        if concepts:
            return length, concepts
    return 0, ()
