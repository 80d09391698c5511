"""Every measure of an evaluation, before and after, case by case and compared. It is made from a
`record.Record` and a lexicon, from nothing else.

MEASURES (`measure_table`) lists them with the direction that is better. A measure that cannot be
taken (no sections in the reference, no English, an answer too short) is None for that case, the
comparison is over the cases that have it on both sides, and where none has, the card says why.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import exp
from statistics import fmean

from medexp.evaluation.measure_table import (
    BENCHMARKS,
    BY_KEY,
    DEFAULT_PRIMARY,
    HARM_MEASURES,
    HARMS_BY_CASE,
    LOSS_PARTS,
    MEASURES,
    Measure,
    find_role,
)
from medexp.evaluation.measures.clinical_terms import Lexicon
from medexp.evaluation.measures.forced_choice import LIKELIHOOD_MEASURES
from medexp.evaluation.paired_stats import (
    PairedComparison,
    Proportion,
    compare_pairs,
    estimate_proportion,
)
from medexp.evaluation.record import Record, mean_loss
from medexp.evaluation.scored_answers import Cosines, ScoredAnswer, add_support, score_arm
from medexp.evaluation.verdicts import (
    MeasuredChange,
    Role,
    Verdict,
    describe_direction,
    give_verdicts,
)

NO_CASES = "no held-out question was answered"


@dataclass(frozen=True)
class MeasureResult:
    """A measure over all cases: before, after and the paired comparison, or the reason why there is
    none.

    `before` is the base that the tuned model is held against: the better one, where it was also
    asked its best way. `against` is that arm, and `bases` has the mean of each that was asked.
    """

    measure: Measure
    before: float | None = None
    after: float | None = None
    comparison: PairedComparison | None = None
    missing: str = ""
    judged: Verdict | None = None
    bases: Mapping[str, float] = field(default_factory=dict)
    against: str = "base"
    harm_before: tuple[float, ...] = ()
    harm_after: tuple[float, ...] = ()

    @property
    def role(self) -> Role:
        """Primary, harm or description."""
        return self.judged.role if self.judged is not None else Role.description

    @property
    def verdict(self) -> str:
        """Improved, worse, no detectable change or too few groups of a primary or harm measure;
        higher, lower or same of a description; or not measured.
        """
        if self.comparison is None:
            return "not measured"
        if self.judged is not None:
            return self.judged.word
        return describe_direction(self.comparison.change)


@dataclass(frozen=True)
class Scorecard:
    """All measures, in the order of MEASURES, and the answers of every case as scored; `base_best`
    is empty where the base was not asked its best way. `primary` names the measures that may give a
    verdict.
    """

    results: tuple[MeasureResult, ...]
    before: tuple[ScoredAnswer, ...]
    after: tuple[ScoredAnswer, ...]
    base_best: tuple[ScoredAnswer, ...] = ()
    questions: tuple[str, ...] = ()
    primary: tuple[str, ...] = DEFAULT_PRIMARY

    def find_result(self, key: str) -> MeasureResult:
        """Return the result of measure `key`."""
        return next(result for result in self.results if result.measure.key == key)

    def side(self, arm: str) -> tuple[ScoredAnswer, ...]:
        """Return the scored answers of `arm`: base, base_best or tuned."""
        return {"base": self.before, "base_best": self.base_best, "tuned": self.after}[arm]

    def results_of(self, role: Role) -> list[MeasureResult]:
        """Return the results of the measures of `role` that were taken."""
        return [result for result in self.results if result.comparison and result.role is role]

    def metrics(self) -> dict[str, float]:
        """Return eval/<measure>/before, after and delta with its interval and p, of what was
        measured; perplexity beside each loss.
        """
        values: dict[str, float] = {}
        for result in self.results:
            before, after, comparison = result.before, result.after, result.comparison
            if comparison is not None and before is not None and after is not None:
                key = result.measure.key
                values |= _list_metrics(key, before, after, comparison)
                if len(result.bases) > 1:
                    values |= {f"eval/{key}/{arm}": mean for arm, mean in result.bases.items()}
        return values


def build_scorecard(record: Record, lexicon: Lexicon, cosines: Cosines | None = None) -> Scorecard:
    """Return the scorecard of `record`; `cosines` (items x lines) adds what is recalled by
    meaning.
    """
    reasons = {"base_best": record.base_best_reasons}
    arms = {
        arm: add_support(
            score_arm(record.cases, arm, reasons.get(arm, record.reasons), lexicon, cosines),
            record.verified.get(arm, ()),
        )
        for arm in ("base", "base_best", "tuned")
        if all(case.answers(arm) for case in record.cases)
    }
    bases = {arm: scored for arm, scored in arms.items() if arm != "tuned"}
    groups = record.list_answered_groups()
    losses = {key: _compare_losses(key, record) for key in LOSS_PARTS}
    without_answers = losses | {
        key: _compare_likelihoods(key, record) for key in LIKELIHOOD_MEASURES
    }
    results = [
        without_answers.get(measure.key) or _compare_answers(measure, bases, arms["tuned"], groups)
        for measure in MEASURES
    ]
    results += [*_compare_marks(record), *_compare_benchmarks(record)]
    primary = record.primary or DEFAULT_PRIMARY
    return Scorecard(
        _add_verdicts(results, primary),
        arms["base"],
        arms["tuned"],
        arms.get("base_best", ()),
        tuple(case.question for case in record.cases),
        primary,
    )


def _add_verdicts(
    results: Sequence[MeasureResult], primary: Sequence[str]
) -> tuple[MeasureResult, ...]:
    """Return `results` with a verdict for every measure that was taken."""
    changes = {
        result.measure.key: MeasuredChange(
            find_role(result.measure.key, primary),
            result.measure.better,
            result.comparison,
            result.harm_before,
            result.harm_after,
            result.measure.key in HARMS_BY_CASE,
        )
        for result in results
        if result.comparison is not None
    }
    verdicts = give_verdicts(changes)
    return tuple(replace(result, judged=verdicts.get(result.measure.key)) for result in results)


def _compare_answers(
    measure: Measure,
    bases: Mapping[str, Sequence[ScoredAnswer]],
    after: Sequence[ScoredAnswer],
    groups: Sequence[str],
) -> MeasureResult:
    """Return the result of `measure`, over the cases that have it in every arm."""
    key = measure.key
    # A way of asking that has no such measure at all (a chain of thought) is no base for it.
    arms = [
        arm
        for arm, answers in bases.items()
        if arm == "base" or any(answer.values.get(key) is not None for answer in answers)
    ]
    rows = [
        ([answer.values.get(key) for answer in (*sides, late)], group)
        for *sides, late, group in zip(*(bases[arm] for arm in arms), after, groups, strict=True)
    ]
    taken = [(values, group) for values, group in rows if None not in values]
    if not taken:
        return MeasureResult(measure, missing=measure.missing or NO_CASES if rows else NO_CASES)
    columns = list(zip(*(values for values, _ in taken), strict=True))
    means = {arm: fmean(column) for arm, column in zip(arms, columns, strict=False)}
    # The tuned model has to beat the base at its best; without a better side it is held against
    # the base that had the same prompt.
    better = max(means, key=lambda arm: measure.better * means[arm]) if measure.better else "base"
    before, after_values = columns[arms.index(better)], columns[-1]
    pairs = list(zip(before, after_values, strict=True))
    result = _compare_values(measure, pairs, [group for _, group in taken])
    is_harm = key in HARM_MEASURES
    return replace(
        result,
        bases=means,
        against=better,
        harm_before=tuple(before) if is_harm else (),
        harm_after=tuple(after_values) if is_harm else (),
    )


def _compare_values(
    measure: Measure, pairs: Sequence[tuple[float, float]], groups: Sequence[str] | None = None
) -> MeasureResult:
    before, after = zip(*pairs, strict=True)
    comparison = compare_pairs(before, after, groups=groups)
    return MeasureResult(measure, comparison.before, comparison.after, comparison)


def _compare_losses(key: str, record: Record) -> MeasureResult:
    """Return loss `key` compared: every token counts the same in before, after, change,
    interval and test.
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
        groups=record.groups if len(record.groups) == len(after) else None,
    )
    return MeasureResult(measure, mean_loss(before), mean_loss(after), comparison)


def _compare_likelihoods(key: str, record: Record) -> MeasureResult:
    """Return likelihood measure `key` compared over the held-out cases that have it."""
    measure = BY_KEY[key]
    by_arm = {arm: scores.values(key) for arm, scores in record.likelihoods.items()}
    after = by_arm.pop("tuned", {})
    bases = {arm: values for arm, values in by_arm.items() if values}
    cases = [case for case in after if all(case in values for values in bases.values())]
    if not cases or "base" not in bases:
        return MeasureResult(measure, missing=measure.missing)
    means = {arm: fmean(values[case] for case in cases) for arm, values in bases.items()}
    better = max(means, key=lambda arm: measure.better * means[arm])
    groups = record.map_groups_by_digest()
    result = _compare_values(
        measure,
        [(bases[better][case], after[case]) for case in cases],
        [groups.get(case, case) for case in cases],
    )
    return replace(result, bases=means, against=better)


def _compare_marks(record: Record) -> list[MeasureResult]:
    """Return the judge's marks compared, none where no judge was asked."""
    if record.judged is None:
        return []
    measure = Measure("judge", "judge (1 to 5)", 1)
    # The first cases, as many as were judged, and of these the ones with two marks.
    judgements = zip(
        record.judged.base, record.judged.tuned, record.list_answered_groups(), strict=False
    )
    marked = [
        (base.mark, tuned.mark, group)
        for base, tuned, group in judgements
        if base.mark is not None and tuned.mark is not None
    ]
    if not marked:
        return [MeasureResult(measure, missing=record.judged.failure or "the judge gave no mark")]
    pairs, groups = [(base, tuned) for base, tuned, _ in marked], [group for *_, group in marked]
    return [_compare_values(measure, pairs, groups)]


def _compare_benchmarks(record: Record) -> list[MeasureResult]:
    results = []
    for name, grades in record.benchmarks.items():
        measure = Measure(f"benchmark_{name}", f"{BENCHMARKS.get(name, name)}, accuracy", 1)
        pairs = zip(map(float, grades.base), map(float, grades.tuned), strict=True)
        results.append(_compare_values(measure, [*pairs]))
    return results


def list_accuracies(record: Record) -> list[tuple[str, str, Proportion]]:
    """Return each benchmark's title, side (base, tuned) and accuracy with its two intervals."""
    return [
        (BENCHMARKS.get(name, name), side, estimate_proportion(are_right))
        for name, grades in record.benchmarks.items()
        for side, are_right in (("base", grades.base), ("tuned", grades.tuned))
    ]


def _list_metrics(
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
