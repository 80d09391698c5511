"""Every error medexp raises on purpose.

    MedexpError                 anything below; `exit_code` is what the command ends with
    ├── BadInput                2   refused before anything heavy was loaded; one sentence a problem
    │   ├── ConfigError             a key, value or combination of the composed config
    │   ├── DataError               a file, a record, or too few cases
    │   ├── ModelError              weights that are missing, unreachable, or not of its shape
    │   ├── MachineError            the hardware preset asks for what this machine does not have
    │   │   └── HostMemoryError         activations cannot wait in host memory as was planned
    │   ├── RunError                a run or adapter that is not there, or has unexpected contents
    │   ├── OutputError             a folder that cannot be written, a disk that is full
    │   └── VramPlanError           no plan fits under hardware.vram_ceiling_gib
    ├── VramCeilingError        3   the run needed more than hardware.vram_ceiling_gib
    ├── TrainingDiverged        4   the loss stopped being a number
    ├── TrialPruned             5   a sweep's pruner saw no point in going on
    ├── SweepFailed             6   more trials failed than max_failure_rate allows, or nothing fits
    ├── TrialPaused             7   a sweep goes on with better trials first; the checkpoint is kept
    └── RunInterrupted        130   Ctrl-C, or 143 on SIGTERM; what was done is kept

A message says what was asked, what is allowed, where it is set and what to do.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence


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
    """The hardware preset asks for what this machine does not have."""


class HostMemoryError(MachineError):
    """Activations cannot wait in host memory as was planned; `why` says it in a few words."""

    def __init__(self, problem: str, why: str = "the system cannot pin more host memory"):
        self.why = why
        super().__init__(problem)


class RunError(BadInput):
    """A run or adapter that is not there, or has unexpected contents."""


class OutputError(BadInput):
    """A folder that cannot be written, or a disk that is full."""


class VramPlanError(BadInput):
    """No plan fits under `hardware.vram_ceiling_gib`; `would_fit` holds the nearest values that do,
    by key.
    """

    def __init__(self, problem: str, would_fit: Mapping[str, int | str]):
        self.would_fit = would_fit
        super().__init__(problem)


class VramCeilingError(MedexpError):
    """The run needed more than `hardware.vram_ceiling_gib`: what it was doing, in words, the
    `planning.memory_terms.Phase` that this belongs to, by its value, where that is known, and
    whether plans that take less were tried, and none is left."""

    exit_code = 3
    reason = "vram"

    def __init__(
        self,
        message: str,
        doing: str = "",
        phase: str | None = None,
        nothing_safer: bool = False,
    ):
        self.doing, self.phase, self.nothing_safer = doing, phase, nothing_safer
        super().__init__(message)


class TrainingDiverged(MedexpError):
    """The loss stopped being a number."""

    exit_code = 4
    reason = "diverged"


class TrialPruned(MedexpError):
    """A sweep's pruner saw no point in going on."""

    exit_code = 5
    reason = "pruned"


class TrialPaused(MedexpError):
    """A sweep goes on with better trials first; the same run continues from its checkpoint."""

    exit_code = 7
    reason = "paused"


class SweepFailed(MedexpError):
    """More trials failed than hydra.sweeper.max_failure_rate allows, or no point of the space can
    fit.
    """

    exit_code = 6
    reason = "sweep"


class RunInterrupted(MedexpError):
    """Stopped from outside; `exit_code` follows the shell's 128 + signal."""

    reason = "stopped"

    def __init__(self, message: str, signal_number: int):
        self.exit_code = 128 + signal_number
        super().__init__(message)


def first_line(error: BaseException) -> str:
    """The first line of what `error` says without its full stop; the name of its type where it says
    nothing.
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def closest(word: str, known: Iterable[str]) -> str | None:
    """The name of `known` nearest to `word`, None when none is near."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)), None)


def suggestion(name: str | None) -> str:
    """ "; did you mean `name`?", or nothing without one."""
    return f"; did you mean {name}?" if name is not None else ""


def nearest(word: str, known: Iterable[str]) -> str:
    """The suggestion of what is closest to `word`, or nothing."""
    return suggestion(closest(word, known))


def listing(names: Iterable[str]) -> str:
    """`names` in order, separated by commas, for the "allowed" part of a message."""
    return ", ".join(names) or "none"
