"""A training process's part in a study: it says how far it is, hears whether it is worth going on,
and leaves its outcome.

Found through `trial.json` in the run's output folder, whatever launcher started the process.
Refuses to know how trials are chosen.
"""

import atexit
import ctypes
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from medexp.errors import MedexpError, RunInterrupted, TrialPruned
from medexp.sweep.study.trial_files import Ending, TrialOutcome, TrialSpec, read_trial_spec
from medexp.system.files import write_json
from medexp.system.stopping import hear_ctrl_c

_PR_SET_PDEATHSIG = 1
_log = logging.getLogger(__name__)


class TrialContext:
    """This process's trial."""

    def __init__(self, spec: TrialSpec, folder: Path):
        self.spec, self._folder = spec, folder
        self._began = time.perf_counter()
        self._optuna_trial: Any = None
        self.is_finished = False

    @property
    def name(self) -> str:
        """The name of this trial's MLflow run."""
        return self.spec.name

    @property
    def tags(self) -> Mapping[str, str]:
        """What this trial's MLflow run is tagged with."""
        return self.spec.tags

    def stepped(self, step: int, steps: int) -> None:
        """Write to `progress.json` that training has done `step` of `steps`."""
        with suppress(OSError):  # only the table would miss it
            write_json(
                self._folder / "progress.json",
                {"step": step, "steps": steps},
                private=True,
                durable=False,
            )

    def report(self, step: int, loss: float) -> None:
        """Hand the held-out loss after `step` to the study.

        Raises: TrialPruned when the study's pruner sees no point in going on.
        """
        if not self.spec.reports:
            return
        try:
            trial = self._trial()
            trial.report(loss, step)
            is_hopeless = trial.should_prune()
        except Exception:  # a storage that is away for a moment is no reason to lose a run
            _log.exception("the study's storage did not take the loss of step %s", step)
            return
        if is_hopeless:
            raise TrialPruned(
                f"pruned: held-out loss {loss:.4f} after step {step} is behind the other trials"
            )

    def finished(self, metrics: Mapping[str, float], run_id: str) -> None:
        """Leave the outcome of a run that came to its end."""
        self._leave(TrialOutcome(Ending.done, "", dict(metrics), run_id, self._elapsed_s()))
        if self.spec.parent_pid is not None:
            atexit.register(
                _exit_without_teardown
            )  # the last one registered is the first to be called

    def failed(self, error: BaseException) -> None:
        """Leave the outcome of a run that did not."""
        self._leave(
            TrialOutcome(
                _ending_of_error(error),
                str(error) or type(error).__name__,
                {},
                None,
                self._elapsed_s(),
            )
        )

    def _leave(self, outcome: TrialOutcome) -> None:
        outcome.write(self._folder)
        self.is_finished = True

    def _elapsed_s(self) -> float:
        return time.perf_counter() - self._began

    def _trial(self) -> Any:
        if self._optuna_trial is None:
            import optuna

            from medexp.sweep.study import storage
            from medexp.sweep.study.optuna_factory import make_pruner

            spec = self.spec
            study = optuna.load_study(
                study_name=spec.study_name,
                storage=storage.connect(spec.storage),
                sampler=optuna.samplers.RandomSampler(),
                pruner=make_pruner(spec.pruner),
            )
            self._optuna_trial = optuna.trial.Trial(study, spec.trial_id)
        return self._optuna_trial


@contextmanager
def open_trial(folder: Path) -> Iterator[TrialContext | None]:
    """The trial that `folder` belongs to, None for a run of its own; however it ends, its outcome
    is left there.
    """
    spec = read_trial_spec(folder)
    if spec is None:
        yield None
        return
    trial = TrialContext(spec, folder)
    _terminate_with_parent(spec.parent_pid)
    try:
        yield trial
    except BaseException as error:
        with suppress(OSError):  # on a full disk the exit status has to do
            trial.failed(error)
        raise


def _exit_without_teardown() -> None:
    """Python takes seconds to take the training stack apart, and all that is to be kept is on disk:
    the next trial waits for it.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _ending_of_error(error: BaseException) -> Ending:
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return Ending.stopped
    reason = error.reason if isinstance(error, MedexpError) else ""
    return Ending(reason) if reason in {ending.value for ending in Ending} else Ending.crashed


def _terminate_with_parent(parent_pid: int | None) -> None:
    """Have the system send SIGTERM when the sweeper dies: the step under way is finished and kept,
    and the card is free again.
    """
    if parent_pid is None:
        return
    hear_ctrl_c()  # the sweeper sends it: this process has a session of its own
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent_pid:  # it died before this line
        raise RunInterrupted("the sweeper is gone; the same sweep continues", signal.SIGTERM)
