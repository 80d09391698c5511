"""What unfinished runs have left: how much it is, how old, and its removal, which only the user
asks for.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from medexp.config.schema import Tracking
from medexp.errors import OutputError
from medexp.system.units import GIB
from medexp.tracking import queries
from medexp.training.resume import ResumableRun, iterate_abandoned_runs, unfinished_runs_dir

# What is older or more than this is mentioned after a run.
MENTIONED_DAYS, MENTIONED_BYTES = 14, 2 * GIB
DAY_S = 86400


@dataclass(frozen=True)
class Leftover:
    """An unfinished run that no process is working on."""

    name: str
    checkpoint: str
    mlflow_run_id: str
    num_bytes: int
    untouched_s: float

    @property
    def days(self) -> float:
        """For how many days it has not been touched."""
        return self.untouched_s / DAY_S

    def row(self) -> tuple[str, ...]:
        """Return its cells of a table."""
        size, age = f"{self.num_bytes / GIB:.2f}", _format_days(self.days)
        return self.name, self.checkpoint, self.mlflow_run_id, size, age


def list_leftovers(tracking: Tracking) -> list[Leftover]:
    """Return every unfinished run of the store that no process is working on, oldest first."""
    abandoned = iterate_abandoned_runs(unfinished_runs_dir(tracking))
    leftovers = map(_measure_leftover, abandoned)
    return sorted(leftovers, key=lambda leftover: -leftover.untouched_s)


def summarise_leftovers(tracking: Tracking) -> str | None:
    """Return what is said of them after a run; None where they are small and young."""
    try:
        leftovers = list_leftovers(tracking)
    # A folder cannot be written. The run itself is done, and nothing is said of the others.
    except OutputError:
        return None
    num_bytes = sum(leftover.num_bytes for leftover in leftovers)
    if not leftovers or (leftovers[0].days <= MENTIONED_DAYS and num_bytes <= MENTIONED_BYTES):
        return None
    amount, age = (
        f"{count_runs(leftovers)}, {total_gib(leftovers)}",
        _format_days(leftovers[0].days),
    )
    return (
        f"{unfinished_runs_dir(tracking)} holds {amount}, untouched for up to {age}: "
        "the commands that began them continue them, python -m medexp.clean lists and removes them"
    )


def remove_leftovers(tracking: Tracking, days: float) -> list[Leftover]:
    """Remove those that have not been touched for `days`, and return them. Their MLflow runs stay,
    marked KILLED where they still count as running.
    """
    old = [leftover for leftover in list_leftovers(tracking) if leftover.days >= days]
    run_ids = [leftover.mlflow_run_id for leftover in old if leftover.mlflow_run_id]
    queries.mark_runs_killed(tracking, run_ids)
    names = {leftover.name for leftover in old}
    for run in iterate_abandoned_runs(unfinished_runs_dir(tracking)):
        # Measured again: a command may have continued it meanwhile, and stopped.
        if run.folder.name in names and _measure_leftover(run).days >= days:
            run.finish()
    return old


def count_runs(leftovers: Sequence[Leftover]) -> str:
    """Return how many they are, in words."""
    return f"{len(leftovers)} unfinished run{'' if len(leftovers) == 1 else 's'}"


def total_gib(leftovers: Sequence[Leftover]) -> str:
    """Return how much they hold, in words."""
    return f"{sum(leftover.num_bytes for leftover in leftovers) / GIB:.2f} GiB"


def _measure_leftover(run: ResumableRun) -> Leftover:
    num_bytes, touched_at = 0, 0.0
    for file in (run.folder, *run.folder.rglob("*")):
        # A file may go between being listed and being looked at.
        with suppress(OSError):
            status = file.stat()
            num_bytes += 0 if file.is_dir() else status.st_size
            touched_at = max(touched_at, status.st_mtime)
    checkpoint = run.find_last_checkpoint()
    return Leftover(
        run.folder.name,
        checkpoint=checkpoint.name if checkpoint else "none",
        mlflow_run_id=run.mlflow_run_id or "",
        num_bytes=num_bytes,
        untouched_s=max(0.0, time.time() - touched_at),
    )


def _format_days(days: float) -> str:
    return "less than a day" if days < 1 else f"{days:.0f} day{'' if round(days) == 1 else 's'}"
