"""TODO: say what this module holds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from medexp.cli.app import Invocation
from medexp.config.schema import RunConfig
from medexp.evaluation.evaluator import Evaluator
from medexp.models.base_identity import BaseIdentity
from medexp.planning.step_time import Plan
from medexp.reports import summary
from medexp.tracking.run_name import run_name
from medexp.tracking.tracker import Tracker
from medexp.training.resume import ResumableRun


class TrialReporter(Protocol):
    """The sweep's trial that this process is. `sweep.workers.trial.TrialContext` is one."""

    @property
    def name(self) -> str:
        """The name of the trial's MLflow run."""

    @property
    def tags(self) -> Mapping[str, str]:
        """The tags of the trial's MLflow run."""

    def stepped(self, step: int, steps: int) -> None:
        """Say that `step` of `steps` are done."""

    def summary(self, step: int, loss: float) -> None:
        """Report the held-out loss after `step`.

        Raises: TrialPruned when the study's pruner sees no point in going on.
        """


@dataclass(frozen=True)
class TrainResult:
    """What a run came to: its figures, where the adapter lies, its MLflow run, and the last value
    of every metric there.
    """

    outcome: summary.RunSummary
    adapter: Path
    run_id: str
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass
class TrainContext(Evaluator):
    """A run under way: what was asked, and what the hands have made of it."""

    work: ResumableRun
    invocation: Invocation
    tracker: Tracker
    plan: Plan | None
    began: float
    base: BaseIdentity
    trial: TrialReporter | None = None


def displayed_run_name(
    run: RunConfig, invocation: Invocation, trial: TrialReporter | None = None
) -> str:
    return run.tracking.run_name or (trial.name if trial else run_name(run, invocation.overrides))
