"""Several runs side by side: what each was made with, came to and cost, and each against the first.
`comparison_rows` puts it into words; `as_dict` into plain values for programs."""

from collections.abc import Mapping, Sequence
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
from medexp.config.flatten import differing
from medexp.evaluation.paired_stats import Comparison
from medexp.evaluation.scorecard import Measure, MeasureResult, ScoredAnswer

TRAINING_DATA = "training data"  # stands among the settings where runs were trained on other cases
PAUSE_S = 60.0  # samples of power further apart than this: the run was stopped in between


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
    """A run in a comparison: `requested_as` is what the user named it by, `ended` how it ended;
    `missing` says why it is not `evaluated`; `page` is its place on an MLflow server ("" where it has none),
    `trained_on` the digest of its training cases (None where it is not known)."""

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

    def contrast(self, key: str) -> Contrast | None:
        """The contrast in measure `key`."""
        return next((each for each in self.contrasts if each.measure.key == key), None)


@dataclass(frozen=True)
class RunComparison:
    """Two or more runs; the first that was evaluated is the reference of all others. `title` says
    how they were chosen, `caution` what that choice does to the comparison."""

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
        first = self.reference
        if first is None or first.evaluated is None:
            return ()
        others = [
            (run, run.evaluated)
            for run in self.runs
            if run is not first and run.evaluated is not None
        ]
        found = contrast_runs(first.evaluated, [each for _, each in others])
        return tuple(
            AgainstReference(run, row, count_shared_cases(first.evaluated, each))
            for (run, each), row in zip(others, found, strict=True)
        )

    @cached_property
    def comparisons(self) -> int:
        """How many contrasts could be taken: what every p is corrected for."""
        return sum(
            each.comparison is not None
            for against in self.against_reference
            for each in against.contrasts
        )

    @cached_property
    def measures(self) -> tuple[Measure, ...]:
        """Every measure that some run has a value of, in the order of the scorecard."""
        lines = [
            line
            for run in self.runs
            if run.evaluated
            for line in run.evaluated.scorecard.results
            if line.comparison is not None
        ]
        known = {line.measure.key: line.measure for line in lines}
        order = [
            line.measure.key
            for run in self.runs
            if run.evaluated
            for line in run.evaluated.scorecard.results
        ]
        return tuple(known[key] for key in dict.fromkeys(order) if key in known)

    @cached_property
    def answered_questions(self) -> list[AnsweredQuestion]:
        """Every answered question with its place in every run, those first that most runs have
        answered.
        """
        return sorted(
            list_answered_questions([run.evaluated for run in self.runs]),
            key=lambda each: each.places.count(None),
        )

    @cached_property
    def differences(self) -> dict[str, list[str | None]]:
        """The settings in which the runs are not alike, and the digests of their training cases
        where these are not.
        """
        configured = [run for run in self.runs if run.settings]
        found = differing([run.settings for run in configured]) if self._configured else {}
        digests = [run.trained_on for run in configured]
        return found | ({TRAINING_DATA: digests} if len({*digests} - {None}) > 1 else {})

    @cached_property
    def _configured(self) -> bool:
        return sum(bool(run.settings) for run in self.runs) > 1


@dataclass(frozen=True)
class AnswerPair:
    """What a run's base and tuned model said to a question, as scored."""

    base: str
    before: ScoredAnswer
    tuned: str
    after: ScoredAnswer

    @property
    def figures(self) -> tuple[str, str]:
        """What counts for and against both answers, in words."""
        scored = (self.before, self.after)
        counts = [
            f"{each.values['structure']:.2f} for its sections, {len(each.claims)} unsupported"
            for each in scored
        ]
        return counts[0], counts[1]


def find_answers(run: ComparedRun, place: int | None) -> AnswerPair | None:
    """The answers of `run` at `place` of its record; None where it has none."""
    if run.evaluated is None or place is None:
        return None
    case, card = run.evaluated.record.cases[place], run.evaluated.scorecard
    return AnswerPair(case.base.text, card.before[place], case.tuned.text, card.after[place])


def find_measure_result(run: ComparedRun, key: str) -> MeasureResult | None:
    """What changed in measure `key` of `run`; None where it was not evaluated, or has no such
    measure.
    """
    return (
        next((line for line in run.evaluated.scorecard.results if line.measure.key == key), None)
        if run.evaluated
        else None
    )


def integrate_energy_wh(power_w: Sequence[tuple[float, float]]) -> float | None:
    """Watt-hours under samples of (second, watt), by the trapezoid rule; pauses are left out. None
    under two samples.
    """
    steps = [
        (late - early, (first + second) / 2) for (early, first), (late, second) in pairwise(power_w)
    ]
    return (
        sum(length * watt for length, watt in steps if length <= PAUSE_S) / 3600 if steps else None
    )


def as_dict(found: RunComparison) -> dict[str, object]:
    """All of it as plain values with stable keys, but the answers."""
    return {
        "title": found.title,
        "reference": found.reference.label if found.reference else None,
        "comparisons": found.comparisons,
        "settings": {name: dict(zip((run.label for run in found.runs if run.settings), values, strict=True))
                     for name, values in found.differences.items()},
        "runs": [_run_dict(run) for run in found.runs],
        "against_reference": [
            {
                "run": against.run.label,
                "shared_cases": asdict(against.shared_cases),
                "measures": {each.measure.key: _contrast_dict(each) for each in against.contrasts},
            }
            for against in found.against_reference
        ],
    }  # fmt: skip


def _run_dict(run: ComparedRun) -> dict[str, object]:
    lines = run.evaluated.scorecard.results if run.evaluated else ()
    changed = {
        line.measure.key: (
            {"before": line.before, "after": line.after, "verdict": line.verdict}
            | _comparison_dict(line.comparison)
        )
        for line in lines
        if line.comparison is not None
    }
    facts = {
        "label": run.label,
        "name": run.name,
        "mlflow_run_id": run.run_id,
        "asked": run.requested_as,
        "ended": run.ended,
    }
    return facts | {"missing": run.missing, "cost": asdict(run.cost), "measures": changed}


def _contrast_dict(each: Contrast) -> dict[str, object]:
    if each.comparison is None:
        return {"verdict": each.verdict, "missing": each.missing}
    means = {"reference": each.comparison.before, "run": each.comparison.after}
    return {
        "verdict": each.verdict,
        **means,
        **_comparison_dict(each.comparison),
        "adjusted_p": each.adjusted_p,
    }


def _comparison_dict(compared: Comparison) -> dict[str, object]:
    return {
        "change": compared.change,
        "low": compared.low,
        "high": compared.high,
        "p": compared.p_value,
        "pairs": compared.pairs,
    }
