"""A training process as a trial: it reports how far it is, hears whether to go on, and leaves its
outcome.

It learns from `trial.json` in the run's output folder that it is a trial, whatever launcher started
it. How trials are chosen is no concern of this module.
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

from medexp.errors import MedexpError, RunInterrupted, TrialPaused, TrialPruned
from medexp.sweep.study.optuna_factory import make_pruner, pauses
from medexp.sweep.study.trial_files import Ending, TrialOutcome, TrialSpec, read_trial_spec
from medexp.sweep.workers.warm_process import terminate_with_parent
from medexp.system.files import write_json_atomic
from medexp.system.stopping import hear_ctrl_c

# prctl(2): the signal that this process gets when its parent dies.
_PR_SET_PDEATHSIG = 1
_log = logging.getLogger(__name__)


class TrialContext:
    """The trial that this process runs. `training.context.TrialReporter` is what training sees."""

    def __init__(self, spec: TrialSpec, folder: Path):
        self.spec = spec
        self._folder = folder
        self._started_at = time.perf_counter()
        self._optuna_trial: Any = None

    @property
    def name(self) -> str:
        """The name of the trial's MLflow run."""
        return self.spec.name

    @property
    def tags(self) -> Mapping[str, str]:
        """The tags of the trial's MLflow run."""
        return self.spec.tags

    @property
    def chooses(self) -> bool:
        """Whether the sweep chooses by this trial, which is then measured on validation cases."""
        return self.spec.chooses

    def report_progress(self, step: int, steps: int) -> None:
        """Write to progress.json that `step` of `steps` are done."""
        # Only the sweep's live table reads it, so a full disk is no reason to fail here.
        with suppress(OSError):
            progress = {"step": step, "steps": steps}
            write_json_atomic(self._folder / "progress.json", progress, private=True, durable=False)

    def report(self, step: int, loss: float) -> None:
        """Report the held-out loss after `step` to the study.

        Raises: TrialPruned when the study's pruner sees no point in going on; TrialPaused when it
            is one that pauses.
        """
        if not self.spec.reports:
            return
        try:
            optuna_trial = self._load_optuna_trial()
            optuna_trial.report(loss, step)
            should_prune = optuna_trial.should_prune()
        # A storage that is away for a moment is no reason to lose a run.
        except Exception:
            _log.exception("the study's storage did not take the loss of step %s", step)
            return
        if not should_prune:
            return
        measured = f"held-out loss {loss:.4f} after step {step}"
        if pauses(optuna_trial.study.pruner):
            raise TrialPaused(f"{measured}; it goes on from there once it is among the best")
        raise TrialPruned(f"pruned: {measured} is behind the other trials")

    def resume(self, step: int) -> None:
        """Hear that training goes on after `step`, from the checkpoint of an earlier process.

        Raises: TrialPaused when that process was killed as it paused there.
        """
        if not self.spec.reports:
            return
        try:
            optuna_trial = self._load_optuna_trial()
            last_report = optuna_trial.study.get_trials(deepcopy=False)[self.spec.number].last_step
            was_pausing = (
                last_report == step
                and pauses(optuna_trial.study.pruner)
                and optuna_trial.should_prune()
            )
        except Exception:
            _log.exception("the study's storage did not say whether to go on after step %s", step)
            return
        if was_pausing:
            raise TrialPaused(f"paused after step {step}, as an earlier process was about to")

    def complete(self, metrics: Mapping[str, float], run_id: str) -> None:
        """Leave the outcome of a run that is done, with the last value of its metrics."""
        outcome = TrialOutcome(Ending.done, "", dict(metrics), run_id, self._elapsed_s())
        outcome.write(self._folder)
        if self.spec.parent_pid is not None:
            # The function that is registered last is called first.
            atexit.register(_exit_without_teardown)

    def fail(self, error: BaseException) -> None:
        """Leave the outcome of a run that `error` ended."""
        why = str(error) or type(error).__name__
        outcome = TrialOutcome(_ending_of_error(error), why, {}, None, self._elapsed_s())
        outcome.write(self._folder)

    def _elapsed_s(self) -> float:
        return time.perf_counter() - self._started_at

    def _load_optuna_trial(self) -> Any:
        """Return Optuna's trial, loaded at the first report: most runs of a sweep never report."""
        if self._optuna_trial is None:
            import optuna

            from medexp.sweep.study import storage

            study = optuna.load_study(
                study_name=self.spec.study_name,
                storage=storage.connect(self.spec.storage),
                # Nothing is suggested here; a sampler with a state of its own would be in the way.
                sampler=optuna.samplers.RandomSampler(),
                pruner=make_pruner(self.spec.pruner),
            )
            self._optuna_trial = optuna.trial.Trial(study, self.spec.trial_id)
        return self._optuna_trial


@contextmanager
def open_trial(folder: Path) -> Iterator[TrialContext | None]:
    """Open the trial that `folder` belongs to, None for a run that is not part of a sweep.

    However the trial ends, its outcome is left in `folder`.
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
        # On a full disk the sweep reads the exit status instead.
        with suppress(OSError):
            trial.fail(error)
        raise


def _exit_without_teardown() -> None:
    """End this process now.

    Python takes seconds to take the training libraries apart. All that is to be kept is on disk by
    now, and the next trial waits for this process.
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
    """Have this process get SIGTERM when the sweeper dies: the step under way is finished and kept,
    and the card is free again.
    """
    if parent_pid is None:
        return
    # A trial has a session of its own, so Ctrl-C reaches it only through the sweeper.
    hear_ctrl_c()
    if terminate_with_parent():
        return
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # A sweeper that died before the line above sends no signal any more.
    if os.getppid() != parent_pid:
        raise RunInterrupted("the sweeper is gone; the same sweep continues", signal.SIGTERM)
