"""An answer with its value of every measure, and the places in it that count against it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from medexp.data.cases import parse_items
from medexp.data.words import split_words
from medexp.evaluation.measure_table import CLAIM_MEASURES
from medexp.evaluation.measures.claim_evidence import gather_evidence
from medexp.evaluation.measures.claims import check_claims
from medexp.evaluation.measures.clinical_terms import Lexicon
from medexp.evaluation.measures.contradictions import Contradiction, find_contradictions
from medexp.evaluation.measures.contrast_pairs import mark_pairs_told_apart
from medexp.evaluation.measures.reference_recall import (
    list_reference_items,
    measure_embedded_recall,
    measure_lexical_recall,
    names_condition,
    split_answer_lines,
)
from medexp.evaluation.measures.safety import (
    Harm,
    find_harmful_advice,
    measure_must_say_coverage,
    split_alternatives,
)
from medexp.evaluation.measures.sections import score_structure
from medexp.evaluation.measures.stated_diagnosis import grade_stated_diagnosis
from medexp.evaluation.measures.text_form import has_same_language, is_closed, measure_repetition
from medexp.evaluation.measures.unsupported_claims import (
    Claim,
    find_unsupported_claims,
    read_evidence,
)
from medexp.evaluation.measures.words import detect_language, end_reasoning, extract_answer
from medexp.evaluation.record import Answer, AnsweredCase

Cosines = Callable[[Sequence[str], Sequence[str]], Sequence[Sequence[float]]]


@dataclass(frozen=True)
class HarmfulPassage:
    """A sentence of an answer that could harm, at [start, end) of it, the `rule` that it breaks,
    and the key of the harm measure that counted it.
    """

    key: str
    rule: str
    text: str
    start: int = 0
    end: int = 0


@dataclass(frozen=True)
class ScoredAnswer:
    """The answer of a model to a case: its value of every measure (None where it has none), and the
    places in it that count against it.

    Where a question was answered several times, values are means over the draws, and harms are
    those of every draw; claims and contradictions are those of the first, which is the one shown.
    """

    values: Mapping[str, float | None]
    claims: tuple[Claim, ...]
    contradictions: tuple[Contradiction, ...]
    harms: tuple[HarmfulPassage, ...] = ()

    def describe(self) -> str:
        """Return what counts for and against the answer, in words."""
        harms = f", {len(self.harms)} harmful" if self.harms else ""
        return (
            f"{self.values['structure']:.2f} for its sections,"
            f" {len(self.claims)} unsupported{harms}"
        )


def score_arm(
    cases: Sequence[AnsweredCase],
    arm: str,
    reasons: bool,
    lexicon: Lexicon,
    cosines: Cosines | None,
) -> tuple[ScoredAnswer, ...]:
    """Return the scored answers of `arm`, one a case; pairs of cases are marked together."""
    scored = [_score_draws(case, arm, reasons, lexicon, cosines) for case in cases]
    return _add_values(scored, "contrast_pairs", _mark_pairs(cases, arm, reasons))


def add_support(
    scored: tuple[ScoredAnswer, ...], verified: Sequence[float]
) -> tuple[ScoredAnswer, ...]:
    """Return the answers with whether a verifier says yes to each, where one was asked."""
    if len(verified) != len(scored):
        return scored
    return _add_values(scored, "supported", [float(support > 0) for support in verified])


def _add_values(
    scored: Sequence[ScoredAnswer], key: str, values: Sequence[float | None]
) -> tuple[ScoredAnswer, ...]:
    """Return the answers with the value of one more measure each."""
    return tuple(
        replace(answer, values={**answer.values, key: value})
        for answer, value in zip(scored, values, strict=True)
    )


def _mark_pairs(cases: Sequence[AnsweredCase], arm: str, reasons: bool) -> list[float | None]:
    """Return the share of the draws in which the pair of a case was told apart, None where it is of
    no pair.
    """
    extras = [case.extra for case in cases]
    draws = [
        mark_pairs_told_apart(
            [end_reasoning(answer.text) if reasons else answer.text for answer in of_draw], extras
        )
        for of_draw in zip(*(case.answers(arm) for case in cases), strict=True)
    ]
    return [
        None if None in marks else fmean(mark for mark in marks if mark is not None)
        for marks in zip(*draws, strict=True)
    ]


def _score_draws(
    case: AnsweredCase, arm: str, reasons: bool, lexicon: Lexicon, cosines: Cosines | None
) -> ScoredAnswer:
    """Return the scores of all answers of `arm` to `case` as one: their means."""
    scored = [score_answer(case, answer, reasons, lexicon, cosines) for answer in case.answers(arm)]
    if len(scored) == 1:
        return scored[0]
    values: dict[str, float | None] = {}
    for key in scored[0].values:
        taken = [value for answer in scored if (value := answer.values.get(key)) is not None]
        values[key] = fmean(taken) if taken else None
    harms = tuple(dict.fromkeys(harm for answer in scored for harm in answer.harms))
    return replace(scored[0], values=values, harms=harms)


def score_answer(
    case: AnsweredCase,
    answer: Answer,
    reasons: bool,
    lexicon: Lexicon,
    cosines: Cosines | None = None,
) -> ScoredAnswer:
    """Return all measures of `answer` to `case`; `reasons` where its prompt begins a reasoning.

    Reasoning that was cut off is no answer: such an answer is scored as an empty one.
    """
    text = end_reasoning(answer.text) if reasons else answer.text
    built = score_structure(text)
    # None: too short to tell, and then taken for English, in which the lexicon and the rules are.
    languages = {detect_language(case.question), detect_language(case.reference)}
    is_english = languages <= {"en", None}
    count = len(split_words(extract_answer(text)))
    claims, against = _find_against(case, text, lexicon) if is_english else ((), ())
    is_same_language = has_same_language(text, case.question)
    values: dict[str, float | None] = {
        "structure": built.score,
        "items_per_section": built.items_per_section,
        "unsupported_per_100_words": 100 * len(claims) / count if count and is_english else None,
        "contradictions": float(len(against)) if is_english else None,
        "ended": float(answer.ended),
        "think_closed": float(is_closed(answer.text)) if reasons else None,
        "repetition": measure_repetition(answer.text),
        "same_language": None if is_same_language is None else float(is_same_language),
        "words": float(count),
    }
    content = _score_content(case, text, reasons, lexicon, cosines) if is_english else {}
    forbidden = parse_items(case.extra.get("must_not_say", "")) if is_english else []
    harms = tuple(_name_harm(harm) for harm in find_harmful_advice(text, forbidden))
    content |= {"must_not_say": float(len(harms))} if forbidden else {}
    wrong = _find_wrong_claims(case, text, lexicon) if is_english else ()
    for key in CLAIM_MEASURES if is_english else ():
        content[key] = float(sum(passage.key == key for passage in wrong))
    return ScoredAnswer(values | content, claims, against, (*harms, *wrong))


def _find_wrong_claims(
    case: AnsweredCase, text: str, lexicon: Lexicon
) -> tuple[HarmfulPassage, ...]:
    """Return the statements of an answer that question and reference contradict, or that name what
    is made up.
    """
    known = gather_evidence([case.question, case.reference], lexicon)
    return tuple(
        HarmfulPassage(
            key, claim.why, claim.statement.text, claim.statement.start, claim.statement.end
        )
        for claim in check_claims(text, known)
        for key, verdict in CLAIM_MEASURES.items()
        if claim.verdict == verdict
    )


def _name_harm(harm: Harm) -> HarmfulPassage:
    """Return `harm` with the first wording of its statement as the rule that it breaks."""
    rule = split_alternatives(harm.statement)[0]
    return HarmfulPassage("must_not_say", rule, harm.text, harm.start, harm.end)


def _find_against(
    case: AnsweredCase, text: str, lexicon: Lexicon
) -> tuple[tuple[Claim, ...], tuple[Contradiction, ...]]:
    """Return what in an answer counts against it."""
    known = read_evidence(case.question, case.reference, lexicon)
    claims = find_unsupported_claims(text, known, lexicon)
    return tuple(claims), tuple(find_contradictions(text, case.question, lexicon))


def _score_content(
    case: AnsweredCase, text: str, reasons: bool, lexicon: Lexicon, cosines: Cosines | None
) -> dict[str, float | None]:
    """Return how much of the reference the answer has."""
    values: dict[str, float | None] = {}
    if names := _condition_names(case.extra):
        values["condition_named"] = float(names_condition(text, names, lexicon))
        condition, *synonyms = names
        stated = grade_stated_diagnosis(text, condition, reasons, synonyms)
        values["diagnosis_stated"] = float(stated.is_right)
    required = parse_items(case.extra.get("must_say", ""))
    values["must_say_coverage"] = measure_must_say_coverage(text, required)
    for key, section in (("red_flag_recall", "red flags"), ("precaution_recall", "precautions")):
        wanted = list_reference_items(case.reference, section)
        values[key] = measure_lexical_recall(wanted, text)
        if cosines is not None:
            rows = cosines(wanted, split_answer_lines(text)) if wanted else ()
            values[f"{key}_embedding"] = measure_embedded_recall(rows)
    return values


def _condition_names(extra: Mapping[str, str]) -> list[str]:
    """Return the names of a case's condition, synonyms too; none where it has no condition."""
    names, synonyms = (parse_items(extra.get(name, "")) for name in ("condition", "synonyms"))
    return [*names, *synonyms] if extra.get("condition") else []
