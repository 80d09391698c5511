"""The files in a trial's folder, written whole or not at all, so that they outlive the sweeper.

`trial.json` says which trial of which study it is (TrialSpec), `progress.json` how far it is, and
`outcome.json`, at its end, how it ended (TrialOutcome).
"""

import json
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from medexp.system.files import write_json_atomic


class Ending(Enum):
    """How a trial ended."""

    done = "done"
    # By the pruner, while it trained.
    pruned = "pruned"
    # At a rung, for better trials to go on first; a later trial may continue it from there.
    paused = "paused"
    # It needed more than the ceiling although its plan fitted.
    vram = "vram"
    diverged = "diverged"
    input = "input"
    crashed = "crashed"
    timeout = "timeout"
    # Planned and never started.
    infeasible = "infeasible"
    # The same point as an earlier trial, whose values it has; no process was started.
    copied = "copied"
    # By Ctrl-C; a later trial continues it.
    stopped = "stopped"
    # It and its sweeper were killed; a later trial continues it.
    died = "died"
    # One too many: two sweepers asked for the last one, or another is trying the same point.
    surplus = "surplus"

    @property
    def counts(self) -> bool:
        """Does it use up one of the trials that were asked for?

        A paused trial does until another continues it, which is for the study to say.
        """
        return self in _COUNTED

    @property
    def is_failure(self) -> bool:
        """Does it count towards max_failure_rate?"""
        return self in _FAILURES


_FAILURES = (Ending.diverged, Ending.input, Ending.crashed, Ending.timeout)
_COUNTED = (Ending.done, Ending.pruned, Ending.vram, *_FAILURES)
# A point that ended in one of these ways needs no second try to be known.
TRIED = (*_COUNTED, Ending.paused, Ending.infeasible)


@dataclass(frozen=True)
class TrialOutcome:
    """How a trial ended, why, and the last value of everything it logged."""

    ending: Ending
    why: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    run_id: str | None = None
    elapsed_s: float = 0.0

    def write(self, folder: Path) -> None:
        """Write it to `folder`/outcome.json."""
        fields = asdict(self) | {"ending": self.ending.value}
        write_json_atomic(folder / "outcome.json", fields, private=True)


@dataclass(frozen=True)
class TrialSpec:
    """Which trial of which study a process runs.

    `reports`: does it report its held-out losses to the study while it trains? `parent_pid` is set
    where the trial must not outlive the sweeper. `chooses` is False where the sweep repeats one
    recipe with other seeds: it judges what was chosen before.
    """

    study_name: str
    storage: str
    trial_id: int
    number: int
    name: str
    pruner: dict[str, Any] | None
    reports: bool
    tags: dict[str, str]
    parent_pid: int | None = None
    chooses: bool = True

    def write(self, folder: Path) -> None:
        """Write it to `folder`/trial.json.

        Only this user may read the file, because the URL of a storage may hold a password.
        """
        folder.mkdir(parents=True, exist_ok=True)
        write_json_atomic(folder / "trial.json", asdict(self), private=True)


def read_outcome(folder: Path) -> TrialOutcome | None:
    """Return the outcome in `folder`, None while its trial has left none."""
    fields = read_json_object(folder / "outcome.json")
    return TrialOutcome(**(fields | {"ending": Ending(fields["ending"])})) if fields else None


def read_trial_spec(folder: Path) -> TrialSpec | None:
    """Return the spec in `folder`, None where it is not the folder of a trial."""
    fields = read_json_object(folder / "trial.json")
    return TrialSpec(**fields) if fields else None


def read_json_object(file: Path) -> dict[str, Any] | None:
    """Return the JSON object in `file`, None where there is none or it cannot be read."""
    try:
        fields: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return fields
