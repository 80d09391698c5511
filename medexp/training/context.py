"""A training run under way: what every step of it needs, and what it ends with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from medexp.config.invocation import AnyInvocation
from medexp.config.schema import RunConfig
from medexp.evaluation.evaluator import Evaluator
from medexp.models.base_identity import BaseIdentity
from medexp.planning.step_time import Plan
from medexp.reports.summary import RunSummary
from medexp.tracking.run_name import make_run_name
from medexp.tracking.tracker import Tracker
from medexp.training.best_checkpoint import BestCheckpoint
from medexp.training.resume import ResumableRun


class TrialReporter(Protocol):
    """The sweep's trial that this process is. `sweep.workers.trial.TrialContext` is one."""

    @property
    def name(self) -> str:
        """The name of the trial's MLflow run."""

    @property
    def tags(self) -> Mapping[str, str]:
        """The tags of the trial's MLflow run."""

    @property
    def chooses(self) -> bool:
        """Whether the sweep chooses by this trial, which is then measured on validation cases."""

    def report_progress(self, step: int, steps: int) -> None:
        """Say that `step` of `steps` are done."""

    def report(self, step: int, loss: float) -> None:
        """Report the held-out loss after `step`.

        Raises: TrialPruned when the study's pruner sees no point in going on, TrialPaused when it
            goes on with better trials first.
        """

    def resume(self, step: int) -> None:
        """Say that training goes on after `step`, from the checkpoint of an earlier process.

        Raises: TrialPaused when that process was killed as it paused there.
        """


@dataclass(frozen=True)
class TrainResult:
    """The figures of a finished run, where its adapter lies, its MLflow run, and the last value of
    every metric there.
    """

    outcome: RunSummary
    adapter: Path
    run_id: str
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass
class TrainContext(Evaluator):
    """A run under way: the model and its cases, the folder to resume it from, its MLflow run.

    `began` is the value of time.perf_counter() when the command began; `plan` is None on a CPU.
    """

    work: ResumableRun
    invocation: AnyInvocation
    tracker: Tracker
    plan: Plan | None
    began: float
    base: BaseIdentity
    best: BestCheckpoint
    trial: TrialReporter | None = None

    @property
    def is_test_part_closed(self) -> bool:
        """Whether validation cases stand in for the test part, as in a trial of a sweep."""
        return bool(self.prepared.validation.cases) and not self.has_own_validation

    @property
    def run_name(self) -> str:
        """The name of the run in MLflow."""
        return choose_run_name(self.config, self.invocation, self.trial)


def choose_run_name(
    config: RunConfig, invocation: AnyInvocation, trial: TrialReporter | None = None
) -> str:
    """Return the run's name in MLflow: the one given, else the trial's, else one made of what the
    command line changed.
    """
    if config.tracking.run_name:
        return config.tracking.run_name
    return trial.name if trial else make_run_name(config, invocation.overrides)
