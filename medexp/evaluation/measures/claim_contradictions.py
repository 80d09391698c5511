"""Why a statement says the opposite of its evidence, if it does.

A statement is contradicted when an evidence line (no question) with at least ALIGNED of its content
words
- denies what it affirms or affirms what it denies (`clinical_terms.is_negated`): FLIPPED of the
  shared words, or the name that a denial begins with. Both denying something, a denial from before
  a comma, and what is only put off (`claim_evidence.DEFERRAL`) say nothing. Red Flags and
  Precautions are held against the evidence's own, and a finding that the patient does not have yet
  is no contradiction there;
- is what it denies, word by word, by a denial at its start;
- has the opposite of one of its words (OPPOSITES: left, right; increase, decrease);
- has another number of the same unit and subject, and no line has the statement's;
- has a drug where the statement has another, and all else is the same.

It is also contradicted when it dismisses (DISMISSAL: "rest at home", "no tests needed") what the
evidence acts on; antibiotics, scans and surgery only where it acts on these.
"""

import re
from collections.abc import Sequence

from medexp.data.words import split_words
from medexp.evaluation.measures.claim_evidence import (
    ClaimEvidence,
    EvidenceLine,
    is_known,
    keep_content,
)
from medexp.evaluation.measures.quantities import Quantity
from medexp.evaluation.measures.statements import Statement
from medexp.evaluation.measures.words import stem_words, to_singular

# Shares of content words: that make a line about the same thing, and that must be denied there for
# it to say the opposite.
ALIGNED, FLIPPED = 0.75, 0.3
# One word each, of which a statement may have the one and its evidence the other.
OPPOSITES = tuple(
    (stem_words(one), stem_words(other))
    for one, other in (
        ("left", "right"),
        (
            "increase increased increasing higher rise raised elevated",
            "decrease decreased decreasing lower reduced fall low",
        ),
        ("improve improved improves better", "worsen worsened worsens worse"),
        ("more", "less fewer"),
        ("acute", "chronic"),
        ("upper", "lower"),
        ("anterior", "posterior"),
        ("proximal", "distal"),
        ("oral orally", "topical intravenous intravenously"),
        ("benign", "malignant"),
        ("hypertension", "hypotension"),
        ("tachycardia", "bradycardia"),
        ("hyperkalemia", "hypokalemia"),
        ("hypernatremia", "hyponatremia"),
        ("hyperglycemia", "hypoglycemia"),
        ("hyperthyroidism", "hypothyroidism"),
        ("hypercalcemia", "hypocalcemia"),
    )
)  # fmt: skip
_THINGS = (
    r"(?:tests?|testing|treatment|investigations?|follow-?up|action|imaging|scans?|referral"
    r"|hospital|medicines?|medication|antibiotics?|doctor|specialist|surgery)"
)
DISMISSAL = re.compile(
    r"\b(?:nothing (?:serious|dangerous|to worry|is wrong|needs)"
    r"|not (?:serious|dangerous|an emergency)"
    r"|rest(?:ing)? at home|(?:stay|remain)(?:ing)? at home"
    r"|(?:go|sent?|sending|return) (?:\w+ )?home"
    rf"|no (?:\w+ )?{_THINGS} (?:(?:is|are) )?(?:needed|necessary|required)"
    rf"|no need (?:to (?:worry|see|seek|go|do)|for (?:\w+ )?{_THINGS})"
    rf"|(?:does not|do not|doesn't|don't) (?:need|require) (?:any )?(?:\w+ )?{_THINGS}|do not worry"
    rf"|(?:will|should) (?:probably )?(?:pass|settle|resolve|go away|get better)"
    rf" (?:soon|by itself|on its own|in a few \w+)|wait and see|harmless|self-limiting)\b",
    re.IGNORECASE,
)
LEADING_DENIAL = re.compile(
    r"(?:no|not|never|without|do not|don['’]t|there (?:is|are|was|were) no|it is not true that|the"
    r" patient (?:does not have|has no)|deny|denies)\b:?\s+",
    re.IGNORECASE,
)
_SUBJECT_ENDS = re.compile(r"[,;:()]")
DRUG = "drug"
DISMISSES = "dismisses what the evidence acts on"


def _find_aligned_lines(
    content: frozenset[str], lines: Sequence[EvidenceLine]
) -> list[EvidenceLine]:
    return [
        line
        for line in lines
        if not line.is_question and len(content & line.stems) >= ALIGNED * len(content)
    ]


def explain_contradiction(
    statement: Statement,
    statement_line: EvidenceLine,
    missing: frozenset[str],
    evidence: ClaimEvidence,
) -> str:
    """Return why the evidence contradicts `statement`, nothing where it does not."""
    dismissal = DISMISSAL.search(statement.text)
    if (
        dismissal
        and dismissal[0].casefold() not in evidence.text.casefold()
        and evidence.acts_on(dismissal[0])
    ):
        return f"{DISMISSES}: {dismissal[0]}"
    content = statement_line.content
    if not content:
        return ""
    if denied := _find_verbatim_denial(statement, evidence):
        return f"the evidence says: {denied}"
    aligned = _find_aligned_lines(content, evidence.lines)
    return (
        explain_flip(statement, statement_line, content, aligned, evidence.lines)
        or explain_opposite(content, evidence.lines)
        or _explain_other_number(statement_line, aligned, evidence)
        or _explain_other_drug(statement_line, missing, aligned)
    )


def explain_flip(
    statement: Statement | None,
    statement_line: EvidenceLine,
    content: frozenset[str],
    aligned: Sequence[EvidenceLine],
    known: Sequence[EvidenceLine],
) -> str:
    """Return why `statement_line` is the opposite of the aligned lines, of all that are known.

    Nothing where one of them agrees.
    """
    is_warning = statement is not None and statement.section in ("red flags", "precautions")
    if is_warning and statement is not None and any(line.section for line in known):
        if statement.section == "red flags" and any(
            _denies_the_same(statement_line, content, line) for line in aligned if not line.section
        ):
            # What the question denies, too, is a finding in the wrong place.
            return ""
        # What the patient did is no advice, and what he has no warning.
        aligned = [line for line in aligned if line.section == statement.section]
    flips = [_find_flipped_stems(statement_line, content, line) for line in aligned]
    if not flips or not all(flips):
        return ""
    if is_warning and not any(mention.kind == DRUG for mention in statement_line.mentions):
        flips = [
            frozenset(stem for stem in flip if statement_line.polarity[stem]) for flip in flips
        ]
    most = max(flips, key=len)
    return f"the evidence says the opposite of: {', '.join(sorted(most))}" if most else ""


def _find_verbatim_denial(statement: Statement, evidence: ClaimEvidence) -> str:
    """Return what follows a denial at the start of the statement, where that is a line or a part of
    a line of the evidence.
    """
    denial = LEADING_DENIAL.match(statement.text)
    if denial is None:
        return ""
    rest = statement.text[denial.end() :]
    denied = EvidenceLine(rest, evidence.lexicon).normal
    has_words = len(denied.split()) > 1
    return rest if has_words and any(denied in line.parts for line in evidence.lines) else ""


def _denies_the_same(
    statement_line: EvidenceLine, content: frozenset[str], line: EvidenceLine
) -> bool:
    """Return whether both lines deny every word of `content`."""
    return all(side.polarity.get(stem) for side in (statement_line, line) for stem in content)


def _find_flipped_stems(
    statement_line: EvidenceLine, content: frozenset[str], line: EvidenceLine
) -> frozenset[str]:
    """Return the shared words that one of two lines denies and the other affirms; none where both
    deny something that they share, since then only the reach of the denials differs.
    """
    shared = [stem for stem in content if stem in line.polarity]
    here, there = (
        {stem for stem in shared if side.polarity[stem]} for side in (statement_line, line)
    )
    if here and there:
        return frozenset()
    flips = frozenset(
        stem
        for stem in here | there
        if None not in (statement_line.polarity[stem], line.polarity[stem])
    )
    is_head = any(
        stem_words(mention.text) & content <= flips for mention in statement_line.mentions[:1]
    )
    is_enough = len(flips) >= FLIPPED * len(shared) or (is_head and bool(here))
    return flips if flips and is_enough else frozenset()


def explain_opposite(content: frozenset[str], known: Sequence[EvidenceLine]) -> str:
    """Return which line of `known` has the opposite of a word of `content`, nothing where none."""
    for pair in OPPOSITES:
        for mine, other in (pair, pair[::-1]):
            own, rest = content & mine, content - mine
            if not own or not rest or content & other:
                continue
            lines = _find_aligned_lines(rest, known)
            if any(line.stems & mine for line in lines):
                continue
            if any(line.stems & other for line in lines):
                return f"the evidence has the opposite of: {', '.join(sorted(own))}"
    return ""


def _explain_other_number(
    statement_line: EvidenceLine, aligned: Sequence[EvidenceLine], evidence: ClaimEvidence
) -> str:
    for quantity in statement_line.quantities:
        if quantity.unit is None or is_known(quantity, evidence.quantities):
            continue
        subject = _find_subject(statement_line, quantity)
        others = [
            other
            for line in aligned
            for other in line.quantities
            if other.unit == quantity.unit
            and _extract_unit_word(other) == _extract_unit_word(quantity)
            and _may_be_of_one_subject(subject, _find_subject(line, other))
        ]
        if others:
            return f"{quantity.text}, where the evidence has {others[0].text}"
    return ""


def _find_subject(line: EvidenceLine, quantity: Quantity) -> frozenset[str]:
    """Return the stems of the last word with content before `quantity`, in its part of the line."""
    part = _SUBJECT_ENDS.split(line.text[: quantity.start])[-1]
    for word in reversed(split_words(part)):
        if stems := keep_content(stem_words(word)):
            return stems
    return frozenset()


def _may_be_of_one_subject(one: frozenset[str], other: frozenset[str]) -> bool:
    """Return False for the potassium of one line and the sodium of another."""
    return not one or not other or bool(one & other)


def _extract_unit_word(quantity: Quantity) -> str:
    return to_singular(re.sub(r"[\d.,\s–-]|to", "", quantity.text).casefold())


def _explain_other_drug(
    statement_line: EvidenceLine, missing: frozenset[str], aligned: Sequence[EvidenceLine]
) -> str:
    for mention in statement_line.mentions:
        own = stem_words(mention.text)
        if mention.kind != DRUG or not own <= missing or not missing <= own:
            continue
        # Not to give a drug is not to give it in the place of another.
        if all(statement_line.polarity.get(stem) is not False for stem in own):
            continue
        for line in aligned:
            others = [mention for mention in line.mentions if mention.kind == DRUG]
            unsaid = [
                mention.text
                for mention in others
                if not stem_words(mention.text) <= statement_line.stems
            ]
            if unsaid:
                return f"{mention.text}, where the evidence has {unsaid[0]}"
    return ""
