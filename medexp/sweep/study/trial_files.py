"""What became of a trial, as a file in its folder: written whole or not at all, so that it outlives
whoever waited for it.

A trial's folder holds `trial.json` (which trial of which study it is: `TrialSpec`), `progress.json`
(how far it is) and, at its end, `outcome.json`.
"""

import json
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from medexp.system.files import write_json


class Ending(Enum):
    """How a trial ended. Which of them use up the budget of trials, and which count as failures, is
    said below.
    """

    done = "done"
    pruned = "pruned"  # by the pruner, while it trained
    vram = "vram"  # needed more than the ceiling although the plan fitted
    diverged = "diverged"
    input = "input"
    crashed = "crashed"
    timeout = "timeout"
    infeasible = "infeasible"  # planned, never started
    copied = "copied"  # the same point as an earlier trial: what that came to, no process
    stopped = "stopped"  # Ctrl-C; goes on in a later trial
    died = "died"  # its sweeper and it were killed; goes on in a later trial
    # asked for by two sweepers at once, or a point that another is just trying; one too many
    surplus = "surplus"

    @property
    def counts(self) -> bool:
        """Does it use up one of the trials that were asked for?"""
        return self in _COUNTED

    @property
    def is_failure(self) -> bool:
        """Does it count towards max_failure_rate?"""
        return self in _FAILURES


_FAILURES = (Ending.diverged, Ending.input, Ending.crashed, Ending.timeout)
_COUNTED = (Ending.done, Ending.pruned, Ending.vram, *_FAILURES)
TRIED = (*_COUNTED, Ending.infeasible)  # what is known of a point then stays known


@dataclass(frozen=True)
class TrialOutcome:
    """How a trial ended, why, and the last value of everything it logged."""

    ending: Ending
    why: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    run_id: str | None = None
    elapsed_s: float = 0.0

    def write(self, folder: Path) -> None:
        """Keep it as `folder`/outcome.json."""
        write_json(
            folder / "outcome.json", asdict(self) | {"ending": self.ending.value}, private=True
        )


@dataclass(frozen=True)
class TrialSpec:
    """Which trial of which study a process is. `parent_pid` is set where the trial must not outlive
    the sweeper.
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

    def write(self, folder: Path) -> None:
        """Keep it as `folder`/trial.json, for this user's eyes only: a storage may hold a password."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "trial.json", asdict(self), private=True)


def read_outcome(folder: Path) -> TrialOutcome | None:
    """The outcome kept in `folder`, if its trial has come to one."""
    found = read_json_object(folder / "outcome.json")
    return TrialOutcome(**(found | {"ending": Ending(found["ending"])})) if found else None


def read_trial_spec(folder: Path) -> TrialSpec | None:
    """The spec in `folder`, if it is a trial's."""
    found = read_json_object(folder / "trial.json")
    return TrialSpec(**found) if found else None


def read_json_object(file: Path) -> dict[str, Any] | None:
    """The JSON object in `file`; None where there is none."""
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found
