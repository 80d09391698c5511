"""Which clinical terms a text names, and whether it denies them. By a lexicon that is handed in: no
term that is not in it is seen.

The rules, in full:
- Words are compared in lower case, in one spelling for British and American English, without plural
  or possessive s. The longest name wins where several begin at the same word.
- A mention is negated (NegEx, Chapman et al. 2001, doi:10.1006/jbin.2001.1029, with triggers for
  advice: avoid, withhold, stop, pause) when one of BEFORE stands at most REACH words before it, or
  one of AFTER at most REACH words behind it, within the same clause.
- A clause ends at . ; : ! ? or a new line, and at but, although, however, except, unless. A comma
  does not end it: "no fever, cough or rash" denies all three.
- What is ordered anew ends a denial, too (SCOPE_END): in "stop metformin and start warfarin" and in
  "no allergies, so give amoxicillin" the second drug is affirmed.
- PSEUDO phrases look like denials and are none (ConText, Harkema et al. 2009,
  doi:10.1016/j.jbi.2009.05.002): "without delay", "do not withhold", "is not contraindicated",
  "cannot be ruled out".

Terms are English. A text in another language has none.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from medexp.data.words import locate_words
from medexp.evaluation.measures.words import POSSESSIVE, fold_spelling, to_singular

REACH = 6
# Words of advice that are none elsewhere: "pause ramipril", and not "a pause in breathing".
_PAUSES = (
    r"(?:(?<!\w )|(?<=and )|(?<=then )|(?<=to ))"
    r"(?:paus(?:e|ing)|skip|leave (?:out|off)|withdraw|cease)"
    r"(?= \w|$)(?! (?:in|and|on|between|of)\b)"
)
BEFORE = re.compile(
    rf"\b(?:{_PAUSES}|"
    r"no|not|never|without|denies|denied|avoid\w*|withhold\w*|stop|stopping|stopped|"
    r"hold|holding|discontinu\w+|omit\w*|"
    r"suspend\w*|absent|absence of|free of|lack\w* of|rul\w+ out|exclud\w+|rather than|instead"
    r" of|unlike|negative for|against|"
    r"cannot|neither|nor|contraindicat\w+|\w+n['’]t|does ?n['’]t)\b",
    re.IGNORECASE,
)
AFTER = re.compile(
    r"\b(?:(?:is|are|was|were) (?:absent|unlikely|excluded|ruled"
    r" out|avoided|not|no|contraindicated)|(?:un|less )likely|ruled out|"
    r"excluded|should not|must not|does not|do not|would not|cannot|contraindicated|"
    r"(?:is|are|was|were|do|does|did|should|must|would)n['’]t|"
    r"be (?:avoided|stopped|paused|withheld|held|discontinued|omitted)|(?:was|were|been|is|are)"
    r" (?:considered and )?(?:dismissed|"
    r"stopped|paused|withheld|held|discontinued|refuted|rejected))\b",
    re.IGNORECASE,
)
_NOT = (
    r"(?:do not|don['’]t|does not|never|must not|should not|mustn['’]t|shouldn['’]t|not"
    r" to|cannot|can['’]t|without)"
)
_KEEPS = (
    r"(?:delay\w*|withh\w+|forg\w+|hesitat\w+|stop\w*|omit\w*|miss\w*|wait\w*|discontinu\w+"
    r"|paus\w+|skip\w*"
    r"|avoid\w*|exclud\w+|rul\w+ out)"
)
PSEUDO = re.compile(
    r"\b(?:no doubt|not (?:the )?only|not (?:just|alone|necessarily)|"
    rf"no (?:increase|change|improvement) in|{_NOT} (?:any |further |be )*{_KEEPS}|"
    r"(?:not|isn['’]t|aren['’]t|wasn['’]t|no longer) (?:be )?contraindicated|no contraindications?"
    r" (?:to|for)|"
    r"no reason to (?:withhold|stop|avoid|delay)|no (?:delay|time to (?:lose|waste)))\b",
    re.IGNORECASE,
)
_ORDER = (
    r"(?:start|give|begin|commence|initiate|prescribe|administer|add|switch"
    r" to|continue|resume|offer|take|treat|arrange|perform|"
    r"use|consider|order|request|refer|admit|change to)(?:ed|ing|s)?"
)
SCOPE_END = re.compile(
    r"\b(?:so|therefore|thus|hence|instead(?!"
    rf" of))\b|(?:\band|\bthen|,)\s+(?:then\s+)?(?:\w+ly\s+)?{_ORDER}\b",
    re.IGNORECASE,
)
# "CT without contrast showed a stone" denies no stone.
_CLAUSE_END = re.compile(
    r"[.;:!?](?=\s|$)|\n|\b(?:but|although|however|except|unless)\b|(?<=without contrast)\s",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Concept:
    """A drug or a finding; `trees` are its MeSH tree numbers, by which a wider finding is known
    from a narrower one.
    """

    kind: str
    name: str
    trees: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)  # a lexicon is large, and equal to itself alone
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


def build_lexicon(rows: Iterator[tuple[str, str, str, str]]) -> Lexicon:
    """Return the lexicon of rows of kind, concept, tree numbers and names.

    Tree numbers are parted by spaces, names by bars; a name is given as its looked-up words.
    """
    names: dict[str, tuple[Concept, ...]] = {}
    for kind, concept, trees, variants in rows:
        meant = Concept(kind, concept, tuple(trees.split()))
        for variant in variants.split("|"):
            names[variant] = (*names.get(variant, ()), meant)
    return Lexicon(names, max((name.count(" ") + 1 for name in names), default=0))


def find_mentions(text: str, lexicon: Lexicon) -> list[Mention]:
    """Return every term of `lexicon` in `text`, in order, none overlapping."""
    plain = POSSESSIVE.sub(lambda match: " " * len(match[0]), text)
    mentions, words = (
        [],
        [
            (to_singular(fold_spelling(word)), start, end)
            for word, start, end in locate_words(plain)
        ],
    )
    at = 0
    while at < len(words):
        length, concepts = _match_longest_name(words, at, lexicon)
        if length:
            start, end = words[at][1], words[at + length - 1][2]
            mentions.append(
                Mention(text[start:end], start, end, concepts, is_negated(text, start, end))
            )
        at += max(length, 1)
    return mentions


def is_negated(text: str, start: int, end: int) -> bool:
    """Return whether what stands at [start, end) of `text` is denied, or advised against, in its
    own clause.
    """
    plain = PSEUDO.sub(lambda match: " " * len(match[0]), text)
    before = _CLAUSE_END.split(plain[:start])[-1]
    after = SCOPE_END.split(_CLAUSE_END.split(plain[end:], maxsplit=1)[0], maxsplit=1)[0]
    near_before = " ".join(before.split()[-REACH:])
    near_after = " ".join(after.split()[:REACH])
    is_denied = any(
        not SCOPE_END.search(near_before, trigger.end()) for trigger in BEFORE.finditer(near_before)
    )
    return is_denied or bool(AFTER.search(near_after))


def is_wider(wide: Concept, narrow: Concept) -> bool:
    """Return whether `narrow` lies in a branch of MeSH below `wide`, as chest pain below pain."""
    return any(below.startswith(f"{above}.") for above in wide.trees for below in narrow.trees)


def _match_longest_name(
    words: list[tuple[str, int, int]], at: int, lexicon: Lexicon
) -> tuple[int, tuple[Concept, ...]]:
    for length in range(min(lexicon.longest, len(words) - at), 0, -1):
        concepts = lexicon.names.get(" ".join(word for word, _, _ in words[at : at + length]))
        if concepts:
            return length, concepts
    return 0, ()
