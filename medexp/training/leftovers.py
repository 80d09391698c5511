"""What unfinished runs have left: how much it is, how old, and its removal, which nobody but the
user asks for."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from medexp.config.schema import Tracking
from medexp.errors import OutputError
from medexp.system.units import GIB
from medexp.tracking import queries as kept_runs
from medexp.training.resume import ResumableRun, iterate_abandoned_runs, unfinished_runs_dir

MENTIONED_DAYS, MENTIONED_BYTES = 14, 2 * GIB  # older or more than this is said after a run
DAY_S = 86400


@dataclass(frozen=True)
class Leftover:
    """An unfinished run that no process is at work on."""

    name: str
    checkpoint: str
    mlflow_run_id: str
    num_bytes: int
    untouched_s: float

    @property
    def days(self) -> float:
        """For how long nobody has touched it."""
        return self.untouched_s / DAY_S

    def row(self) -> tuple[str, ...]:
        """It as cells of a table."""
        size, age = f"{self.num_bytes / GIB:.2f}", _format_days(self.days)
        return self.name, self.checkpoint, self.mlflow_run_id, size, age


def list_leftovers(tracking: Tracking) -> list[Leftover]:
    """Every unfinished run of the store of `tracking` that no process is at work on, oldest first."""
    left = map(_measure_leftover, iterate_abandoned_runs(unfinished_runs_dir(tracking)))
    return sorted(left, key=lambda each: -each.untouched_s)


def summarise_leftovers(tracking: Tracking) -> str | None:
    """What is said of them after a run: None where it is little and young."""
    try:
        left = list_leftovers(tracking)
    except OutputError:  # a folder that cannot be written: the run itself is done
        return None
    total = sum(each.num_bytes for each in left)
    if not left or (left[0].days <= MENTIONED_DAYS and total <= MENTIONED_BYTES):
        return None
    much, age = f"{count_runs(left)}, {total_gib(left)}", _format_days(left[0].days)
    return (
        f"{unfinished_runs_dir(tracking)} holds {much}, untouched for up to {age}: "
        "the commands that began them continue them, python -m medexp.clean lists and removes them"
    )


def remove_leftovers(tracking: Tracking, days: float) -> list[Leftover]:
    """Remove those that nobody has touched for `days`; returns them. Their MLflow runs stay, marked
    KILLED where they still count as running."""
    old = [each for each in list_leftovers(tracking) if each.days >= days]
    kept_runs.mark_runs_killed(tracking, [each.mlflow_run_id for each in old if each.mlflow_run_id])
    names = {each.name for each in old}
    for workspace in iterate_abandoned_runs(unfinished_runs_dir(tracking)):
        # Measured again: a command may have taken it up and let it go meanwhile.
        if workspace.folder.name in names and _measure_leftover(workspace).days >= days:
            workspace.finish()
    return old


def count_runs(left: Sequence[Leftover]) -> str:
    """How many they are."""
    return f"{len(left)} unfinished run{'' if len(left) == 1 else 's'}"


def total_gib(left: Sequence[Leftover]) -> str:
    """How much they hold."""
    return f"{sum(each.num_bytes for each in left) / GIB:.2f} GiB"


def _measure_leftover(workspace: ResumableRun) -> Leftover:
    num_bytes, touched = 0, 0.0
    for file in (workspace.folder, *workspace.folder.rglob("*")):
        with suppress(OSError):  # gone meanwhile
            status = file.stat()
            num_bytes += 0 if file.is_dir() else status.st_size
            touched = max(touched, status.st_mtime)
    last = workspace.last_checkpoint()
    return Leftover(
        workspace.folder.name,
        checkpoint=last.name if last else "none",
        mlflow_run_id=workspace.mlflow_run_id or "",
        num_bytes=num_bytes,
        untouched_s=max(0.0, time.time() - touched),
    )


def _format_days(days: float) -> str:
    return "less than a day" if days < 1 else f"{days:.0f} day{'' if round(days) == 1 else 's'}"
