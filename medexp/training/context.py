"""TODO: say what this module holds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from medexp.cli.app import Invocation
from medexp.config.schema import RunConfig
from medexp.evaluation.evaluator import Evaluator
from medexp.models.base_identity import BaseIdentity
from medexp.planning.step_time import Plan
from medexp.reports import summary as report
from medexp.sweep.workers.trial import Part
from medexp.tracking.run_name import run_name
from medexp.tracking.tracker import Tracker
from medexp.training.resume import ResumableRun


@dataclass(frozen=True)
class TrainResult:
    """What a run came to: its figures, where the adapter lies, its MLflow run, and the last value
    of every metric there.
    """

    outcome: report.RunSummary
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
    part: Part | None = None  # of a sweep


def displayed_run_name(run: RunConfig, invocation: Invocation, part: Part | None = None) -> str:
    return run.tracking.run_name or (
        part.ticket.name if part else run_name(run, invocation.overrides)
    )
