"""The page of a study in MLflow while it runs: the board in its description, its best value so far
as a curve.
"""

import time
from collections.abc import Sequence
from typing import Any

from medexp.reports.mlflow_description import describe_running_study
from medexp.sweep.reporting import results
from medexp.sweep.reporting.live_table import TrialRow, make_row
from medexp.sweep.reporting.progress import (
    UNSTARTED,
    describe_step,
    format_progress,
    measure_age_s,
)
from medexp.sweep.study.history import StudyHistory, ending_of, values_of
from medexp.sweep.study.trial_files import Ending
from medexp.system.units import format_duration
from medexp.tracking.links import PROGRESS
from medexp.tracking.tracker import Tracker

REFRESH_S = 10.0
# Of those that ended: a description has room for no more.
MAX_ROWS = 20


class LivePage:
    """What MLflow shows of a study while its trials run."""

    def __init__(self, parent: Tracker, study: StudyHistory):
        self._parent = parent
        self._study = study
        self._next_refresh_at = 0.0
        self._num_ended = 0
        self._shown: object = None

    def refresh(self, at_once: bool = False) -> None:
        """Write what has changed; at most once in REFRESH_S."""
        if not at_once and time.monotonic() < self._next_refresh_at:
            return
        self._next_refresh_at = time.monotonic() + REFRESH_S
        trials = self._study.trials()
        num_ended = sum(trial.state.is_finished() for trial in trials)
        if num_ended != self._num_ended:
            self._num_ended = num_ended
            results.log_progress(self._parent, self._study)
        progress = format_progress(self._study, trials)
        running = [self._format_running(trial) for trial in trials if _runs(trial)]
        ended = [_format_ended(trial) for trial in self._rank(trials)[:MAX_ROWS]]
        if (progress, running, ended) == self._shown:
            return
        self._shown = progress, running, ended
        self._parent.set_tags({PROGRESS: progress})
        self._parent.set_description(
            describe_running_study(
                list(self._study.space.dimensions),
                progress,
                time.strftime("%H:%M:%S"),
                running,
                ended,
                sum(ending_of(trial) is Ending.infeasible for trial in trials),
            )
        )

    def _rank(self, trials: Sequence[Any]) -> list[Any]:
        """Return the trials that were started and ended: the best first, those without a value
        last.
        """
        ended = [
            trial
            for trial in trials
            if trial.state.is_finished() and ending_of(trial) not in UNSTARTED
        ]
        sign = self._study.signs()[0]
        return sorted(
            ended,
            key=lambda trial: sign * values_of(trial)[0] if values_of(trial) else float("inf"),
        )

    def _format_running(self, trial: Any) -> str:
        row = make_row(trial)
        reported = f", {row.objective}" if row.objective else ""
        age = format_duration(measure_age_s(trial))
        return f"{_name(row)}: {describe_step(self._study, trial)}{reported}, {age}"


def _runs(trial: Any) -> bool:
    return bool(trial.state.name == "RUNNING")


def _format_ended(trial: Any) -> str:
    row = make_row(trial)
    objective = f"**{row.objective}**, " if row.objective else ""
    gib = f", {peak} GiB" if (peak := row.measured_gib or row.planned_gib) else ""
    elapsed = f", {row.elapsed}" if row.elapsed else ""
    return f"{_name(row)}: {objective}{row.state}{gib}{elapsed}"


def _name(row: TrialRow) -> str:
    return f"trial {row.number}, {row.params}"
