"""What a sweep has cost, in seconds of a card and in steps: in MLflow, and in words."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from medexp.config.schema import Tracking
from medexp.errors import RunError
from medexp.sweep.study.final_results import load_final_results
from medexp.sweep.study.history import (
    ELAPSED,
    PLANNED_S,
    RUN,
    STEPS,
    StudyHistory,
    without_continued,
)
from medexp.system.units import format_duration
from medexp.tracking import queries
from medexp.tracking.store_lock import suppress_away


@dataclass(frozen=True)
class StudyCost:
    """What a study has taken: seconds of a card in all, its final runs included; steps; and of the
    trials that were planned, the planned and the measured seconds.
    """

    elapsed_s: float
    steps: int
    planned_s: float
    planned_elapsed_s: float

    def metrics(self) -> dict[str, float]:
        """Return it as metrics of the study's own run."""
        values = {"sweep/elapsed_s": self.elapsed_s, "sweep/steps": float(self.steps)}
        return values | ({"sweep/planned_s": self.planned_s} if self.planned_s else {})


def sum_study_cost(study: StudyHistory) -> StudyCost:
    """Return what the trials of `study`, and its final runs, have taken."""
    trials = study.trials()
    final_runs = load_final_results(study).values()
    # A trial that goes on where another was cut begins to count with the steps of that one.
    planned = [
        trial.user_attrs
        for trial in trials
        if {PLANNED_S, ELAPSED} <= set(trial.user_attrs) and trial.state.is_finished()
    ]
    return StudyCost(
        elapsed_s=sum(trial.user_attrs.get(ELAPSED, 0.0) for trial in trials)
        + sum(run.elapsed_s for run in final_runs),
        steps=sum(trial.user_attrs.get(STEPS, 0) for trial in without_continued(trials))
        + sum(run.steps for run in final_runs),
        planned_s=sum(attrs[PLANNED_S] for attrs in planned),
        planned_elapsed_s=sum(attrs[ELAPSED] for attrs in planned),
    )


def cost_rows(study: StudyHistory) -> list[tuple[str, str]]:
    """Return the row of the results that says what the study has cost."""
    cost = sum_study_cost(study)
    budget = study.options.budget
    of_budget = f" of sweep.budget={budget}" if budget else ""
    planned = (
        f"; {format_duration(cost.planned_elapsed_s)} of it planned as"
        f" {format_duration(cost.planned_s)}"
        if cost.planned_s
        else ""
    )
    taken = f"{format_duration(cost.elapsed_s)}{of_budget}, {cost.steps} steps{planned}"
    return [("card time", taken)]


def log_trial_cost(tracking: Tracking, trial: Any) -> None:
    """Log what `trial` was planned to take, and took, with its MLflow run."""
    run_id = trial.user_attrs.get(RUN)
    names = {PLANNED_S: "sweep/planned_s", ELAPSED: "sweep/elapsed_s", STEPS: "sweep/steps"}
    values = {
        metric: float(trial.user_attrs[name])
        for name, metric in names.items()
        if name in trial.user_attrs
    }
    # The trial itself is told; a store that is away or locked for a moment must not end the sweep.
    with suppress(RunError), suppress_away():
        if run_id is not None and values:
            queries.add_metrics(tracking, run_id, values)
