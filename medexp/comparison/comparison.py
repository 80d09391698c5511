"""Several runs side by side: what each was made with, came to and cost, and each against the first.

`tables` puts it into words, `as_dict` into plain values for programs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise

from medexp.comparison.contrasts import (
    AnsweredQuestion,
    Contrast,
    EvaluatedRun,
    SharedCases,
    contrast_runs,
    count_shared_cases,
    list_answered_questions,
)
from medexp.comparison.seed_spread import SeededRun, SeedSpread, measure_seed_spread
from medexp.config.flatten import find_differing_settings
from medexp.evaluation.measure_table import Measure
from medexp.evaluation.paired_stats import PairedComparison
from medexp.evaluation.scorecard import MeasureResult
from medexp.evaluation.scored_answers import ScoredAnswer
from medexp.evaluation.verdicts import Role

# Stands among the settings where runs were trained on other cases.
TRAINING_DATA = "training data"
# Where samples of power are further apart than this, the run was stopped in between.
PAUSE_S = 60.0


@dataclass(frozen=True)
class Cost:
    """What a run took, as far as it is known; losses are over all held-out tokens, `trained` counts
    parameters.
    """

    elapsed_s: float | None = None
    steps: int | None = None
    tokens_per_s: float | None = None
    trained: int | None = None
    planned_bytes: int | None = None
    measured_bytes: int | None = None
    ceiling_bytes: int | None = None
    energy_wh: float | None = None
    loss_before: float | None = None
    loss_after: float | None = None


@dataclass(frozen=True)
class ComparedRun:
    """A run in a comparison.

    `requested_as` is what the user named it by, `ended` how it ended; `missing` says why it is not
    `evaluated`; `page` is its place on an MLflow server ("" where it has none), `trained_on` the
    digest of its training cases (None where it is not known).
    """

    label: str
    name: str
    requested_as: str
    run_id: str | None
    ended: str
    settings: Mapping[str, str]
    cost: Cost
    evaluated: EvaluatedRun | None
    missing: str = ""
    page: str = ""
    trained_on: str | None = None


@dataclass(frozen=True)
class AgainstReference:
    """A run against the reference, measure by measure, and how many cases they share."""

    run: ComparedRun
    contrasts: tuple[Contrast, ...]
    shared_cases: SharedCases

    def find_contrast(self, key: str) -> Contrast | None:
        """Return the contrast in measure `key`; None where there is none."""
        matching = (contrast for contrast in self.contrasts if contrast.measure.key == key)
        return next(matching, None)


@dataclass(frozen=True)
class RunComparison:
    """Two or more runs; the first that was evaluated is the reference of all others.

    `title` says how they were chosen, `caution` what that choice does to the comparison.
    """

    title: str
    runs: tuple[ComparedRun, ...]
    caution: str = ""

    @cached_property
    def reference(self) -> ComparedRun | None:
        """The run that the others are held against; None where fewer than two were evaluated."""
        evaluated = [run for run in self.runs if run.evaluated is not None]
        return evaluated[0] if len(evaluated) > 1 else None

    @cached_property
    def against_reference(self) -> tuple[AgainstReference, ...]:
        """Every other evaluated run against the reference."""
        reference = self.reference
        if reference is None or reference.evaluated is None:
            return ()
        others = [
            (run, run.evaluated)
            for run in self.runs
            if run is not reference and run.evaluated is not None
        ]
        contrasts = contrast_runs(reference.evaluated, [evaluated for _, evaluated in others])
        return tuple(
            AgainstReference(run, row, count_shared_cases(reference.evaluated, evaluated))
            for (run, evaluated), row in zip(others, contrasts, strict=True)
        )

    @cached_property
    def num_comparisons(self) -> int:
        """How many contrasts could be taken."""
        contrasts = [contrast for other in self.against_reference for contrast in other.contrasts]
        return sum(contrast.comparison is not None for contrast in contrasts)

    @cached_property
    def primary_contrasts(self) -> tuple[Contrast, ...]:
        """The contrasts in primary measures that could be taken: p is corrected for these."""
        return tuple(
            contrast
            for other in self.against_reference
            for contrast in other.contrasts
            if contrast.comparison is not None and contrast.role is Role.primary
        )

    @cached_property
    def measures(self) -> tuple[Measure, ...]:
        """Every measure that some run has a value of, in the order of the scorecard."""
        results = [*self.measure_results()]
        measured = {
            result.measure.key: result.measure
            for result in results
            if result.comparison is not None
        }
        order = dict.fromkeys(result.measure.key for result in results)
        return tuple(measured[key] for key in order if key in measured)

    @cached_property
    def seed_spreads(self) -> list[SeedSpread]:
        """How far those of the runs lie apart that differ in their training seed alone."""
        runs = [
            SeededRun(
                run.label,
                run.settings,
                {result.measure.key: result for result in run.evaluated.scorecard.results},
            )
            for run in self.runs
            if run.evaluated is not None
        ]
        return measure_seed_spread(runs, self.measures)

    def measure_results(self) -> Iterator[MeasureResult]:
        """Yield every line of every run's scorecard."""
        for run in self.runs:
            if run.evaluated is not None:
                yield from run.evaluated.scorecard.results

    @cached_property
    def answered_questions(self) -> list[AnsweredQuestion]:
        """Every answered question with its place in every run, those first that most runs have
        answered.
        """
        questions = list_answered_questions([run.evaluated for run in self.runs])
        return sorted(questions, key=lambda question: question.places.count(None))

    @cached_property
    def differences(self) -> dict[str, list[str | None]]:
        """The settings in which the runs are not alike, and the digests of their training cases
        where these are not.
        """
        configured = [run for run in self.runs if run.settings]
        digests = [run.trained_on for run in configured]
        differences: dict[str, list[str | None]] = {}
        if len(configured) > 1:
            differences |= find_differing_settings([run.settings for run in configured])
        if len({*digests} - {None}) > 1:
            differences[TRAINING_DATA] = digests
        return differences

    def as_dict(self) -> dict[str, object]:
        """Return all but the answers as plain values, as `compare.format=json` prints them."""
        return as_dict(self)


@dataclass(frozen=True)
class AnswerPair:
    """What a run's base and tuned model answered to a question, as scored."""

    base: str
    before: ScoredAnswer
    tuned: str
    after: ScoredAnswer

    @property
    def figures(self) -> tuple[str, str]:
        """What counts for and against both answers, in words."""
        return self.before.describe(), self.after.describe()


def find_answers(run: ComparedRun, place: int | None) -> AnswerPair | None:
    """Return the answers of `run` at `place` of its record; None where it has none."""
    if run.evaluated is None or place is None:
        return None
    case, scorecard = run.evaluated.record.cases[place], run.evaluated.scorecard
    before, after = scorecard.before[place], scorecard.after[place]
    return AnswerPair(case.base.text, before, case.tuned.text, after)


def find_measure_result(run: ComparedRun, key: str) -> MeasureResult | None:
    """Return what changed in measure `key` of `run`; None where it was not evaluated, or has no
    such measure.
    """
    if run.evaluated is None:
        return None
    results = run.evaluated.scorecard.results
    return next((result for result in results if result.measure.key == key), None)


def integrate_energy_wh(power_w: Sequence[tuple[float, float]]) -> float | None:
    """Return the watt-hours under samples of (second, watt), by the trapezoid rule; pauses are left
    out. None under two samples.
    """
    if len(power_w) < 2:
        return None
    steps = [
        (late - early, (first + second) / 2) for (early, first), (late, second) in pairwise(power_w)
    ]
    return sum(length_s * watt for length_s, watt in steps if length_s <= PAUSE_S) / 3600


def as_dict(comparison: RunComparison) -> dict[str, object]:
    """Return all but the answers as plain values; the keys are stable, programs read them."""
    labels = [run.label for run in comparison.runs if run.settings]
    return {
        "title": comparison.title,
        "reference": comparison.reference.label if comparison.reference else None,
        "comparisons": comparison.num_comparisons,
        "settings": {
            name: dict(zip(labels, values, strict=True))
            for name, values in comparison.differences.items()
        },
        "runs": [_run_as_dict(run) for run in comparison.runs],
        "against_reference": [_against_as_dict(other) for other in comparison.against_reference],
        "seeds": _seeds_as_dict(comparison.seed_spreads),
    }


def _seeds_as_dict(spreads: Sequence[SeedSpread]) -> dict[str, list[dict[str, object]]]:
    """Return the spreads by the key of their measure, one for each group of runs."""
    by_measure: dict[str, list[dict[str, object]]] = {}
    for spread in spreads:
        by_measure.setdefault(spread.measure.key, []).append(
            {
                "runs": list(spread.labels),
                "mean": spread.mean,
                "low": spread.low,
                "high": spread.high,
                "deviation": spread.deviation,
                "half_width_over_cases": spread.half_width,
            }
        )
    return by_measure


def _against_as_dict(other: AgainstReference) -> dict[str, object]:
    return {
        "run": other.run.label,
        "shared_cases": asdict(other.shared_cases),
        "measures": {
            contrast.measure.key: _contrast_as_dict(contrast) for contrast in other.contrasts
        },
    }


def _run_as_dict(run: ComparedRun) -> dict[str, object]:
    results = run.evaluated.scorecard.results if run.evaluated else ()
    measures = {
        result.measure.key: {
            "before": result.before,
            "after": result.after,
            "verdict": result.verdict,
            **_comparison_as_dict(result.comparison),
        }
        for result in results
        if result.comparison is not None
    }
    return {
        "label": run.label,
        "name": run.name,
        "mlflow_run_id": run.run_id,
        "asked": run.requested_as,
        "ended": run.ended,
        "missing": run.missing,
        "cost": asdict(run.cost),
        "measures": measures,
    }


def _contrast_as_dict(contrast: Contrast) -> dict[str, object]:
    comparison = contrast.comparison
    if comparison is None:
        return {"verdict": contrast.verdict, "missing": contrast.missing}
    return {
        "verdict": contrast.verdict,
        "reference": comparison.before,
        "run": comparison.after,
        **_comparison_as_dict(comparison),
        "adjusted_p": contrast.adjusted_p,
    }


def _comparison_as_dict(comparison: PairedComparison) -> dict[str, object]:
    return {
        "change": comparison.change,
        "low": comparison.low,
        "high": comparison.high,
        "p": comparison.p_value,
        "pairs": comparison.pairs,
        "groups": comparison.groups,
    }
