"""What trials cost: seconds of a card, planned before and measured after, and what is left of
sweep.budget.

On a card a step is planned by `planning.step_time`, and corrected by what finished trials of the
study took. On a CPU nothing is planned before a trial has been measured.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from medexp.sweep.search.proposal import Proposal
from medexp.sweep.study.final_results import load_final_results
from medexp.sweep.study.history import (
    BESIDE_S,
    CONTINUES,
    ELAPSED,
    PLANNED_S,
    PLANNED_STEP_S,
    STEP_S,
    StudyHistory,
)
from medexp.sweep.study.trial_files import Ending, TrialOutcome, read_outcome
from medexp.system.units import format_duration


@dataclass(frozen=True)
class Pace:
    """What the measured trials of a study took on average.

    `step_s`: seconds of a step, None before a trial is measured. `beside_s`: seconds of a run
    beside its steps, which are its start, loading and measuring; 0 before one is measured.
    `step_ratio`: measured seconds of a step over planned ones, 1 where none were planned.
    """

    step_s: float | None
    beside_s: float
    step_ratio: float


@dataclass(frozen=True)
class Reserve:
    """What is kept back for the final run: its steps (None where they are counted in epochs), and
    how often it is trained.
    """

    steps: int | None
    runs: int


class TrialCosts:
    """What the trials of `study` cost, and whether another may start."""

    def __init__(self, study: StudyHistory):
        self._study = study
        self._options = study.options
        self.reserve: Reserve | None = None

    def plan_s(self, proposal: Proposal) -> float | None:
        """Return the seconds that a trial should take, None where nothing tells."""
        steps = proposal.config.training.max_steps if proposal.config else None
        return self._plan_runs_s(proposal, steps, self._options.repeats)

    def spent_s(self) -> float:
        """Return the seconds that trials took, those that still run with what they should take."""
        final_s = sum(run.elapsed_s for run in load_final_results(self._study).values())
        return sum(map(_spent_s, self._study.trials())) + final_s

    def explain_excess(self, trial: Any, proposal: Proposal) -> str:
        """Return why `trial` may not start within sweep.budget, "" where it may."""
        budget_s = self._options.budget_s
        if budget_s is None:
            return ""
        own_s = _spent_s(self._study.reload(trial))
        left_s = budget_s - (self.spent_s() - own_s)
        reserved_s = self._reserve_s(proposal)
        planned_s = self.plan_s(proposal)
        if max(planned_s or 0.0, 1e-9) + reserved_s <= left_s:
            return ""
        planned = f" and trial {trial.number} would take {format_duration(planned_s or 0.0)}"
        kept_back = f", {format_duration(reserved_s)} of it for the final run" if reserved_s else ""
        return (
            f"sweep.budget={self._options.budget}: {format_duration(max(left_s, 0.0))} are left"
            f"{kept_back}{planned if planned_s else ''}, so no more trials start; the same command"
            " with a larger one goes on"
        )

    def plan_final_s(self, proposal: Proposal, runs: int) -> float | None:
        """Return the seconds that so many final runs should take, None where nothing tells.

        Answers are not planned, and short trials may have none.
        """
        steps = proposal.config.training.max_steps if proposal.config else None
        return self._plan_runs_s(proposal, steps, runs)

    def _reserve_s(self, proposal: Proposal) -> float:
        """Return the seconds that the final run should take if this proposal were the best."""
        if self.reserve is None:
            return 0.0
        return self._plan_runs_s(proposal, self.reserve.steps, self.reserve.runs) or 0.0

    def _plan_runs_s(self, proposal: Proposal, steps: int | None, runs: int) -> float | None:
        pace = measure_pace(self._study.trials())
        step_s = pace.step_s if proposal.step_s is None else proposal.step_s * pace.step_ratio
        if step_s is None or steps is None:
            return None
        return runs * (steps * step_s + pace.beside_s)


def measure_pace(trials: Sequence[Any]) -> Pace:
    """Return what those of `trials` took that ran from their first step to their end."""
    measured = [trial.user_attrs for trial in trials if STEP_S in trial.user_attrs]
    if not measured:
        return Pace(None, 0.0, 1.0)
    planned = [attrs for attrs in measured if attrs.get(PLANNED_STEP_S)]
    ratio = (
        sum(attrs[STEP_S] for attrs in planned) / sum(attrs[PLANNED_STEP_S] for attrs in planned)
        if planned
        else 1.0
    )
    return Pace(
        fmean(attrs[STEP_S] for attrs in measured),
        fmean(attrs[BESIDE_S] for attrs in measured),
        ratio,
    )


def split_elapsed(trial: Any, outcome: TrialOutcome, repeats: int) -> dict[str, float]:
    """Return the seconds of a step of `outcome`, and those of a run beside its steps.

    Empty for a trial that did not end by itself, or that began with the steps of another.
    """
    steps, training_s = (
        outcome.metrics.get(f"result/{name}", 0.0) for name in ("steps", "training_s")
    )
    is_continued = CONTINUES in trial.user_attrs
    if outcome.ending is not Ending.done or is_continued or not (steps and training_s):
        return {}
    beside_s = max(0.0, outcome.elapsed_s / repeats - training_s)
    return {STEP_S: training_s / steps, BESIDE_S: beside_s}


def measure_lost_s(study: StudyHistory, trial: Any) -> float:
    """Return the seconds that the runs of a `trial` took whose sweeper is gone."""
    return sum(map(measure_folder_s, study.list_run_folders(trial)))


def measure_folder_s(folder: Path) -> float:
    """Return the seconds that the run in `folder` took, 0 where none was started.

    Of a run that ended without a word it is the time until the last file that it wrote.
    """
    outcome, process = read_outcome(folder), folder / "process.json"
    if outcome is not None:
        return outcome.elapsed_s
    if not process.is_file():
        return 0.0
    newest = max(file.stat().st_mtime for file in folder.iterdir())
    return newest - process.stat().st_mtime


def _spent_s(trial: Any) -> float:
    """Return what `trial` took, and of one that still runs what it should take at least."""
    if trial.state.name != "RUNNING":
        elapsed_s: float = trial.user_attrs.get(ELAPSED, 0.0)
        return elapsed_s
    age_s: float = time.time() - trial.datetime_start.timestamp()
    return max(age_s, float(trial.user_attrs.get(PLANNED_S, 0.0)))
