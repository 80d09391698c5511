"""Which statements of an answer does its evidence support, contradict, or leave open? By rules over
the texts.

The rules, in full:
- An item is a statement: a line, a bullet or a sentence of the answer part, headings left out. One
  that stood there before, word by word, counts once. Its parts between semicolons are checked
  apart; one wrong part makes the statement wrong, and it is supported when all of them are.
- Evidence is the question, the reference (without its chain of thought) and a fact sheet, line by
  line and sentence by sentence.
- Content words are stems without FRAME, the words in which anything is reported ("the patient was
  diagnosed with"). A statement is SUPPORTED when it stands in the evidence word by word, or when at
  least `needed` of its content words and all its numbers are in the evidence. A name of the lexicon
  is there when the evidence has the same concept, or a narrower one.
- It is CONTRADICTED when an evidence line (no question) with at least ALIGNED of its content words
  - denies what it affirms or affirms what it denies (`clinical_terms.is_negated`): FLIPPED of the
    shared words, or the name that a denial begins with. Both denying something, a denial from
    before a comma, and what is only put off (DEFERRAL) say nothing. Red Flags and Precautions are
    held against the evidence's own, and a finding that the patient does not have yet is no
    contradiction there;
  - is what it denies, word by word, by a denial at its start;
  - has the opposite of one of its words (OPPOSITES: left, right; increase, decrease);
  - has another number of the same unit, and no line has the statement's;
  - has a drug where the statement has another, and all else is the same.
  It is also contradicted when it dismisses (DISMISSAL: "rest at home", "no tests needed") what the
  evidence acts on; antibiotics, scans and surgery only where it acts on these.
- It is FABRICATED when it holds a drug-shaped word that is in no lexicon and not in the evidence, a
  dose above the maximum for drug and route (`fabrications`), or a source that the evidence does not
  name.
- Everything else is NOT_IN_EVIDENCE: true or not, this evidence does not say. Only contradicted and
  fabricated statements are errors.

What it misses: whatever is false in words that the evidence has too (cause and effect swapped), and
what contradicts the evidence in other words. English only.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from medexp.data.words import locate_words, split_words
from medexp.evaluation.measures.assertion_strength import SOURCE_NAMED
from medexp.evaluation.measures.clinical_terms import (
    Concept,
    Lexicon,
    Mention,
    find_mentions,
    is_negated,
    is_wider,
)
from medexp.evaluation.measures.fabrications import find_excessive_doses, find_invented_drugs
from medexp.evaluation.measures.quantities import Quantity, find_quantities
from medexp.evaluation.measures.safety import FUTILE
from medexp.evaluation.measures.sections import find_bare_heading, find_section_heading
from medexp.evaluation.measures.words import extract_answer, stem_words, to_singular

SUPPORTED, CONTRADICTED = "supported", "contradicted"
FABRICATED, NOT_IN_EVIDENCE = "fabricated", "not in evidence"
VERDICTS = (SUPPORTED, CONTRADICTED, FABRICATED, NOT_IN_EVIDENCE)
# Shares of content words: that support a statement, that make a line about the same thing, and
# that must be denied there for it to say the opposite.
NEEDED, ALIGNED, FLIPPED = 0.6, 0.75, 0.3
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
            r"antibiotics?|antimicrobials?|\w*(?:cillin|mycin|micin|cyclin|floxacin|penem)\w*|cef\w+"
            r"|ceph\w+|co-amoxiclav|co-trimoxazole|\w*trimethoprim|metronidazole|nitrofurantoin"
            r"|linezolid|pivmecillinam|rifampicin|rifampin",
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
LEADING_DENIAL = re.compile(
    r"(?:no|not|never|without|do not|don['’]t|there (?:is|are|was|were) no|it is not true that|the"
    r" patient (?:does not have|has no)|deny|denies)\b:?\s+",
    re.IGNORECASE,
)
# What is put off is neither ordered nor forbidden.
DEFERRAL = re.compile(
    r"\b(?:hold|holding|held|withh[eo]ld\w*|delay\w*|postpon\w+|defer\w*|paus\w+|off)\b",
    re.IGNORECASE,
)
_BULLET = re.compile(r"^\W*(?:\d+[.)]\s+)?")
_SENTENCE = re.compile(r"(?<=[.!?。])\s+")
_PART = re.compile(r";\s+")
_SUBJECT_ENDS = re.compile(r"[,;:()]")
_DRUG = "drug"
NO_CONTENT = "no content"
_DISMISSES = "dismisses what the evidence acts on"
# The verdict of a statement is that of its worst part.
_GRAVITY = {SUPPORTED: 0, NOT_IN_EVIDENCE: 1, FABRICATED: 2, CONTRADICTED: 3}


@dataclass(frozen=True)
class Statement:
    """One statement of a text at [start, end), and the section that it stands under."""

    text: str
    start: int
    end: int
    section: str | None = None


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
        return self.why.startswith(_DISMISSES)

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


@dataclass(frozen=True)
class _Line:
    """A line of evidence with what is compared in it, worked out when it is asked for."""

    text: str
    lexicon: Lexicon = field(repr=False, compare=False)
    section: str | None = None

    @property
    def is_question(self) -> bool:
        return self.text.rstrip(" *_'\"").endswith("?")

    @cached_property
    def stems(self) -> frozenset[str]:
        return stem_words(self.text)

    @property
    def content(self) -> frozenset[str]:
        return frozenset(stem for stem in self.stems - FRAME if not stem.isdigit())

    @cached_property
    def normal(self) -> str:
        """Its words in order, by single spaces, a space at both ends."""
        return f" {' '.join(split_words(self.text))} "

    @cached_property
    def parts(self) -> frozenset[str]:
        texts = (self.text, *_PART.split(self.text))
        return frozenset(f" {' '.join(split_words(text))} " for text in texts)

    @cached_property
    def quantities(self) -> tuple[Quantity, ...]:
        return tuple(find_quantities(self.text, every_word=True))

    @cached_property
    def mentions(self) -> tuple[Mention, ...]:
        return tuple(find_mentions(self.text, self.lexicon))

    @cached_property
    def polarity(self) -> dict[str, bool | None]:
        """Whether each stem is denied; affirmed wins where it stands twice, and None is unknown: it
        would be denied by what stands before a comma ("no cough, fever"), or is only put off.
        """
        denied: dict[str, bool | None] = {}
        # "Antibiotics bring little" and "skip the drops" name what they advise against: a denial of
        # it is no contradiction, and neither is an advice that this line does not read as one.
        is_discouraging = bool(SKIPPED.search(self.text) or FUTILE.search(self.text))
        defers = DEFERRAL.search(self.text)
        for _, start, end in locate_words(self.text):
            is_denied: bool | None = is_negated(self.text, start, end)
            if is_denied and (defers or not self._is_denied_in_its_phrase(start, end)):
                is_denied = None
            for stem in stem_words(self.text[start:end]):
                known = denied.get(stem, is_denied)
                denied[stem] = is_denied if known == is_denied else False
        if is_discouraging:
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

    lines: tuple[_Line, ...]
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
                    if not (SKIPPED.search(line.text) or FUTILE.search(line.text))
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
    lines = dict.fromkeys(_Line(part.text, lexicon, part.section) for part in parts)
    return ClaimEvidence(tuple(lines), lexicon)


def split_statements(text: str, deduplicate: bool = True) -> list[Statement]:
    """Return the statements of the answer part of `text` in order; places are those in the whole
    text.
    """
    answer = extract_answer(text)
    at, section = len(text) - len(answer), None
    statements: list[Statement] = []
    for line in answer.splitlines(keepends=True):
        section = find_section_heading(line.strip()) or section
        if find_bare_heading(line.strip()) is None and not line.lstrip().startswith("#"):
            statements += _split_line(line, at, section)
        at += len(line)
    return list(_drop_repeats(statements)) if deduplicate else statements


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
        for part in _PART.split(statement.text)
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
    statement_line = _Line(wording, answer.lexicon)
    content = statement_line.content
    lines = [
        line
        for line in answer.lines
        if not line.is_question
        and len(_find_shared_content(line, statement_line, content)) >= needed * len(content)
    ]
    if not content or not lines:
        return False
    return not _explain_flip(
        None, statement_line, content, lines, answer.lines
    ) and not _explain_opposite(content, lines)


def _find_shared_content(
    line: _Line, statement_line: _Line, content: frozenset[str]
) -> frozenset[str]:
    return content - _find_missing_content(
        statement_line, content, ClaimEvidence((line,), line.lexicon)
    )


def _stands_in(statement: Statement, evidence: ClaimEvidence) -> bool:
    """Return whether a line has the statement word by word, and does not deny it there."""
    statement_line = _Line(statement.text, evidence.lexicon)
    if any(statement_line.normal in line.parts for line in evidence.lines):
        return True
    lines = [line for line in evidence.lines if statement_line.normal in line.normal]
    return bool(lines) and not _explain_flip(
        statement, statement_line, statement_line.content, lines, evidence.lines
    )


def _find_aligned_lines(content: frozenset[str], lines: Sequence[_Line]) -> list[_Line]:
    return [
        line
        for line in lines
        if not line.is_question and len(content & line.stems) >= ALIGNED * len(content)
    ]


def _check_part(statement: Statement, evidence: ClaimEvidence, needed: float) -> CheckedClaim:
    if _stands_in(statement, evidence):
        return CheckedClaim(statement, SUPPORTED, "word by word", 1.0)
    if why := _explain_fabrication(statement, evidence):
        return CheckedClaim(statement, FABRICATED, why)
    statement_line = _Line(statement.text, evidence.lexicon)
    content = statement_line.content
    missing = _find_missing_content(statement_line, content, evidence)
    covered = 1 - len(missing) / len(content) if content else 0.0
    is_drug_missing = any(
        mention.kind == _DRUG and stem_words(mention.text) & missing
        for mention in statement_line.mentions
    )
    if why := _explain_contradiction(statement, statement_line, missing, evidence):
        return CheckedClaim(statement, CONTRADICTED, why, covered)
    numbers = [
        quantity.text
        for quantity in statement_line.quantities
        if not _is_known(quantity, evidence.quantities)
    ]
    if content and covered >= needed and not numbers and not is_drug_missing:
        return CheckedClaim(statement, SUPPORTED, "", covered)
    why = ", ".join([*sorted(missing), *numbers]) or NO_CONTENT
    return CheckedClaim(statement, NOT_IN_EVIDENCE, why, covered)


def _split_line(line: str, at: int, section: str | None) -> Iterator[Statement]:
    bullet = _BULLET.match(line)
    start = bullet.end() if bullet else 0
    for part in _SENTENCE.split(line[start:]):
        begin = line.index(part, start)
        start = begin + len(part)
        text = part.strip().strip("*_")
        if any(character.isalnum() for character in text):
            begin += part.index(text)
            yield Statement(text, at + begin, at + begin + len(text), section)


def _drop_repeats(statements: Sequence[Statement]) -> Iterator[Statement]:
    seen = set()
    for statement in statements:
        key = " ".join(split_words(statement.text))
        if key not in seen:
            seen.add(key)
            yield statement


def _find_missing_content(
    statement_line: _Line, content: frozenset[str], evidence: ClaimEvidence
) -> frozenset[str]:
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


def _is_known(quantity: Quantity, known: Sequence[Quantity]) -> bool:
    return quantity.in_words or any(quantity.agrees(other) for other in known)


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
    if doses and not any(_is_known(dose.quantity, evidence.quantities) for dose in doses):
        return doses[0].reason
    return ""


def _explain_contradiction(
    statement: Statement, statement_line: _Line, missing: frozenset[str], evidence: ClaimEvidence
) -> str:
    dismissal = DISMISSAL.search(statement.text)
    known = evidence.text.casefold()
    if dismissal and evidence.acts_on(dismissal[0]) and dismissal[0].casefold() not in known:
        return f"{_DISMISSES}: {dismissal[0]}"
    content = statement_line.content
    if not content:
        return ""
    if denied := _find_verbatim_denial(statement, evidence):
        return f"the evidence says: {denied}"
    aligned = _find_aligned_lines(content, evidence.lines)
    return (
        _explain_flip(statement, statement_line, content, aligned, evidence.lines)
        or _explain_opposite(content, evidence.lines)
        or _explain_other_number(statement_line, aligned, evidence)
        or _explain_other_drug(statement_line, missing, aligned)
    )


def _explain_flip(
    statement: Statement | None,
    statement_line: _Line,
    content: frozenset[str],
    aligned: Sequence[_Line],
    known: Sequence[_Line],
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
    if is_warning and not any(mention.kind == _DRUG for mention in statement_line.mentions):
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
    denied = _Line(rest, evidence.lexicon).normal
    has_words = len(denied.split()) > 1
    return rest if has_words and any(denied in line.parts for line in evidence.lines) else ""


def _denies_the_same(statement_line: _Line, content: frozenset[str], line: _Line) -> bool:
    """Return whether both lines deny every word of `content`."""
    return all(side.polarity.get(stem) for side in (statement_line, line) for stem in content)


def _find_flipped_stems(
    statement_line: _Line, content: frozenset[str], line: _Line
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


def _explain_opposite(content: frozenset[str], known: Sequence[_Line]) -> str:
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
    statement_line: _Line, aligned: Sequence[_Line], evidence: ClaimEvidence
) -> str:
    for quantity in statement_line.quantities:
        if quantity.unit is None or _is_known(quantity, evidence.quantities):
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


def _find_subject(line: _Line, quantity: Quantity) -> frozenset[str]:
    """Return the stems of the last word with content before `quantity`, in its part of the line."""
    part = _SUBJECT_ENDS.split(line.text[: quantity.start])[-1]
    for word in reversed(split_words(part)):
        if stems := frozenset(stem for stem in stem_words(word) - FRAME if not stem.isdigit()):
            return stems
    return frozenset()


def _may_be_of_one_subject(one: frozenset[str], other: frozenset[str]) -> bool:
    """Return False for the potassium of one line and the sodium of another."""
    return not one or not other or bool(one & other)


def _extract_unit_word(quantity: Quantity) -> str:
    return to_singular(re.sub(r"[\d.,\s–-]|to", "", quantity.text).casefold())


def _explain_other_drug(
    statement_line: _Line, missing: frozenset[str], aligned: Sequence[_Line]
) -> str:
    for mention in statement_line.mentions:
        own = stem_words(mention.text)
        if mention.kind != _DRUG or not own <= missing or not missing <= own:
            continue
        # Not to give a drug is not to give it in the place of another.
        if all(statement_line.polarity.get(stem) is not False for stem in own):
            continue
        for line in aligned:
            others = [mention for mention in line.mentions if mention.kind == _DRUG]
            unsaid = [
                mention.text
                for mention in others
                if not stem_words(mention.text) <= statement_line.stems
            ]
            if unsaid:
                return f"{mention.text}, where the evidence has {unsaid[0]}"
    return ""
