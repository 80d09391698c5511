"""The live table of a sweep: every trial that was started, those under way, and how long the rest
will take.

On a terminal it redraws in place; elsewhere every finished trial is a line.
"""

import time
from collections.abc import Mapping
from typing import Any

from rich.live import Live
from rich.table import Table
from rich.text import Text

from medexp.sweep.search.labels import format_params
from medexp.sweep.study.history import ELAPSED, MEASURED, PLANNED, WHY, ending_of
from medexp.sweep.study.study import Study
from medexp.sweep.study.trial_files import Ending, read_json_object
from medexp.system.console import Screen
from medexp.system.units import GIB, duration

COLUMNS = ("trial", "parameters", "GiB planned", "measured", "objective", "state", "time")
MAX_ROWS = 20
_UNSTARTED = (Ending.infeasible, Ending.copied, Ending.surplus)


class LiveTable:
    """What a person sees while trials run."""

    def __init__(self, show: Screen, study: Study):
        self._show, self._study = show, study
        self._live = (
            Live(console=show.log, auto_refresh=False, transient=True)
            if show.log.is_terminal
            else None
        )
        self._told: set[int] = set()
        self._began: dict[int, float] = {}
        self._next_look = 0.0

    def __enter__(self) -> "Board":
        self._told = {each.number for each in self._study.trials() if each.state.is_finished()}
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.refresh({}, at_once=True)
        if self._live:
            self._live.stop()

    def refresh(self, in_flight: Mapping[int, Any], at_once: bool = False) -> None:
        """Show where things stand; looks at the study once a second."""
        if not at_once and time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + 1.0
        for number in dict(in_flight):
            self._begin(number)
        trials = self._study.trials()
        if self._live:
            self._live.update(self._table(trials), refresh=True)
        else:
            self._lines(trials)

    def _begin(self, number: int) -> None:
        self._began.setdefault(number, time.monotonic())

    def _lines(self, trials: list[Any]) -> None:
        for each in trials:
            if each.state.is_finished() and each.number not in self._told:
                self._told.add(each.number)
                if ending_of(each) not in _UNSTARTED:
                    trial, what, planned, measured, value, state, took = make_row(each)
                    memory = f"  {measured or planned} GiB" if measured or planned else ""
                    self._show.say(
                        f"  trial {trial}  {what}  {value or '-'}{memory}  {state} "
                        f" {took}{self._left(trials)}"
                    )

    def _table(self, trials: list[Any]) -> Table:
        done = self._study.count_done()
        title = (
            f"{self._study.name}: {done} of {self._study.options.n_trials}"
            f" trials{self._left(trials)}"
        )
        table = Table(title=Text(title), title_justify="left")
        for column in COLUMNS:
            table.add_column(column, overflow="fold")
        started = [each for each in trials if ending_of(each) not in _UNSTARTED]
        for each in started[-MAX_ROWS:]:
            cells = make_row(each)
            if not each.state.is_finished() and each.number in self._began:
                cells = (
                    *cells[:-2],
                    self._progress(each),
                    duration(time.monotonic() - self._began[each.number]),
                )
            table.add_row(*map(Text, cells))
        never = sum(ending_of(each) is Ending.infeasible for each in trials)
        table.caption = f"{never} proposals could not fit and were not started" if never else None
        return table

    def _progress(self, trial: Any) -> str:
        folder = self._study.folder_of(trial)
        found = read_json_object(folder / "progress.json") if folder else None
        return f"step {found['step']}/{found['steps']}" if found else "starting"

    def _left(self, trials: list[Any]) -> str:
        took = [
            each.user_attrs[ELAPSED]
            for each in trials
            if each.user_attrs.get(ELAPSED) and ending_of(each) not in _UNSTARTED
        ]
        left = self._study.options.n_trials - self._study.count_done()
        if not took or left <= 0:
            return ""
        return f", {duration(sum(took) / len(took) * left / self._study.options.n_jobs)} to go"


def make_row(trial: Any) -> tuple[str, ...]:
    """The cells of a trial under COLUMNS."""
    ending, attrs = ending_of(trial), trial.user_attrs
    values = trial.values if ending in (Ending.done, Ending.copied) else None
    said = (
        f"{ending.value}: {attrs[WHY][:80]}"
        if ending and ending not in (Ending.done, Ending.pruned) and attrs.get(WHY)
        else ""
    )
    return (
        str(trial.number),
        format_params(trial.params),
        _format_gib(attrs.get(PLANNED)),
        _format_gib(attrs.get(MEASURED)),
        " ".join(f"{value:.4f}" for value in values) if values else _format_last_report(trial),
        said or (ending.value if ending else trial.state.name.lower()),
        duration(attrs[ELAPSED]) if attrs.get(ELAPSED) else "",
    )


def _format_last_report(trial: Any) -> str:
    reports = trial.intermediate_values
    return f"{reports[max(reports)]:.4f} at {max(reports)}" if reports else ""


def _format_gib(num_bytes: float | None) -> str:
    return f"{num_bytes / GIB:.2f}" if num_bytes else ""
