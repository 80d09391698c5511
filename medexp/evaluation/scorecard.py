"""Every measure of an evaluation, before and after, case by case and compared. From a
`record.Record` and a lexicon, nothing else.

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
from medexp.evaluation.measures.words import answer_part, language
from medexp.evaluation.paired_stats import (
    Comparison,
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


@dataclass(frozen=True)
class ScoredAnswer:
    """One answer: its value of every measure (None where it has none), and the places in it that
    count against it.
    """

    values: Mapping[str, float | None]
    claims: tuple[Claim, ...]
    contradictions: tuple[Contradiction, ...]


@dataclass(frozen=True)
class MeasureResult:
    """A measure over all cases: before, after and the paired comparison, or the reason why there is
    none.
    """

    measure: Measure
    before: float | None = None
    after: float | None = None
    comparison: Comparison | None = None
    missing: str = ""

    @property
    def verdict(self) -> str:
        """improved, worse, changed (a measure without a better side), no detectable change, or not
        measured.
        """
        if self.comparison is None:
            return "not measured"
        if self.measure.better == 0:
            return (
                "changed"
                if self.comparison.is_detected
                else self.comparison.nothing("no detectable change")
            )
        return self.comparison.verdict(self.measure.better > 0)


@dataclass(frozen=True)
class Scorecard:
    """All measures, in the order of MEASURES, and both answers of every case as scored."""

    lines: tuple[MeasureResult, ...]
    before: tuple[ScoredAnswer, ...]
    after: tuple[ScoredAnswer, ...]

    def line(self, key: str) -> MeasureResult:
        """The line of measure `key`."""
        return next(each for each in self.lines if each.measure.key == key)

    def metrics(self) -> dict[str, float]:
        """eval/<measure>/before, after and delta with its interval and p, of what was measured;
        perplexity beside each loss.
        """
        values: dict[str, float] = {}
        for each in self.lines:
            if each.comparison is not None and each.before is not None and each.after is not None:
                values |= _metrics(each.measure.key, each.before, each.after, each.comparison)
        return values


def build_scorecard(record: Record, lexicon: Lexicon, cosines: Cosines | None = None) -> Scorecard:
    """The scorecard of `record`; `cosines` (items x lines) adds what is recalled by meaning."""
    before = tuple(
        score_answer(each, each.base, record.reasons, lexicon, cosines) for each in record.cases
    )
    after = tuple(
        score_answer(each, each.tuned, record.reasons, lexicon, cosines) for each in record.cases
    )
    losses = {line.measure.key: line for line in _loss_lines(record)}
    lines = [losses.get(measure.key) or _line(measure, before, after) for measure in MEASURES]
    return Scorecard((*lines, *_judge_line(record), *_benchmark_lines(record)), before, after)


def score_answer(
    case: AnsweredCase,
    answer: Answer,
    reasons: bool,
    lexicon: Lexicon,
    cosines: Cosines | None = None,
) -> ScoredAnswer:
    """All measures of `answer` to `case`."""
    text, built = answer.text, structure(answer.text)
    is_english = language(case.question) in ("en", None) and language(case.reference) in (
        "en",
        None,
    )
    count = len(split_words(answer_part(text)))
    claims, against = _against(case, text, lexicon) if is_english else ((), ())
    same = same_language(text, case.question)
    values: dict[str, float | None] = {
        "structure": built.score,
        "items_per_section": built.items_per_section,
        "unsupported_per_100_words": 100 * len(claims) / count if count and is_english else None,
        "contradictions": float(len(against)) if is_english else None,
        "ended": float(answer.ended),
        "think_closed": float(is_closed(text)) if reasons else None,
        "repetition": repetition(text),
        "same_language": None if same is None else float(same),
        "words": float(count),
    }
    content = _content(case, text, lexicon, cosines) if is_english else {}
    return ScoredAnswer(values | content, claims, against)


def _against(
    case: AnsweredCase, text: str, lexicon: Lexicon
) -> tuple[tuple[Claim, ...], tuple[Contradiction, ...]]:
    known = evidence(case.question, case.reference, lexicon)
    return tuple(unsupported(text, known, lexicon)), tuple(
        contradictions(text, case.question, lexicon)
    )


def _content(
    case: AnsweredCase, text: str, lexicon: Lexicon, cosines: Cosines | None
) -> dict[str, float | None]:
    values: dict[str, float | None] = {}
    if names := _names(case.extra):
        values["condition_named"] = float(names_condition(text, names, lexicon))
    for key, section in (("red_flag_recall", "red flags"), ("precaution_recall", "precautions")):
        wanted = items(case.reference, section)
        values[key] = lexical_recall(wanted, text)
        if cosines is not None:
            values[f"{key}_embedding"] = (
                embedded_recall(cosines(wanted, lines(text))) if wanted else None
            )
    return values


def _names(extra: Mapping[str, str]) -> list[str]:
    found = [*_listed(extra.get("condition", "")), *_listed(extra.get("synonyms", ""))]
    return found if extra.get("condition") else []


def _listed(cell: str) -> list[str]:
    """The names in a cell: between semicolons, or a JSON array of them."""
    try:
        items = json.loads(cell) if cell.lstrip().startswith("[") else cell.split(";")
    except (ValueError, RecursionError):
        items = cell.split(";")
    return [name for item in items if (name := str(item).strip())]


def _line(
    measure: Measure, before: Sequence[ScoredAnswer], after: Sequence[ScoredAnswer]
) -> MeasureResult:
    both = [
        (early.values.get(measure.key), late.values.get(measure.key))
        for early, late in zip(before, after, strict=True)
    ]
    pairs = [(early, late) for early, late in both if early is not None and late is not None]
    if not pairs:
        return MeasureResult(measure, missing=measure.missing or NO_CASES if both else NO_CASES)
    return _compared(measure, [early for early, _ in pairs], [late for _, late in pairs])


def _compared(measure: Measure, before: Sequence[float], after: Sequence[float]) -> MeasureResult:
    comparison = compare_pairs(before, after)
    return MeasureResult(measure, comparison.before, comparison.after, comparison)


def _loss_lines(record: Record) -> list[MeasureResult]:
    parts: dict[str, Callable[[CaseLoss], CaseLoss]] = {
        "loss_completion": lambda loss: loss,
        "loss_reasoning": lambda loss: loss.reasoning,
        "loss_answer": lambda loss: loss.answer,
    }
    return [_loss_line(BY_KEY[key], *([part(loss) for loss in side] for side in (record.base_losses, record.tuned_losses)))
            for key, part in parts.items()]  # fmt: skip


def _judge_line(record: Record) -> list[MeasureResult]:
    if record.judged is None:
        return []
    measure = Measure("judge", "judge (1 to 5)", 1)
    pairs = [
        (base.mark, tuned.mark)
        for base, tuned in zip(record.judged.base, record.judged.tuned, strict=True)
    ]
    marked = [(base, tuned) for base, tuned in pairs if base is not None and tuned is not None]
    if not marked:
        return [MeasureResult(measure, missing=record.judged.failure or "the judge gave no mark")]
    return [_compared(measure, [base for base, _ in marked], [tuned for _, tuned in marked])]


def _benchmark_lines(record: Record) -> list[MeasureResult]:
    found = []
    for name, graded in record.benchmarks.items():
        measure = Measure(f"benchmark_{name}", f"{BENCHMARKS.get(name, name)}, accuracy", 1)
        found.append(
            _compared(
                measure,
                [float(each) for each in graded.base],
                [float(each) for each in graded.tuned],
            )
        )
    return found


def accuracies(record: Record) -> list[tuple[str, str, Proportion]]:
    """Each benchmark's title, side (base, tuned) and accuracy with its two intervals."""
    return [
        (BENCHMARKS.get(name, name), side, estimate_proportion(right))
        for name, graded in record.benchmarks.items()
        for side, right in (("base", graded.base), ("tuned", graded.tuned))
    ]


def _loss_line(
    measure: Measure, before: Sequence[CaseLoss], after: Sequence[CaseLoss]
) -> MeasureResult:
    """Every token counts the same in before, after, change and interval; the sign test counts
    cases.
    """
    if not before or not all(loss.tokens for loss in before):
        return MeasureResult(measure, missing=measure.missing or "no held-out losses were measured")
    tokens = [loss.tokens for loss in after]
    compared = compare_pairs(
        [loss.per_token for loss in before], [loss.per_token for loss in after], tokens
    )
    return MeasureResult(measure, mean_loss(before), mean_loss(after), compared)


def _metrics(key: str, before: float, after: float, compared: Comparison) -> dict[str, float]:
    values = {
        "before": before,
        "after": after,
        "delta": after - before,
        "low": compared.low,
        "high": compared.high,
        "p": compared.p_value,
    }
    found = {f"eval/{key}/{name}": value for name, value in values.items()}
    if key.startswith("loss_"):
        part = key.removeprefix("loss_")
        found |= {
            f"eval/perplexity_{part}/{name}": exp(value)
            for name, value in (("before", before), ("after", after))
        }
        found[f"eval/perplexity_{part}/delta"] = exp(after) - exp(before)
    return found
