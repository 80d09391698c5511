"""What does an answer assert that neither the question nor the reference supports? Drugs, findings,
numbers and doses.

The rules, in full:
- The answer is what follows the last `</think>`; evidence is the question and the reference answer
  (not its chain of thought).
- A drug or finding (`terms`) that the answer does not deny is supported when the evidence names the
  same concept, a narrower one (pain, where the evidence has chest pain), or all of its content
  words somewhere (`words.stem_words`).
- What the patient has stands under Symptoms: a finding that the evidence names only among the
  reference's Red Flags (what may yet come) is unsupported there. One that the evidence only denies
  ("no fever") is so under Symptoms, under Causes and in an answer without sections; a drug that it
  only denies ("never aspirin") everywhere.
- A number (`find_quantities`) is supported when the evidence has one that agrees with it.
- Every occurrence counts; the rate is unsupported claims per 100 words of the answer.

What it misses: terms that are not in the lexicon; wrong relations between supported terms (the dose
of one drug given to another, cause and effect swapped, left for right); negations beyond `terms`'
rules; anything false but also in the evidence. What it counts and should not: a true statement that
the reference does not make. So it compares two models on the same cases; its size alone is no rate
of errors. It reads English: in another language only numbers would be seen, and it is not used
there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from medexp.evaluation.measures.clinical_terms import (
    Concept,
    Lexicon,
    Mention,
    find_mentions,
    is_wider,
)
from medexp.evaluation.measures.quantities import Quantity, find_quantities
from medexp.evaluation.measures.sections import find_section_heading, parse_sections
from medexp.evaluation.measures.words import extract_answer, stem_words


@dataclass(frozen=True)
class Claim:
    """Something at [start, end) of an answer that nothing supports; `kind` is drug, finding, dose
    or number.
    """

    text: str
    start: int
    end: int
    kind: str


@dataclass(frozen=True)
class Evidence:
    """What a question and a reference say: concepts affirmed, present (affirmed outside Red Flags)
    and denied; content words of all and of what is present; quantities."""

    affirmed: frozenset[Concept]
    present: frozenset[Concept]
    denied: frozenset[Concept]
    stems: frozenset[str]
    present_stems: frozenset[str]
    quantities: tuple[Quantity, ...]


def read_evidence(question: str, reference: str, lexicon: Lexicon) -> Evidence:
    """Return what `question` and `reference` support."""
    warned = "\n".join(
        line
        for section in parse_sections(reference)
        if section.name == "red flags"
        for line in section.lines
    )
    rest = "\n".join(
        line for line in extract_answer(reference).splitlines() if line.strip() not in warned
    )
    present = [mention for text in (question, rest) for mention in find_mentions(text, lexicon)]
    mentions = [*present, *find_mentions(warned, lexicon)]
    affirmed = _collect_concepts(mentions, negated=False)
    return Evidence(
        affirmed=affirmed,
        present=_collect_concepts(present, negated=False),
        denied=_collect_concepts(mentions, negated=True) - affirmed,
        stems=stem_words(f"{question} {rest} {warned}"),
        present_stems=stem_words(f"{question} {rest}"),
        quantities=tuple(
            quantity
            for text in (question, rest, warned)
            for quantity in find_quantities(text, every_word=True)
        ),
    )


def _collect_concepts(mentions: Sequence[Mention], negated: bool) -> frozenset[Concept]:
    return frozenset(
        concept
        for mention in mentions
        if mention.negated is negated
        for concept in mention.concepts
    )


def find_unsupported_claims(answer: str, known: Evidence, lexicon: Lexicon) -> list[Claim]:
    """Return the claims of `answer` that `known` does not support, in order.

    Places are those in the whole answer.
    """
    text = extract_answer(answer)
    offset = len(answer) - len(text)
    claims = [
        Claim(mention.text, mention.start, mention.end, mention.kind)
        for mention in find_mentions(text, lexicon)
        if not mention.negated
        and not _is_supported(mention, known, _find_section(text, mention.start))
    ]
    claims += [
        Claim(quantity.text, quantity.start, quantity.end, "dose" if quantity.is_dose else "number")
        for quantity in find_quantities(text)
        if not any(quantity.agrees(other) for other in known.quantities)
    ]
    return [
        replace(claim, start=claim.start + offset, end=claim.end + offset)
        for claim in _drop_duplicates(claims)
    ]


def _is_supported(mention: Mention, known: Evidence, section: str | None) -> bool:
    of_the_patient = section == "symptoms" and mention.kind == "finding"
    concepts, content = (
        (known.present, known.present_stems) if of_the_patient else (known.affirmed, known.stems)
    )
    if any(
        concept in concepts or any(is_wider(concept, other) for other in concepts)
        for concept in mention.concepts
    ):
        return True
    if any(concept in known.denied for concept in mention.concepts):
        return mention.kind == "finding" and section in ("precautions", "red flags")
    wanted = stem_words(mention.text)
    return bool(wanted) and wanted <= content


def _find_section(text: str, at: int) -> str | None:
    """Return the section that the place stands in; None where no heading is before it."""
    headings = [
        section for line in text[:at].splitlines() if (section := find_section_heading(line))
    ]
    return headings[-1] if headings else None


def _drop_duplicates(claims: Sequence[Claim]) -> list[Claim]:
    """Return `claims` in order of place; the two ends of a range are one claim."""
    return sorted(
        {(claim.start, claim.end): claim for claim in claims}.values(),
        key=lambda claim: claim.start,
    )
