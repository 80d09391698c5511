"""How much more strongly does a text assert than its evidence? By the words that strengthen or
weaken a claim.

The rules, in full:
- A mark strengthens a claim: it gives it a degree (significantly, primarily, critical), a direction
  (increases, reduces), a cause or mechanism (due to, through, leads to), or an authority (a
  journal, a year, "et al."). A mark whose word stands in the evidence, in any of its forms, is the
  evidence's own and does not count.
- A hedge weakens it: may, might, could, suggests, appears, further studies are needed. It takes one
  mark away.
- An authority that the evidence does not have counts AUTHORITY marks: a source is stated or it is
  invented, there is no degree in between.
- The strength is marks minus hedges, a statement of the text; a statement repeated counts once.

What it can't tell: whether the claim is true. A careful text about another subject has a strength
near or below 0, a confident and true one has more. So it ranks texts that answer the same question;
it is no rate of errors. English only.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from medexp.evaluation.measures.words import stem_words

AUTHORITY = 3.0


def _any_of(*patterns: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(patterns)})\b", re.IGNORECASE)


DEGREE = _any_of(
    r"significant(?:ly)?", r"primar(?:y|ily)", r"sole(?:ly)?", r"only", r"direct(?:ly)?",
    r"particular(?:ly)?", r"especially", r"specifically", r"predominantly", r"mainly", r"largely",
    r"definit(?:e|ely|ive|ively)", r"critical(?:ly)?", r"crucial(?:ly)?", r"essential", r"key",
    r"always", r"never", r"all", r"every", r"complete(?:ly)?", r"entirely", r"substantial(?:ly)?",
    r"strong(?:ly)?", r"high(?:er|ly)?", r"greatly", r"markedly", r"dramatically", r"consistently",
    r"invariably", r"inherently", r"superior", r"unequivocal(?:ly)?", r"slightly",
    r"considerabl[ey]",
)  # fmt: skip
DIRECTION = _any_of(
    r"increas(?:e|es|ed|ing)", r"enhanc(?:e|es|ed|ing)", r"reduc(?:e|es|ed|ing)",
    r"improv(?:e|es|ed|ing)", r"decreas(?:e|es|ed|ing)", r"lower(?:s|ed|ing)",
    r"worsen(?:s|ed|ing)?",
)  # fmt: skip
CAUSE = _any_of(
    r"due to", r"because(?: of)?", r"caused by", r"causes?", r"owing to", r"through", r"via",
    r"by (?:\w+ ){0,2}\w+ing", r"thereby", r"thus", r"lead(?:s|ing)? to", r"led to", r"results? in",
    r"resulting (?:in|from)", r"mediated by", r"mechanisms?", r"pathways?", r"modulat\w+",
    r"attribut\w+", r"plays? an? (?:\w+ )?role", r"driven by", r"stems? from",
    r"contribut\w+ to", r"regardless of", r"independent of", r"rather than",
)  # fmt: skip
SOURCE_NAMED = re.compile(
    r"\bet al\b|\bjournal of\b|\bpublished (?:in|by)\b|\((?:\w+,? )*(?:19|20)\d\d\)", re.IGNORECASE
)
HEDGE = _any_of(
    r"may", r"might", r"could", r"can", r"would", r"suggest\w*", r"appear\w*", r"seem\w*",
    r"possib\w*", r"potential(?:ly)?", r"likely", r"probabl\w*", r"perhaps", r"insufficient",
    r"inconclusive", r"unclear", r"uncertain",
    r"(?:further|more|additional|future) (?:\w+ ){0,2}(?:stud\w+|research|investigation\w*|"
    r"evaluation\w*|trials?|evidence|work|data)",
)  # fmt: skip
_STATEMENT = re.compile(r"(?<=[.!?;])\s+|\n")


@dataclass(frozen=True)
class Mark:
    """What strengthens a claim at [start, end) of a text; `kind` is degree, direction, cause or
    authority."""

    kind: str
    text: str
    start: int
    end: int


def find_marks(text: str, evidence: str) -> list[Mark]:
    """Return every mark of `text` that `evidence` does not have itself, in order."""
    known = evidence.casefold()
    known_stems = stem_words(evidence)
    return sorted(
        (mark for mark in _find_all_marks(text) if not _is_known(mark, known, known_stems)),
        key=lambda mark: (mark.start, mark.kind),
    )


def measure_assertion_strength(text: str, evidence: str) -> float:
    """Return marks minus hedges a statement of `text`, beyond what `evidence` asserts; 0 for an
    empty text.
    """
    statements = {
        " ".join(part.casefold().split()): part for part in _STATEMENT.split(text) if part.strip()
    }
    if not statements:
        return 0.0
    weight = sum(_measure_strength(part, evidence) for part in statements.values())
    return weight / len(statements)


def _measure_strength(statement: str, evidence: str) -> float:
    marks = find_marks(statement, evidence)
    beyond = sum(AUTHORITY if mark.kind == "authority" else 1.0 for mark in marks)
    return beyond - len(HEDGE.findall(statement))


def _find_all_marks(text: str) -> Iterator[Mark]:
    patterns = {
        "degree": DEGREE,
        "direction": DIRECTION,
        "cause": CAUSE,
        "authority": SOURCE_NAMED,
    }
    for kind, pattern in patterns.items():
        for match in pattern.finditer(text):
            yield Mark(kind, match[0], match.start(), match.end())


def _is_known(mark: Mark, known: str, known_stems: frozenset[str]) -> bool:
    if mark.text.casefold() in known:
        return True
    wanted = stem_words(mark.text)
    return mark.kind in ("degree", "direction") and bool(wanted) and wanted <= known_stems
