"""Every error medexp raises on purpose.

    MedexpError                 anything below; `exit_code` is what the command ends with
    ├── BadInput                2   refused before anything heavy was loaded; one sentence a problem
    │   ├── ConfigError             a key, value or combination of the composed config
    │   ├── DataError               a file, a record, or too few cases
    │   ├── ModelError              weights that are missing, unreachable, or not of the declared shape
    │   ├── MachineError            the hardware preset asks for what this machine has not
    │   │   └── HostMemoryError         less host memory can be pinned than was planned for
    │   ├── RunError                a run or adapter that is not there, or holds not what it should
    │   ├── OutputError             a folder that cannot be written, a disk that is full
    │   └── VramPlanError           no plan fits under hardware.vram_ceiling_gib
    ├── VramCeilingError        3   the run needed more than hardware.vram_ceiling_gib
    ├── TrainingDiverged        4   the loss stopped being a number
    ├── TrialPruned             5   a sweep's pruner saw no point in going on
    ├── SweepFailed             6   more trials failed than hydra.sweeper.max_failure_rate allows, or nothing can fit
    └── RunInterrupted        130   Ctrl-C, or 143 on SIGTERM; what was done is kept

A message says what was asked, what is allowed, where it is set and what to do.
"""

import difflib
from collections.abc import Iterable, Sequence


class MedexpError(Exception):
    """The root of the tree above. `reason` is the word a failed run is filed under."""

    exit_code = 1
    reason = "error"


class BadInput(MedexpError):
    """Something the user can put right. Carries every problem found, one sentence each."""

    exit_code = 2
    reason = "input"

    def __init__(self, problems: str | Sequence[str]):
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class ConfigError(BadInput):
    """A key, value or combination of the composed config."""


class DataError(BadInput):
    """A file, a record, or too few cases."""


class ModelError(BadInput):
    """Weights that are missing, unreachable, or not of the declared shape."""


class MachineError(BadInput):
    """The hardware preset asks for what this machine has not."""


class HostMemoryError(MachineError):
    """Less host memory can be pinned than was planned for."""


class RunError(BadInput):
    """A run or adapter that is not there, or holds not what it should."""


class OutputError(BadInput):
    """A folder that cannot be written, or a disk that is full."""


class VramPlanError(BadInput):
    """No plan fits under `hardware.vram_ceiling_gib`; `would_fit` holds the nearest values that do, by key."""

    def __init__(self, problem: str, would_fit: dict[str, int]):
        self.would_fit = would_fit
        super().__init__(problem)


class VramCeilingError(MedexpError):
    """The run needed more than `hardware.vram_ceiling_gib`; `phase` is what it was doing."""

    exit_code = 3
    reason = "vram"

    def __init__(self, message: str, phase: str = ""):
        self.phase = phase
        super().__init__(message)


class TrainingDiverged(MedexpError):
    """The loss stopped being a number."""

    exit_code = 4
    reason = "diverged"


class TrialPruned(MedexpError):
    """A sweep's pruner saw no point in going on."""

    exit_code = 5
    reason = "pruned"


class SweepFailed(MedexpError):
    """More trials failed than hydra.sweeper.max_failure_rate allows, or no point of the space can fit."""

    exit_code = 6
    reason = "sweep"


class RunInterrupted(MedexpError):
    """Stopped from outside; `exit_code` follows the shell's 128 + signal."""

    reason = "stopped"

    def __init__(self, message: str, signal_number: int):
        self.exit_code = 128 + signal_number
        super().__init__(message)


def first_line(error: BaseException) -> str:
    """The first line of what `error` says without its full stop; the name of its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def nearest(word: str, known: Iterable[str]) -> str:
    """ "; did you mean X?" with the name of `known` nearest to `word`, or nothing when none is near."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def listing(names: Iterable[str]) -> str:
    """`names` in order, separated by commas, for the "allowed" part of a message."""
    return ", ".join(names) or "none"
