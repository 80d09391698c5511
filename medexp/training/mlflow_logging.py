"""TODO: say what this module holds."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from medexp.cli.app import Invocation
from medexp.config.flatten import flatten, telling
from medexp.config.resolve import SHIPPED
from medexp.config.schema import RunConfig
from medexp.data import loading as source
from medexp.data.cases import digest_of
from medexp.data.preparation import Prepared
from medexp.data.split import Split
from medexp.evaluation.record import CaseLoss, Record, mean_loss
from medexp.evaluation.scorecard import Scorecard
from medexp.models.weights import Weights
from medexp.planning import planner
from medexp.planning.step_time import Plan
from medexp.reports import mlflow_description, summary
from medexp.reports.publish import publish_evaluation, read_loss_curves
from medexp.reports.run_report import ReportHeader
from medexp.system import machine
from medexp.system.console import DONE, Screen
from medexp.system.home import with_tilde
from medexp.system.provenance import environment, git_commit
from medexp.system.units import gib
from medexp.tracking.artifact_names import (
    ADAPTER,
    ANSWERS,
    COMPOSED_CONFIG,
    ENVIRONMENT,
    OVERRIDES,
    PLAN,
    STARTED_FROM,
)
from medexp.tracking.tracker import DataInput, Tracker
from medexp.training.context import TrainContext, TrainResult, displayed_run_name
from medexp.training.preflight import PreflightResult
from medexp.training.trainer import FitResult


def log_plan(
    tracker: Tracker,
    run: RunConfig,
    settled: PreflightResult,
    runners_up: Sequence[Plan],
    show: Screen,
) -> None:
    leaves = flatten(run)
    tracker.params({param: leaves[name] for name, param in planner.LEVER_PARAMS.items()})
    if settled.phases:  # a continued run was seen to fit before
        show.say(f"measured: {'; '.join(each.sentence() for each in settled.phases)}", DONE)
        tracker.metrics(0, settled.metrics())
        tracker.json(settled.as_dict() | {"runners_up": [*map(planner.as_dict, runners_up)]}, PLAN)


def log_start(
    tracker: Tracker,
    run: RunConfig,
    invocation: Invocation,
    cases: source.Cases,
    sides: Split,
    ready: Prepared,
    found: Weights,
) -> None:
    origin = with_tilde(cases.origin.replace(str(SHIPPED), "medexp/data"))
    # a run may be planned anew until a step was seen to fit
    later = planner.LEVER_KEYS if planner.is_planned(run) else ()
    tracker.params(
        {
            name: value
            for name, value in telling(run, invocation.overrides).items()
            if name not in later
        }
    )
    tracker.note(
        mlflow_description.describe_started_run(
            run, mlflow_description.extract_question(invocation.experiment_yaml)
        )
    )
    tracker.tags(
        {
            "medexp.model": run.model.name,
            "medexp.model_revision": found.commit,
            "medexp.hardware": run.hardware.name,
            "medexp.vram_ceiling_gib": run.hardware.vram_ceiling_gib,
            "medexp.engine": run.hardware.engine.value,
            "medexp.dataset": run.dataset.name,
            "medexp.dataset_revision": cases.commit,
            "medexp.rows_left_out": ready.audit.faulty or None,
            "medexp.prompt": run.prompt.name,
            "medexp.seed": run.training.seed,
            "medexp.git_commit": git_commit(Path(__file__).parent),
            "mlflow.source.name": "medexp.train",
        }
    )
    tracker.data(
        [
            DataInput(
                run.dataset.name, "training", digest_of(sides.train), origin, ready.audit.train.kept
            ),
            DataInput(
                run.dataset.name,
                "held-out",
                digest_of(sides.held_out),
                origin,
                ready.audit.held_out.kept,
            ),
        ]
    )
    tracker.text(invocation.composed_yaml, COMPOSED_CONFIG)
    if run.lora.start_from is not None and run.tracking.log_adapter:
        tracker.folder(Path(run.lora.start_from), STARTED_FROM)
    tracker.text(with_tilde("\n".join(invocation.overrides) + "\n"), OVERRIDES)
    tracker.json({"packages": environment(), "machine": asdict(machine.read())}, ENVIRONMENT)


def summarise_run(
    job: TrainContext,
    fitted: FitResult,
    losses: tuple[list[CaseLoss], list[CaseLoss]],
    card: Scorecard,
) -> summary.RunSummary:
    before, after = losses
    return summary.RunSummary(
        loss_before=mean_loss(before),
        loss_after=mean_loss(after),
        loss=card.line("loss_completion").comparison,
        structure=card.line("structure").comparison,
        last_loss=fitted.last_loss,
        steps=fitted.last_step,
        tokens=fitted.tokens,
        steps_s=fitted.steps_s,
        elapsed_s=time.perf_counter() - job.began,
        trainable=job.tuned.trainable,
        peak_bytes=job.meter.peak_bytes(),
        ceiling_bytes=job.meter.ceiling_bytes,
        planned_bytes=job.plan.budget.peak_bytes if job.plan is not None else 0,
    )


def log_end(job: TrainContext, result: TrainResult, record: Record, card: Scorecard) -> Path:
    """Keep the figures and the answers; returns where report.html lies."""
    texts = [each.base.text for each in record.cases], [each.tuned.text for each in record.cases]
    job.tracker.table(summary.build_answer_columns(job.ready.asked, *texts), ANSWERS)
    job.tracker.metrics(result.outcome.steps, summary.run_metrics(result.outcome))
    outcome, name = result.outcome, displayed_run_name(job.run, job.invocation, job.trial)
    if job.run.tracking.log_adapter:
        kept = job.tracker.folder(result.adapter, ADAPTER)
        about_it = {
            "medexp.model": job.run.model.name,
            "medexp.dataset": job.run.dataset.name,
            "medexp.run": name,
        }
        job.tracker.model(
            f"{job.run.model.name}-r{job.run.lora.r}", kept, telling(job.run, ()), about_it
        )
    if peak := machine.peak_bytes():
        job.tracker.metrics(outcome.steps, {"host/peak_gib": gib(peak)})
    asked = mlflow_description.extract_question(job.invocation.experiment_yaml)
    job.tracker.note(
        mlflow_description.describe_finished_run(
            job.run, asked, outcome, card, job.tracker.page, job.tracker.run_id
        )
    )
    about = ReportHeader(
        f"{job.run.model.name} {name} on {job.run.dataset.name}",
        summary.build_summary_rows(
            outcome, f"{result.adapter.name}/ beside this page", result.run_id
        ),
        planned_bytes=outcome.planned_bytes,
        measured_bytes=outcome.peak_bytes,
        ceiling_bytes=outcome.ceiling_bytes,
        **read_loss_curves(job.tracker),
    )
    return publish_evaluation(
        job.tracker, record, card, about, outcome.steps, job.invocation.output_dir
    )
