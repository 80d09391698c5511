"""Which statements of an answer does its evidence support, contradict, or leave open? By rules over
the texts.

The rules:
- The parts of a statement (`statements`) between semicolons are checked apart; one wrong part makes
  the statement wrong, and it is supported when all of them are.
- It is SUPPORTED when it stands in the evidence (`claim_evidence`) word by word, or when at least
  `needed` of its content words and all its numbers are in the evidence.
- It is CONTRADICTED when a line of the evidence says the opposite, or when it dismisses what the
  evidence acts on (`claim_contradictions`).
- It is FABRICATED when it holds a drug-shaped word that is in no lexicon and not in the evidence, a
  dose above the maximum for drug and route (`fabrications`), or a source that the evidence does not
  name.
- Everything else is NOT_IN_EVIDENCE: true or not, this evidence does not say. Only contradicted and
  fabricated statements are errors.

What it misses: whatever is false in words that the evidence has too (cause and effect swapped), and
what contradicts the evidence in other words. English only.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from medexp.evaluation.measures.assertion_strength import SOURCE_NAMED
from medexp.evaluation.measures.claim_contradictions import (
    DISMISSES,
    DRUG,
    explain_contradiction,
    explain_flip,
    explain_opposite,
)
from medexp.evaluation.measures.claim_evidence import (
    ClaimEvidence,
    EvidenceLine,
    find_missing_content,
    find_shared_content,
    is_known,
)
from medexp.evaluation.measures.fabrications import find_excessive_doses, find_invented_drugs
from medexp.evaluation.measures.statements import PART, Statement, split_statements
from medexp.evaluation.measures.words import stem_words

SUPPORTED, CONTRADICTED = "supported", "contradicted"
FABRICATED, NOT_IN_EVIDENCE = "fabricated", "not in evidence"
VERDICTS = (SUPPORTED, CONTRADICTED, FABRICATED, NOT_IN_EVIDENCE)
# The share of content words that supports a statement.
NEEDED = 0.6
NO_CONTENT = "no content"
# The verdict of a statement is that of its worst part.
_GRAVITY = {SUPPORTED: 0, NOT_IN_EVIDENCE: 1, FABRICATED: 2, CONTRADICTED: 3}


@dataclass(frozen=True)
class CheckedClaim:
    """A statement, its verdict (one of VERDICTS), why in a few words, and how much of it the
    evidence covers, 0 to 1.
    """

    statement: Statement
    verdict: str
    why: str = ""
    covered: float = 0.0

    @property
    def is_dismissal(self) -> bool:
        """Does it say that nothing needs doing, where the evidence acts?"""
        return self.why.startswith(DISMISSES)

    @property
    def is_error(self) -> bool:
        """Is it contradicted or fabricated?"""
        return self.verdict in (CONTRADICTED, FABRICATED)


@dataclass(frozen=True)
class ClaimCounts:
    """How many statements of an answer have which verdict, and whether the answer dismisses what
    its evidence acts on.
    """

    supported: int
    contradicted: int
    fabricated: int
    not_in_evidence: int
    is_dismissing: bool = False

    @property
    def total(self) -> int:
        """All statements."""
        return self.supported + self.errors + self.not_in_evidence

    @property
    def errors(self) -> int:
        """Contradicted and fabricated ones."""
        return self.contradicted + self.fabricated

    @property
    def balance(self) -> float:
        """Supported less wrong ones as a share of all, -1 to 1; one less where the answer
        dismisses. 0 without a statement.
        """
        share = (self.supported - self.errors) / self.total if self.total else 0.0
        return share - self.is_dismissing


def check_claims(
    answer: str, evidence: ClaimEvidence, needed: float = NEEDED
) -> list[CheckedClaim]:
    """Return every statement of `answer` with its verdict against `evidence`.

    `needed` is the share of a statement's content words that supports it: 1.0 where the evidence
    should hold every word, as when a text is compared with its corrected version.
    """
    return [check_statement(statement, evidence, needed) for statement in split_statements(answer)]


def check_statement(
    statement: Statement, evidence: ClaimEvidence, needed: float = NEEDED
) -> CheckedClaim:
    """Return the verdict on one statement: that of its worst part."""
    parts = [
        replace(statement, text=part)
        for part in PART.split(statement.text)
        if any(character.isalnum() for character in part)
    ]
    checked = [_check_part(part, evidence, needed) for part in parts] or [
        CheckedClaim(statement, NOT_IN_EVIDENCE, NO_CONTENT)
    ]
    worst = max(checked, key=lambda claim: _GRAVITY[claim.verdict])
    covered = sum(claim.covered for claim in checked) / len(checked)
    return CheckedClaim(statement, worst.verdict, worst.why, covered)


def count_claims(checked: Sequence[CheckedClaim]) -> ClaimCounts:
    """Return how many of `checked` have which verdict."""
    counts = Counter(claim.verdict for claim in checked)
    return ClaimCounts(
        supported=counts[SUPPORTED],
        contradicted=counts[CONTRADICTED],
        fabricated=counts[FABRICATED],
        not_in_evidence=counts[NOT_IN_EVIDENCE],
        is_dismissing=any(claim.is_dismissal for claim in checked),
    )


def recall_statement(statement: str, answer: ClaimEvidence, needed: float = NEEDED) -> bool:
    """Return whether `answer` (as evidence) says `statement`, in one of its wordings (between
    bars), without contradicting it.
    """
    return any(
        _is_said(wording.strip(), answer, needed)
        for wording in statement.split(" | ")
        if wording.strip()
    )


def _is_said(wording: str, answer: ClaimEvidence, needed: float) -> bool:
    statement_line = EvidenceLine(wording, answer.lexicon)
    content = statement_line.content
    lines = [
        line
        for line in answer.lines
        if not line.is_question
        and len(find_shared_content(line, statement_line, content)) >= needed * len(content)
    ]
    if not content or not lines:
        return False
    return not explain_flip(
        None, statement_line, content, lines, answer.lines
    ) and not explain_opposite(content, lines)


def _stands_in(statement: Statement, evidence: ClaimEvidence) -> bool:
    """Return whether a line has the statement word by word, and does not deny it there."""
    statement_line = EvidenceLine(statement.text, evidence.lexicon)
    if any(statement_line.normal in line.parts for line in evidence.lines):
        return True
    lines = [line for line in evidence.lines if statement_line.normal in line.normal]
    return bool(lines) and not explain_flip(
        statement, statement_line, statement_line.content, lines, evidence.lines
    )


def _check_part(statement: Statement, evidence: ClaimEvidence, needed: float) -> CheckedClaim:
    if _stands_in(statement, evidence):
        return CheckedClaim(statement, SUPPORTED, "word by word", 1.0)
    if why := _explain_fabrication(statement, evidence):
        return CheckedClaim(statement, FABRICATED, why)
    statement_line = EvidenceLine(statement.text, evidence.lexicon)
    content = statement_line.content
    missing = find_missing_content(statement_line, content, evidence)
    covered = 1 - len(missing) / len(content) if content else 0.0
    is_drug_missing = any(
        mention.kind == DRUG and stem_words(mention.text) & missing
        for mention in statement_line.mentions
    )
    if why := explain_contradiction(statement, statement_line, missing, evidence):
        return CheckedClaim(statement, CONTRADICTED, why, covered)
    numbers = [
        quantity.text
        for quantity in statement_line.quantities
        if not is_known(quantity, evidence.quantities)
    ]
    if content and covered >= needed and not numbers and not is_drug_missing:
        return CheckedClaim(statement, SUPPORTED, "", covered)
    why = ", ".join([*sorted(missing), *numbers]) or NO_CONTENT
    return CheckedClaim(statement, NOT_IN_EVIDENCE, why, covered)


def _explain_fabrication(statement: Statement, evidence: ClaimEvidence) -> str:
    text = statement.text
    known = evidence.text.casefold()
    sources = [
        match[0] for match in SOURCE_NAMED.finditer(text) if match[0].casefold() not in known
    ]
    if sources:
        return f"names a source that the evidence has not: {sources[0]}"
    invented = find_invented_drugs(text, evidence.lexicon, evidence.text)
    if invented:
        return f"no such drug: {invented[0]}"
    doses = find_excessive_doses(text, evidence.lexicon)
    if doses and not any(is_known(dose.quantity, evidence.quantities) for dose in doses):
        return doses[0].reason
    return ""
