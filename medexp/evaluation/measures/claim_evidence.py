"""What the statements of an answer are checked against: the question, the reference (without its
chain of thought) and a fact sheet, line by line and sentence by sentence.

Content words are stems without FRAME, the words in which anything is reported ("the patient was
diagnosed with"). A name of the lexicon is there when the evidence has the same concept, or a
narrower one.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from medexp.data.words import locate_words, split_words
from medexp.evaluation.measures.clinical_terms import (
    Concept,
    Lexicon,
    Mention,
    find_mentions,
    is_negated,
    is_wider,
)
from medexp.evaluation.measures.quantities import Quantity, find_quantities
from medexp.evaluation.measures.safety import FUTILE
from medexp.evaluation.measures.statements import PART, split_statements
from medexp.evaluation.measures.words import stem_words

FRAME = stem_words(
    "patient patients case diagnosis diagnosed suspected suspicion confirmed consistent presumed"
    " likely possible probable started give gives giving given never without administered receives"
    " prescribed ordered recommended advised scheduled required obtained requested performed"
    " carried done undergo taken used initiated proceeding planned decided determined evident"
    " evidence status condition finding findings found noted seen shown shows showed reveals"
    " revealed indicates demonstrates result results based following follow further evaluate"
    " evaluation examine examined examining exam examination review reviewing completed completing"
    " subsequently next step addition additionally presence present presents identified managed"
    " management treat treated treating treatment therapy cause causes causing causal organism"
    " pathogen laboratory labs studies include including includes upon became was were did does"
    " done experiencing develops developed due implement symptom symptoms precaution precautions"
    " red flag flags warning sign signs"
)
ACTION = re.compile(
    r"\b(?:emergenc\w+|urgent\w*|immediate\w*|at once|999|911|ambulance|resuscitat\w+|admit\w*"
    r"|admission|theatre|surg\w+|intensive care|hospital|refer\w*|same[- ]day"
    r"|within (?:an?|one|\d+) (?:hours?|minutes?)|straight to|intravenous|IV|start|give"
    r"|antibiotics?|stop|biopsy|monitor\w*|check|measure|test\w*|scan|oxygen)\b",
    re.IGNORECASE,
)
# What may be dismissed by its name, and how the evidence acts on that.
_NAMED_ACTIONS = tuple(
    (re.compile(thing, re.IGNORECASE), re.compile(rf"\b(?:{action})\b", re.IGNORECASE))
    for thing, action in (
        (
            "antibiotic",
            r"antibiotics?|antimicrobials?|\w*(?:cillin|mycin|micin|cyclin|floxacin|penem)\w*"
            r"|cef\w+|ceph\w+|co-amoxiclav|co-trimoxazole|\w*trimethoprim|metronidazole"
            r"|nitrofurantoin|linezolid|pivmecillinam|rifampicin|rifampin",
        ),
        (
            "scan|imaging",
            r"scans?|imaging|CT|MRI|MR|ultraso\w+|x-?rays?|radiograph\w*|film|angiogra\w+|echo\w*",
        ),
        (
            "surg",
            r"surg\w+|operat\w+|theatre|explor\w+|repair|incision|drain\w*|debride\w+"
            r"|\w+(?:ectomy|otomy|ostomy|plasty|pexy)|c(?:a|e|ae)sarean",
        ),
    )
)
SKIPPED = re.compile(r"\b(?:skip|leave out|leave off|discard)\b", re.IGNORECASE)
# What is put off is neither ordered nor forbidden.
DEFERRAL = re.compile(
    r"\b(?:hold|holding|held|withh[eo]ld\w*|delay\w*|postpon\w+|defer\w*|paus\w+|off)\b",
    re.IGNORECASE,
)


def keep_content(stems: frozenset[str]) -> frozenset[str]:
    """Return those of `stems` that have content: no word of FRAME, and no number."""
    return frozenset(stem for stem in stems - FRAME if not stem.isdigit())


@dataclass(frozen=True)
class EvidenceLine:
    """A line of evidence with what is compared in it, worked out when it is asked for."""

    text: str
    lexicon: Lexicon = field(repr=False, compare=False)
    section: str | None = None

    @property
    def is_question(self) -> bool:
        """Does it end with a question mark?"""
        return self.text.rstrip(" *_'\"").endswith("?")

    @cached_property
    def stems(self) -> frozenset[str]:
        """Its words."""
        return stem_words(self.text)

    @property
    def content(self) -> frozenset[str]:
        """Its content words."""
        return keep_content(self.stems)

    @cached_property
    def normal(self) -> str:
        """Its words in order, by single spaces, a space at both ends."""
        return f" {' '.join(split_words(self.text))} "

    @cached_property
    def parts(self) -> frozenset[str]:
        """Itself and its parts between semicolons, each as `normal` is."""
        texts = (self.text, *PART.split(self.text))
        return frozenset(f" {' '.join(split_words(text))} " for text in texts)

    @cached_property
    def quantities(self) -> tuple[Quantity, ...]:
        """Its numbers."""
        return tuple(find_quantities(self.text, every_word=True))

    @cached_property
    def mentions(self) -> tuple[Mention, ...]:
        """The names of the lexicon in it."""
        return tuple(find_mentions(self.text, self.lexicon))

    @cached_property
    def is_discouraging(self) -> bool:
        """Does it name what it advises against, as "antibiotics bring little" and "skip the drops"
        do?
        """
        return bool(SKIPPED.search(self.text) or FUTILE.search(self.text))

    @cached_property
    def polarity(self) -> dict[str, bool | None]:
        """Whether each stem is denied; affirmed wins where it stands twice, and None is unknown: it
        would be denied by what stands before a comma ("no cough, fever"), or is only put off.
        """
        denied: dict[str, bool | None] = {}
        defers = DEFERRAL.search(self.text)
        for _, start, end in locate_words(self.text):
            is_denied: bool | None = is_negated(self.text, start, end)
            if is_denied and (defers or not self._is_denied_in_its_phrase(start, end)):
                is_denied = None
            for stem in stem_words(self.text[start:end]):
                known = denied.get(stem, is_denied)
                denied[stem] = is_denied if known == is_denied else False
        if self.is_discouraging:
            # To deny what it names is no contradiction, read here as a denial or not.
            return {stem: is_denied or None for stem, is_denied in denied.items()}
        return denied

    def _is_denied_in_its_phrase(self, start: int, end: int) -> bool:
        begin = self.text.rfind(", ", 0, start) + 1
        stop = self.text.find(", ", end)
        phrase = self.text[begin : stop if stop >= 0 else len(self.text)]
        return is_negated(phrase, start - begin, end - begin)


@dataclass(frozen=True)
class ClaimEvidence:
    """What answers are checked against; made by `gather_evidence`."""

    lines: tuple[EvidenceLine, ...]
    lexicon: Lexicon = field(repr=False)

    @cached_property
    def text(self) -> str:
        """All lines."""
        return "\n".join(line.text for line in self.lines)

    @cached_property
    def stems(self) -> frozenset[str]:
        """Every content word."""
        return frozenset[str]().union(*(line.stems for line in self.lines))

    @cached_property
    def concepts(self) -> frozenset[Concept]:
        """Every concept, denied or not."""
        return frozenset(
            concept
            for line in self.lines
            for mention in line.mentions
            for concept in mention.concepts
        )

    @cached_property
    def quantities(self) -> tuple[Quantity, ...]:
        """Every number."""
        return tuple(quantity for line in self.lines for quantity in line.quantities)

    @cached_property
    def calls_for_action(self) -> bool:
        """Does it say that something must be done?"""
        return any(quantity.is_dose for quantity in self.quantities) or bool(
            ACTION.search(self.text)
        )

    def acts_on(self, dismissed: str) -> bool:
        """Does it say that what is `dismissed` must be done? Where that has a name of its own, as
        antibiotics have, it must be named, and not be advised against.
        """
        # What was done before is told in a question, and no advice.
        advice = [line for line in self.lines if line.section] or self.lines
        for thing, action in _NAMED_ACTIONS:
            if thing.search(dismissed):
                return any(
                    not is_negated(line.text, *match.span())
                    for line in advice
                    if not line.is_discouraging
                    for match in action.finditer(line.text)
                )
        return self.calls_for_action


def gather_evidence(
    texts: Sequence[str], lexicon: Lexicon, facts: Sequence[str] = ()
) -> ClaimEvidence:
    """Return the evidence in `texts` (question, reference, knowledge) and the lines of a fact
    sheet.
    """
    parts = [
        statement
        for text in (*texts, *facts)
        if text
        for statement in split_statements(text, False)
    ]
    lines = dict.fromkeys(EvidenceLine(part.text, lexicon, part.section) for part in parts)
    return ClaimEvidence(tuple(lines), lexicon)


def find_missing_content(
    statement_line: EvidenceLine, content: frozenset[str], evidence: ClaimEvidence
) -> frozenset[str]:
    """Return what of `content` the evidence has in no word and no concept."""
    known = evidence.stems
    by_concept = (
        stem_words(mention.text)
        for mention in statement_line.mentions
        if _has_concept(mention, evidence)
    )
    return content - known - frozenset[str]().union(*by_concept)


def _has_concept(mention: Mention, evidence: ClaimEvidence) -> bool:
    return any(
        concept in evidence.concepts or any(is_wider(concept, other) for other in evidence.concepts)
        for concept in mention.concepts
    )


def find_shared_content(
    line: EvidenceLine, statement_line: EvidenceLine, content: frozenset[str]
) -> frozenset[str]:
    """Return what of `content` is in `line`."""
    return content - find_missing_content(
        statement_line, content, ClaimEvidence((line,), line.lexicon)
    )


def is_known(quantity: Quantity, known: Sequence[Quantity]) -> bool:
    """Return whether `quantity` is among `known`; a number in words is no measurement."""
    return quantity.in_words or any(quantity.agrees(other) for other in known)
