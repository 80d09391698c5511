"""Runs against each other, case by case: what the tuned models of two runs make of the same
held-out cases.

A case is the same where question and reference are. A loss is compared where its labelled tokens
are as many, too: under another prompt or tokenizer a loss per token is another measure. Refuses to
compare values of different cases: what has no pair is left out, and where nothing has, the contrast
says why.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from medexp.evaluation.paired_stats import LEVEL, Comparison, adjust_holm, compare_pairs
from medexp.evaluation.record import CaseLoss, Record
from medexp.evaluation.scorecard import Measure, Scorecard

_PARTS: Mapping[str, Callable[[CaseLoss], CaseLoss]] = {
    "loss_completion": lambda loss: loss,
    "loss_reasoning": lambda loss: loss.reasoning,
    "loss_answer": lambda loss: loss.answer,
}
_JUDGE, _BENCHMARK = "judge", "benchmark_"


@dataclass(frozen=True)
class EvaluatedRun:
    """A run's record, scored, and the settings it was made with by their dotted names."""

    record: Record
    scorecard: Scorecard
    settings: Mapping[str, str]


@dataclass(frozen=True)
class Contrast:
    """A measure of a run minus that of the reference, over the cases both have; `adjusted_p` is
    corrected for all comparisons.
    """

    measure: Measure
    comparison: Comparison | None = None
    adjusted_p: float = 1.0
    missing: str = ""

    @property
    def is_detected(self) -> bool:
        """Does it hold beside all other comparisons: interval without zero, and the adjusted p
        below 0.05?
        """
        return self.is_hinted and self.adjusted_p < 1 - LEVEL

    @property
    def is_hinted(self) -> bool:
        """Would it be called if it were the only comparison?"""
        return self.comparison is not None and self.comparison.is_detected

    @property
    def verdict(self) -> str:
        """better, worse or differs; maybe before it where it holds only alone; none detected; not
        compared.
        """
        if self.comparison is None:
            return "not compared"
        if not self.is_hinted:
            return self.comparison.nothing("none detected")
        way = self.measure.better * self.comparison.change
        return ("" if self.is_detected else "maybe ") + (
            "better" if way > 0 else "worse" if way < 0 else "differs"
        )


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
    """For every run of `others` a contrast to `reference` in each measure; p is adjusted for all of
    them together (Holm).
    """
    measures = {
        line.measure.key: line.measure
        for run in (reference, *others)
        if run is not None
        for line in run.scorecard.results
    }
    found = [
        [_contrast_measure(reference, run, each) for each in measures.values()]
        if run is not None
        else []
        for run in others
    ]
    compared = [each.comparison for row in found for each in row if each.comparison is not None]
    adjusted = iter(adjust_holm([each.p_value for each in compared]))
    return [
        tuple(replace(each, adjusted_p=next(adjusted)) if each.comparison else each for each in row)
        for row in found
    ]


def count_shared_cases(reference: EvaluatedRun, other: EvaluatedRun) -> SharedCases:
    """How many cases `other` shares with `reference`."""
    answered = [{case.digest for case in run.record.cases} for run in (reference, other)]
    held_out = [
        set(_name_cases(run.record, _have_digests(reference, other))) for run in (reference, other)
    ]
    return SharedCases(
        _count_shared(*held_out), _count_shared(*answered), _have_digests(reference, other)
    )


def list_answered_questions(runs: Sequence[EvaluatedRun | None]) -> list[AnsweredQuestion]:
    """Every question that was answered in any of `runs`, in the order of the first that has it."""
    places = [
        {case.digest: place for place, case in enumerate(run.record.cases)} if run else {}
        for run in runs
    ]
    cases = {case.digest: case for run in reversed(runs) if run for case in run.record.cases}
    order = dict.fromkeys(digest for each in places for digest in each)
    return [
        AnsweredQuestion(
            cases[key].question, cases[key].reference, tuple(each.get(key) for each in places)
        )
        for key in order
    ]


def values_by_case(
    run: EvaluatedRun, key: str, with_digests: bool = True
) -> dict[str, tuple[float, float]]:
    """The value of measure `key` in every case of the tuned model, by what a case must share to be
    compared; beside it what the case weighs in a mean: 1, in a loss its labelled tokens.

    Without digests (records older than them) a loss is known by its place and by all counts of
    labelled tokens.
    """
    if key in _PARTS:
        return _losses(run.record, _PARTS[key], with_digests)
    if key == _JUDGE:
        values = _marks(run)
    elif key.startswith(_BENCHMARK):
        values = _grades(run, key.removeprefix(_BENCHMARK))
    else:
        scored = zip(run.record.cases, run.scorecard.after, strict=True)
        values = {
            case.digest: value
            for case, each in scored
            if (value := each.values.get(key)) is not None
        }
    return {case: (value, 1.0) for case, value in values.items()}


def _contrast_measure(reference: EvaluatedRun, run: EvaluatedRun, measure: Measure) -> Contrast:
    theirs, ours = (
        values_by_case(each, measure.key, _have_digests(reference, run))
        for each in (reference, run)
    )
    shared = [case for case in theirs if case in ours]
    if not shared:
        return Contrast(measure, missing=_explain_missing(measure, theirs, ours, (reference, run)))
    weights = [theirs[case][1] for case in shared]
    return Contrast(
        measure,
        compare_pairs(
            [theirs[case][0] for case in shared], [ours[case][0] for case in shared], weights
        ),
    )


def _explain_missing(
    measure: Measure,
    theirs: Mapping[str, object],
    ours: Mapping[str, object],
    runs: Sequence[EvaluatedRun],
) -> str:
    for values, run in zip((theirs, ours), runs, strict=True):
        if not values:
            lines = [line for line in run.scorecard.results if line.measure.key == measure.key]
            return lines[0].missing if lines and lines[0].missing else "not measured in both"
    if measure.key in _PARTS:
        return (
            "no held-out case with the same labelled tokens in both (other cases, prompt or"
            " tokenizer)"
        )
    return (
        "asked otherwise in both"
        if measure.key.startswith((_JUDGE, _BENCHMARK))
        else "no held-out case in both"
    )


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
    whole = ",".join(f"{loss.tokens}/{loss.answer_tokens}" for loss in record.tuned_losses)
    return [f"{place} of {whole}" for place in range(len(record.tuned_losses))]


def _marks(run: EvaluatedRun) -> dict[str, float]:
    if run.record.judged is None:
        return {}
    judge = "/".join(_settings_under(run, "evaluation.judge."))
    # the first cases, as many as were judged
    marked = zip(run.record.cases, run.record.judged.tuned, strict=False)
    return {f"{case.digest} {judge}": each.mark for case, each in marked if each.mark is not None}


def _grades(run: EvaluatedRun, name: str) -> dict[str, float]:
    if name not in run.record.benchmarks:
        return {}
    right = run.record.benchmarks[name].tuned
    source = "/".join(
        [
            *_settings_under(run, f"evaluation.benchmark_files.{name}"),
            *_settings_under(run, "evaluation.benchmark_limit"),
            str(len(right)),
        ]
    )
    return {f"{place} of {source}": float(each) for place, each in enumerate(right)}


def _settings_under(run: EvaluatedRun, prefix: str) -> Iterator[str]:
    return (value for name, value in sorted(run.settings.items()) if name.startswith(prefix))


def _count_shared(mine: set[str], yours: set[str]) -> tuple[int, int, int]:
    return len(mine & yours), len(mine), len(yours)
