"""Runs against each other, case by case: what the tuned models of two runs make of the same
held-out cases.

A case is the same where question and reference are. A loss is compared where its labelled tokens
are as many, too: under another prompt or tokenizer a loss per token is another measure. Values of
different cases are never compared: what has no pair is left out, and where nothing has, the
contrast says why.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from medexp.evaluation.measure_table import HARMS_BY_CASE, LOSS_PARTS, Measure, find_role
from medexp.evaluation.measures.forced_choice import LIKELIHOOD_MEASURES, Likelihoods
from medexp.evaluation.paired_stats import PairedComparison, compare_pairs
from medexp.evaluation.record import CaseLoss, Record
from medexp.evaluation.scorecard import Scorecard
from medexp.evaluation.verdicts import (
    IMPROVED,
    WORSE,
    MeasuredChange,
    Role,
    Verdict,
    describe_direction,
    give_verdicts,
)

_JUDGE = "judge"
_BENCHMARK = "benchmark_"


@dataclass(frozen=True)
class EvaluatedRun:
    """A run's record, scored, and the settings it was made with by their dotted names."""

    record: Record
    scorecard: Scorecard
    settings: Mapping[str, str]


@dataclass(frozen=True)
class Contrast:
    """A measure of a run minus that of the reference, over the cases both have.

    `judged` is the verdict over the primary and harm measures of all runs together; a measure
    without one is described.
    """

    measure: Measure
    comparison: PairedComparison | None = None
    judged: Verdict | None = None
    missing: str = ""

    @property
    def role(self) -> Role:
        """Primary, harm or description."""
        return self.judged.role if self.judged is not None else Role.description

    @property
    def adjusted_p(self) -> float | None:
        """The p of a verdict: corrected for the other primary measures, or one-sided for harm."""
        return self.judged.adjusted_p if self.judged is not None else None

    @property
    def is_detected(self) -> bool:
        """Whether a difference is called: in a primary measure beside all others, or harm."""
        return self.judged is not None and self.judged.word in (IMPROVED, WORSE)

    @property
    def is_hinted(self) -> bool:
        """Whether it is called, or would be if this primary measure were the only one."""
        is_alone = self.comparison is not None and self.comparison.is_detected
        return self.is_detected or (self.role is Role.primary and is_alone)

    @property
    def verdict(self) -> str:
        """Return better or worse, maybe before it where a primary measure holds only alone, none
        detected, or too few groups; higher, lower or same of a description; or not compared.
        """
        if self.comparison is None:
            return "not compared"
        if self.role is Role.description:
            return describe_direction(self.comparison.change)
        if not self.is_hinted:
            return self.comparison.verdict_without_change("none detected")
        if self.is_detected and self.judged is not None:
            return "better" if self.judged.word == IMPROVED else "worse"
        gain = self.measure.better * self.comparison.change
        return "maybe better" if gain > 0 else "maybe worse"


@dataclass(frozen=True)
class SharedCases:
    """How many cases two runs share, of how many each has: all that are held out, and those of them
    that were answered.

    Where a record is older than digests (`is_known` is False), all held-out cases are shared or
    none, as the counts of labelled tokens are alike or not.
    """

    held_out: tuple[int, int, int]
    answered: tuple[int, int, int]
    is_known: bool = True


@dataclass(frozen=True)
class AnsweredQuestion:
    """A held-out question, its reference, and where in each run's record it lies (None where it was
    not answered there).
    """

    question: str
    reference: str
    places: tuple[int | None, ...]


def contrast_runs(
    reference: EvaluatedRun, others: Sequence[EvaluatedRun | None]
) -> list[tuple[Contrast, ...]]:
    """Return for every run of `others` a contrast to `reference` in each measure.

    The primary measures are those that the reference named; p is adjusted for all of them in all
    runs together (Holm).
    """
    measures = {
        result.measure.key: result.measure
        for run in (reference, *others)
        if run is not None
        for result in run.scorecard.results
    }
    rows = [
        [_contrast_measure(reference, run, measure) for measure in measures.values()] if run else []
        for run in others
    ]
    changes = {
        (place, contrast.measure.key): change
        for place, row in enumerate(rows)
        for contrast, change in row
        if change is not None
    }
    verdicts = give_verdicts(changes)
    return [
        tuple(
            replace(contrast, judged=verdicts.get((place, contrast.measure.key)))
            for contrast, _ in row
        )
        for place, row in enumerate(rows)
    ]


def count_shared_cases(reference: EvaluatedRun, other: EvaluatedRun) -> SharedCases:
    """Return how many cases `other` shares with `reference`."""
    have_digests = _have_digests(reference, other)
    held_out = [{*_name_cases(run.record, have_digests)} for run in (reference, other)]
    answered = [{case.digest for case in run.record.cases} for run in (reference, other)]
    return SharedCases(_count_shared(*held_out), _count_shared(*answered), have_digests)


def list_answered_questions(runs: Sequence[EvaluatedRun | None]) -> list[AnsweredQuestion]:
    """Return every question that was answered in any of `runs`, in the order of the first that has
    it.
    """
    places = [
        {case.digest: place for place, case in enumerate(run.record.cases)} if run else {}
        for run in runs
    ]
    cases = {case.digest: case for run in reversed(runs) if run for case in run.record.cases}
    order = dict.fromkeys(digest for places_of_run in places for digest in places_of_run)
    return [
        AnsweredQuestion(
            cases[digest].question,
            cases[digest].reference,
            tuple(places_of_run.get(digest) for places_of_run in places),
        )
        for digest in order
    ]


def values_by_case(
    run: EvaluatedRun, key: str, with_digests: bool = True
) -> dict[str, tuple[float, float]]:
    """Return the value of measure `key` in every case of the tuned model, by what a case must share
    to be compared; beside it what the case weighs in a mean: 1, in a loss its labelled tokens.

    Without digests (records older than them) a loss is known by its place and by all counts of
    labelled tokens.
    """
    if key in LOSS_PARTS:
        return _losses(run.record, LOSS_PARTS[key], with_digests)
    if key in LIKELIHOOD_MEASURES:
        values = dict(run.record.likelihoods.get("tuned", Likelihoods()).values(key))
    elif key == _JUDGE:
        values = _marks(run)
    elif key.startswith(_BENCHMARK):
        values = _grades(run, key.removeprefix(_BENCHMARK))
    else:
        answers = zip(run.record.cases, run.scorecard.after, strict=True)
        values = {
            case.digest: value
            for case, answer in answers
            if (value := answer.values.get(key)) is not None
        }
    return {case: (value, 1.0) for case, value in values.items()}


def _contrast_measure(
    reference: EvaluatedRun, run: EvaluatedRun, measure: Measure
) -> tuple[Contrast, MeasuredChange | None]:
    """Return the contrast without its verdict, and what the verdict is given on."""
    have_digests = _have_digests(reference, run)
    theirs = values_by_case(reference, measure.key, have_digests)
    ours = values_by_case(run, measure.key, have_digests)
    shared = [case for case in theirs if case in ours]
    if not shared:
        reason = _explain_missing(measure, theirs, ours, (reference, run))
        return Contrast(measure, missing=reason), None
    before, after = [theirs[case][0] for case in shared], [ours[case][0] for case in shared]
    weights = [theirs[case][1] for case in shared]
    groups = _name_groups(reference.record, shared)
    comparison = compare_pairs(before, after, weights, groups=groups)
    role = find_role(measure.key, reference.scorecard.primary)
    by_case = measure.key in HARMS_BY_CASE
    change = MeasuredChange(role, measure.better, comparison, before, after, by_case)
    return Contrast(measure, comparison), change


def _name_groups(record: Record, cases: Sequence[str]) -> list[str]:
    """Return the group of every case of `values_by_case`, whose names begin with their digest."""
    groups = record.map_groups_by_digest()
    return [groups.get(case.partition(" ")[0].rstrip(":"), case) for case in cases]


def _explain_missing(
    measure: Measure,
    theirs: Mapping[str, object],
    ours: Mapping[str, object],
    runs: Sequence[EvaluatedRun],
) -> str:
    for values, run in zip((theirs, ours), runs, strict=True):
        if not values:
            reasons = [
                result.missing
                for result in run.scorecard.results
                if result.measure.key == measure.key
            ]
            return reasons[0] if reasons and reasons[0] else "not measured in both"
    if measure.key in LOSS_PARTS:
        return (
            "no held-out case with the same labelled tokens in both (other cases, prompt or"
            " tokenizer)"
        )
    is_asked_elsewhere = measure.key.startswith((_JUDGE, _BENCHMARK))
    return "asked otherwise in both" if is_asked_elsewhere else "no held-out case in both"


def _have_digests(*runs: EvaluatedRun) -> bool:
    return all(run.record.held_out for run in runs)


def _losses(
    record: Record, part: Callable[[CaseLoss], CaseLoss], with_digests: bool
) -> dict[str, tuple[float, float]]:
    parts = zip(_name_cases(record, with_digests), map(part, record.tuned_losses), strict=True)
    return {
        f"{name}: {loss.tokens}": (loss.per_token, loss.tokens)
        for name, loss in parts
        if loss.tokens
    }


def _name_cases(record: Record, with_digests: bool) -> Sequence[str]:
    if with_digests:
        return record.held_out
    all_counts = ",".join(f"{loss.tokens}/{loss.answer_tokens}" for loss in record.tuned_losses)
    return [f"{place} of {all_counts}" for place in range(len(record.tuned_losses))]


def _marks(run: EvaluatedRun) -> dict[str, float]:
    if run.record.judged is None:
        return {}
    judge = "/".join(_settings_under(run, "evaluation.judge."))
    # Only the first cases may have been judged: as many as there are judgements.
    judged = zip(run.record.cases, run.record.judged.tuned, strict=False)
    return {
        f"{case.digest} {judge}": judgement.mark
        for case, judgement in judged
        if judgement.mark is not None
    }


def _grades(run: EvaluatedRun, name: str) -> dict[str, float]:
    if name not in run.record.benchmarks:
        return {}
    grades = run.record.benchmarks[name].tuned
    files = _settings_under(run, f"evaluation.benchmark_files.{name}")
    limit = _settings_under(run, "evaluation.benchmark_limit")
    source = "/".join([*files, *limit, str(len(grades))])
    return {f"{place} of {source}": float(is_right) for place, is_right in enumerate(grades)}


def _settings_under(run: EvaluatedRun, prefix: str) -> Iterator[str]:
    return (value for name, value in sorted(run.settings.items()) if name.startswith(prefix))


def _count_shared(mine: set[str], yours: set[str]) -> tuple[int, int, int]:
    return len(mine & yours), len(mine), len(yours)
