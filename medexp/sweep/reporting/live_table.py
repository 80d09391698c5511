"""The live table of a sweep: every trial that was started, those that run, and how long the rest
will take.

On a terminal it is redrawn in place; elsewhere every finished trial is a line.
"""

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from rich.live import Live
from rich.table import Table
from rich.text import Text

from medexp.sweep.reporting.progress import (
    UNSTARTED,
    describe_step,
    estimate_left_s,
    format_progress,
)
from medexp.sweep.search.labels import format_params
from medexp.sweep.study.history import (
    ELAPSED,
    MEASURED,
    PLANNED,
    PLANNED_S,
    STEPS,
    WARM,
    WHY,
    StudyHistory,
    ending_of,
    is_from_other_study,
    values_of,
)
from medexp.sweep.study.trial_files import Ending
from medexp.system.console import Console
from medexp.system.units import GIB, format_duration

COLUMNS = (
    "trial",
    "parameters",
    "GiB planned",
    "measured",
    "objective",
    "state",
    "steps",
    "time planned",
    "time",
)
MAX_ROWS = 20
MAX_WHY_CHARACTERS = 80
REFRESH_S = 1.0


class TrialRow(NamedTuple):
    """The cells of a trial, one for each of COLUMNS."""

    number: str
    params: str
    planned_gib: str
    measured_gib: str
    objective: str
    state: str
    steps: str
    planned: str
    elapsed: str


class LiveTable:
    """What a person sees while trials run."""

    def __init__(self, console: Console, study: StudyHistory):
        self._console = console
        self._study = study
        log = console.log
        self._live = (
            Live(console=log, auto_refresh=False, transient=True) if log.is_terminal else None
        )
        self._printed: set[int] = set()
        self._started_at: dict[int, float] = {}
        self._next_refresh_at = 0.0

    def __enter__(self) -> "LiveTable":
        # Trials of earlier commands are not printed again.
        self._printed = {
            trial.number for trial in self._study.trials() if trial.state.is_finished()
        }
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.refresh({}, at_once=True)
        if self._live:
            self._live.stop()

    def refresh(self, in_flight: Mapping[int, Any], at_once: bool = False) -> None:
        """Show the trials as they are now; reads the study at most once in REFRESH_S."""
        if not at_once and time.monotonic() < self._next_refresh_at:
            return
        self._next_refresh_at = time.monotonic() + REFRESH_S
        # A copy, because worker threads add trials and remove them meanwhile.
        for number in dict(in_flight):
            self._started_at.setdefault(number, time.monotonic())
        trials = self._study.trials()
        if self._live:
            self._live.update(self._make_table(trials), refresh=True)
        else:
            self._print_finished(trials)

    def _print_finished(self, trials: list[Any]) -> None:
        for trial in trials:
            if not trial.state.is_finished() or trial.number in self._printed:
                continue
            self._printed.add(trial.number)
            if ending_of(trial) in UNSTARTED:
                continue
            left_s = estimate_left_s(self._study, trials)
            to_go = "" if left_s is None else f", {format_duration(left_s)} to go"
            row = make_row(trial)
            peak_gib = row.measured_gib or row.planned_gib
            memory = f"  {peak_gib} GiB" if peak_gib else ""
            steps = f", {row.steps} steps" if row.steps else ""
            planned = f" (planned {row.planned})" if row.planned else ""
            self._console.info(
                f"  trial {row.number}  {row.params}  {row.objective or '-'}{memory}  {row.state} "
                f" {row.elapsed}{planned}{steps}{to_go}"
            )

    def _make_table(self, trials: list[Any]) -> Table:
        title = f"{self._study.name}: {format_progress(self._study, trials)}"
        table = Table(title=Text(title), title_justify="left")
        for column in COLUMNS:
            table.add_column(column, overflow="fold")
        started = [trial for trial in trials if ending_of(trial) not in UNSTARTED]
        for trial in started[-MAX_ROWS:]:
            row = make_row(trial)
            if not trial.state.is_finished() and trial.number in self._started_at:
                running_s = time.monotonic() - self._started_at[trial.number]
                row = row._replace(
                    state=describe_step(self._study, trial), elapsed=format_duration(running_s)
                )
            table.add_row(*map(Text, row))
        refused = sum(ending_of(trial) is Ending.infeasible for trial in trials)
        if refused:
            table.caption = f"{refused} proposals could not fit and were not started"
        return table


def make_row(trial: Any) -> TrialRow:
    """Return the cells of `trial`, empty where nothing is known yet."""
    ending, attrs = ending_of(trial), trial.user_attrs
    has_values = ending in (Ending.done, Ending.copied)
    values = " ".join(f"{value:.4f}" for value in values_of(trial)) if has_values else ""
    state = ending.value if ending else trial.state.name.lower()
    if ending and ending not in (Ending.done, Ending.pruned) and attrs.get(WHY):
        state = f"{state}: {attrs[WHY][:MAX_WHY_CHARACTERS]}"
    if is_from_other_study(trial):
        state = f"{state}, of {attrs[WARM]}"
    return TrialRow(
        number=str(trial.number),
        params=format_params(trial.params),
        planned_gib=_format_gib(attrs.get(PLANNED)),
        measured_gib=_format_gib(attrs.get(MEASURED)),
        objective=values or _format_last_report(trial),
        state=state,
        steps=str(attrs.get(STEPS, "")),
        planned=format_duration(attrs[PLANNED_S]) if attrs.get(PLANNED_S) else "",
        elapsed=format_duration(attrs[ELAPSED]) if attrs.get(ELAPSED) else "",
    )


def _format_last_report(trial: Any) -> str:
    """Return the last reported loss and its step, "" where none was reported."""
    reports = trial.intermediate_values
    return f"{reports[max(reports)]:.4f} at {max(reports)}" if reports else ""


def _format_gib(num_bytes: float | None) -> str:
    return f"{num_bytes / GIB:.2f}" if num_bytes else ""
