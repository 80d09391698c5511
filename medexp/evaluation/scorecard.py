"""Every measure of an evaluation, before and after, case by case and compared. It is made from a
`record.Record` and a lexicon, from nothing else.

MEASURES lists them with the direction that is better; the modules they come from state their rules.
A measure that cannot be taken (no sections in the reference, no English, an answer too short) is
None for that case, the comparison is over the cases that have it on both sides, and where none has,
the card says why.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp

from medexp.data.words import split_words
from medexp.evaluation.measures.clinical_terms import Lexicon
from medexp.evaluation.measures.contradictions import Contradiction, contradictions
from medexp.evaluation.measures.reference_recall import (
    embedded_recall,
    items,
    lexical_recall,
    lines,
    names_condition,
)
from medexp.evaluation.measures.sections import structure
from medexp.evaluation.measures.text_form import is_closed, repetition, same_language
from medexp.evaluation.measures.unsupported_claims import Claim, evidence, unsupported
from medexp.evaluation.measures.words import answer_part, end_reasoning, language
from medexp.evaluation.paired_stats import (
    PairedComparison,
    Proportion,
    compare_pairs,
    estimate_proportion,
)
from medexp.evaluation.record import Answer, AnsweredCase, CaseLoss, Record, mean_loss

Cosines = Callable[[Sequence[str], Sequence[str]], Sequence[Sequence[float]]]
NO_CASES = "no held-out question was answered"


@dataclass(frozen=True)
class Measure:
    """A measure: `key` names it in MLflow (eval/<key>/before), `better` is 1, -1, or 0 where
    neither direction is better.
    """

    key: str
    title: str
    better: int
    missing: str = ""


MEASURES = (
    Measure("loss_completion", "held-out loss, all", -1),
    Measure("loss_reasoning", "held-out loss, reasoning", -1, "the prompt asks for no reasoning"),
    Measure("loss_answer", "held-out loss, answer", -1),
    Measure("structure", "four sections (0 to 1)", 1),
    Measure("items_per_section", "items a section", 0),
    Measure(
        "condition_named",
        "condition named",
        1,
        "the cases have no column `condition`, or are not English",
    ),
    Measure(
        "red_flag_recall",
        "red flags recalled",
        1,
        "the references have no section Red Flags, or are not English",
    ),
    Measure(
        "precaution_recall",
        "precautions recalled",
        1,
        "the references have no section Precautions, or are not English",
    ),
    Measure(
        "red_flag_recall_embedding",
        "red flags, by meaning",
        1,
        "evaluation.embedding is off, or no such section",
    ),
    Measure(
        "precaution_recall_embedding",
        "precautions, by meaning",
        1,
        "evaluation.embedding is off, or no such section",
    ),
    Measure(
        "unsupported_per_100_words",
        "unsupported per 100 words",
        -1,
        "the lexicon is English, or the answers are empty",
    ),
    Measure("contradictions", "contradictions", -1, "the rules are English"),
    Measure("ended", "ended by itself", 1),
    Measure("think_closed", "reasoning closed", 1, "the prompt asks for no reasoning"),
    Measure("repetition", "repeated 4-grams", -1),
    Measure("same_language", "question's language", 1, "the texts are too short to tell"),
    Measure("words", "words in the answer", 0),
)
BENCHMARKS = {
    "medqa": "MedQA",
    "medmcqa": "MedMCQA",
    "pubmedqa": "PubMedQA",
    "mmlu_medical": "MMLU, medical",
}
BY_KEY = {measure.key: measure for measure in MEASURES}
# The losses among the measures, by the part of a case that they are taken on.
LOSS_PARTS: Mapping[str, Callable[[CaseLoss], CaseLoss]] = {
    "loss_completion": lambda loss: loss,
    "loss_reasoning": lambda loss: loss.reasoning,
    "loss_answer": lambda loss: loss.answer,
}


@dataclass(frozen=True)
class ScoredAnswer:
    """One answer: its value of every measure (None where it has none), and the places in it that
    count against it.
    """

    values: Mapping[str, float | None]
    claims: tuple[Claim, ...]
    contradictions: tuple[Contradiction, ...]

    def describe(self) -> str:
        """Return what counts for and against the answer, in words."""
        structure, unsupported = self.values["structure"], len(self.claims)
        return f"{structure:.2f} for its sections, {unsupported} unsupported"


@dataclass(frozen=True)
class MeasureResult:
    """A measure over all cases: before, after and the paired comparison, or the reason why there is
    none.
    """

    measure: Measure
    before: float | None = None
    after: float | None = None
    comparison: PairedComparison | None = None
    missing: str = ""

    @property
    def verdict(self) -> str:
        """One of improved, worse, changed (a measure without a better side), no detectable change,
        too few cases, not measured.
        """
        if self.comparison is None:
            return "not measured"
        if self.measure.better == 0 and self.comparison.is_detected:
            return "changed"
        return self.comparison.verdict(self.measure.better > 0)


@dataclass(frozen=True)
class Scorecard:
    """All measures, in the order of MEASURES, and both answers of every case as scored."""

    results: tuple[MeasureResult, ...]
    before: tuple[ScoredAnswer, ...]
    after: tuple[ScoredAnswer, ...]

    def find_result(self, key: str) -> MeasureResult:
        """Return the result of measure `key`."""
        return next(result for result in self.results if result.measure.key == key)

    def metrics(self) -> dict[str, float]:
        """Return eval/<measure>/before, after and delta with its interval and p, of what was
        measured; perplexity beside each loss.
        """
        values: dict[str, float] = {}
        for result in self.results:
            before, after, comparison = result.before, result.after, result.comparison
            if comparison is not None and before is not None and after is not None:
                values |= _metrics(result.measure.key, before, after, comparison)
        return values


def build_scorecard(record: Record, lexicon: Lexicon, cosines: Cosines | None = None) -> Scorecard:
    """Return the scorecard of `record`; `cosines` (items x lines) adds what is recalled by
    meaning.
    """
    cases, reasons = record.cases, record.reasons
    before = tuple(score_answer(case, case.base, reasons, lexicon, cosines) for case in cases)
    after = tuple(score_answer(case, case.tuned, reasons, lexicon, cosines) for case in cases)
    losses = {key: _compare_losses(key, record) for key in LOSS_PARTS}
    results = [
        losses.get(measure.key) or _compare_answers(measure, before, after) for measure in MEASURES
    ]
    results += [*_compare_marks(record), *_compare_benchmarks(record)]
    return Scorecard(tuple(results), before, after)


def score_answer(
    case: AnsweredCase,
    answer: Answer,
    reasons: bool,
    lexicon: Lexicon,
    cosines: Cosines | None = None,
) -> ScoredAnswer:
    """Return all measures of `answer` to `case`; `reasons` where the prompt asks for reasoning.

    Reasoning that was cut off is no answer: such an answer is scored as an empty one.
    """
    text = end_reasoning(answer.text) if reasons else answer.text
    built = structure(text)
    # None: too short to tell, and then taken for English, in which the lexicon and the rules are.
    languages = {language(case.question), language(case.reference)}
    is_english = languages <= {"en", None}
    count = len(split_words(answer_part(text)))
    claims, against = _find_against(case, text, lexicon) if is_english else ((), ())
    is_same_language = same_language(text, case.question)
    values: dict[str, float | None] = {
        "structure": built.score,
        "items_per_section": built.items_per_section,
        "unsupported_per_100_words": 100 * len(claims) / count if count and is_english else None,
        "contradictions": float(len(against)) if is_english else None,
        "ended": float(answer.ended),
        "think_closed": float(is_closed(answer.text)) if reasons else None,
        "repetition": repetition(answer.text),
        "same_language": None if is_same_language is None else float(is_same_language),
        "words": float(count),
    }
    content = _score_content(case, text, lexicon, cosines) if is_english else {}
    return ScoredAnswer(values | content, claims, against)


def _find_against(
    case: AnsweredCase, text: str, lexicon: Lexicon
) -> tuple[tuple[Claim, ...], tuple[Contradiction, ...]]:
    """Return what in an answer counts against it."""
    known = evidence(case.question, case.reference, lexicon)
    claims = unsupported(text, known, lexicon)
    return tuple(claims), tuple(contradictions(text, case.question, lexicon))


def _score_content(
    case: AnsweredCase, text: str, lexicon: Lexicon, cosines: Cosines | None
) -> dict[str, float | None]:
    """Return how much of the reference the answer has."""
    values: dict[str, float | None] = {}
    if names := _condition_names(case.extra):
        values["condition_named"] = float(names_condition(text, names, lexicon))
    for key, section in (("red_flag_recall", "red flags"), ("precaution_recall", "precautions")):
        wanted = items(case.reference, section)
        values[key] = lexical_recall(wanted, text)
        if cosines is not None:
            recall = embedded_recall(cosines(wanted, lines(text))) if wanted else None
            values[f"{key}_embedding"] = recall
    return values


def _condition_names(extra: Mapping[str, str]) -> list[str]:
    """Return the names of a case's condition, synonyms too; none where it has no condition."""
    names, synonyms = (_split_cell(extra.get(name, "")) for name in ("condition", "synonyms"))
    return [*names, *synonyms] if extra.get("condition") else []


def _split_cell(cell: str) -> list[str]:
    """Return the names in a cell: between semicolons, or a JSON array of them."""
    try:
        items = json.loads(cell) if cell.lstrip().startswith("[") else cell.split(";")
    except (ValueError, RecursionError):
        items = cell.split(";")
    return [name for item in items if (name := str(item).strip())]


def _compare_answers(
    measure: Measure, before: Sequence[ScoredAnswer], after: Sequence[ScoredAnswer]
) -> MeasureResult:
    """Return `measure` compared over the cases that have it on both sides."""
    values = [
        (early.values.get(measure.key), late.values.get(measure.key))
        for early, late in zip(before, after, strict=True)
    ]
    pairs = [(early, late) for early, late in values if early is not None and late is not None]
    if not pairs:
        return MeasureResult(measure, missing=measure.missing or NO_CASES if values else NO_CASES)
    return _compare_values(measure, pairs)


def _compare_values(measure: Measure, pairs: Sequence[tuple[float, float]]) -> MeasureResult:
    comparison = compare_pairs([early for early, _ in pairs], [late for _, late in pairs])
    return MeasureResult(measure, comparison.before, comparison.after, comparison)


def _compare_losses(key: str, record: Record) -> MeasureResult:
    """Return loss `key` compared: every token counts the same in before, after, change and
    interval, the sign test counts cases.
    """
    measure, take_part = BY_KEY[key], LOSS_PARTS[key]
    before = [take_part(loss) for loss in record.base_losses]
    after = [take_part(loss) for loss in record.tuned_losses]
    if not before or not all(loss.tokens for loss in before):
        return MeasureResult(measure, missing=measure.missing or "no held-out losses were measured")
    comparison = compare_pairs(
        [loss.per_token for loss in before],
        [loss.per_token for loss in after],
        [loss.tokens for loss in after],
    )
    return MeasureResult(measure, mean_loss(before), mean_loss(after), comparison)


def _compare_marks(record: Record) -> list[MeasureResult]:
    """Return the judge's marks compared, none where no judge was asked."""
    if record.judged is None:
        return []
    measure = Measure("judge", "judge (1 to 5)", 1)
    judgements = zip(record.judged.base, record.judged.tuned, strict=True)
    pairs = [
        (base.mark, tuned.mark)
        for base, tuned in judgements
        if base.mark is not None and tuned.mark is not None
    ]
    if not pairs:
        return [MeasureResult(measure, missing=record.judged.failure or "the judge gave no mark")]
    return [_compare_values(measure, pairs)]


def _compare_benchmarks(record: Record) -> list[MeasureResult]:
    results = []
    for name, grades in record.benchmarks.items():
        measure = Measure(f"benchmark_{name}", f"{BENCHMARKS.get(name, name)}, accuracy", 1)
        pairs = zip(map(float, grades.base), map(float, grades.tuned), strict=True)
        results.append(_compare_values(measure, [*pairs]))
    return results


def accuracies(record: Record) -> list[tuple[str, str, Proportion]]:
    """Return each benchmark's title, side (base, tuned) and accuracy with its two intervals."""
    return [
        (BENCHMARKS.get(name, name), side, estimate_proportion(are_right))
        for name, grades in record.benchmarks.items()
        for side, are_right in (("base", grades.base), ("tuned", grades.tuned))
    ]


def _metrics(
    key: str, before: float, after: float, comparison: PairedComparison
) -> dict[str, float]:
    values = {
        "before": before,
        "after": after,
        "delta": after - before,
        "low": comparison.low,
        "high": comparison.high,
        "p": comparison.p_value,
    }
    metrics = {f"eval/{key}/{name}": value for name, value in values.items()}
    if key.startswith("loss_"):
        perplexity = f"eval/perplexity_{key.removeprefix('loss_')}"
        metrics |= {
            f"{perplexity}/before": exp(before),
            f"{perplexity}/after": exp(after),
            f"{perplexity}/delta": exp(after) - exp(before),
        }
    return metrics
