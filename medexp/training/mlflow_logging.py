"""What a training run logs to MLflow at its start, once its plan has been seen to fit, and at its
end. The steps between are logged by `callbacks.StepRecorder`.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from medexp.config.flatten import comparable_params, flatten
from medexp.config.invocation import AnyInvocation
from medexp.config.schema import RunConfig
from medexp.config.shipped import SHIPPED
from medexp.data.audit.inspection import Inspection
from medexp.data.loading import Cases
from medexp.data.preparation import Prepared
from medexp.data.prompts import digest_cases
from medexp.data.split import Split
from medexp.evaluation.record import CaseLoss, Record, mean_loss
from medexp.evaluation.scorecard import Scorecard
from medexp.models.weights import Weights
from medexp.planning import planner
from medexp.planning.step_time import Plan
from medexp.reports import audit_report, mlflow_description, summary
from medexp.reports.publish import publish_evaluation, read_loss_curves
from medexp.reports.run_report import ReportHeader
from medexp.system import machine
from medexp.system.console import DONE, Console
from medexp.system.home import with_tilde
from medexp.system.provenance import describe_environment, find_git_commit
from medexp.system.units import gib
from medexp.tracking.artifact_names import (
    ADAPTER,
    ANSWERS,
    AUDIT,
    AUDIT_PAGE,
    COMPOSED_CONFIG,
    ENVIRONMENT,
    OVERRIDES,
    PLAN,
    STARTED_FROM,
)
from medexp.tracking.openings import describe_openings, record_opening
from medexp.tracking.tracker import DataInput, Tracker
from medexp.training.context import TrainContext, TrainResult
from medexp.training.preflight import PreflightResult
from medexp.training.trainer import FitResult


def log_start(
    tracker: Tracker,
    config: RunConfig,
    invocation: AnyInvocation,
    cases: Cases,
    split: Split,
    prepared: Prepared,
    weights: Weights,
) -> None:
    """Log what the run is made of: parameters, tags, data, the whole config and the machine."""
    # The levers come with `log_plan`: a run may be planned anew until a step was seen to fit.
    planned_later = planner.LEVER_KEYS if planner.is_planned(config) else ()
    params = comparable_params(config, invocation.overrides)
    tracker.log_params({name: value for name, value in params.items() if name not in planned_later})
    question = mlflow_description.extract_question(invocation.experiment_yaml)
    tracker.set_description(mlflow_description.describe_started_run(config, question))
    tracker.set_tags(
        {
            "medexp.model": config.model.name,
            "medexp.model_revision": weights.commit,
            "medexp.hardware": config.hardware.name,
            "medexp.cards": config.hardware.cards,
            "medexp.vram_ceiling_gib": config.hardware.vram_ceiling_gib,
            "medexp.engine": config.hardware.engine.value,
            "medexp.dataset": config.dataset.name,
            "medexp.dataset_revision": cases.commit,
            "medexp.rows_left_out": prepared.audit.faulty or None,
            "medexp.prompt": config.prompt.name,
            "medexp.seed": config.training.seed,
            "medexp.git_commit": find_git_commit(Path(__file__).parent),
            "mlflow.source.name": "medexp.train",
        }
    )
    _log_data(tracker, config, cases, split, prepared)
    tracker.log_text(invocation.composed_yaml, COMPOSED_CONFIG)
    if config.lora.start_from is not None and config.tracking.log_adapter:
        tracker.log_folder(Path(config.lora.start_from), STARTED_FROM)
    tracker.log_text(with_tilde("\n".join(invocation.overrides) + "\n"), OVERRIDES)
    tracker.log_json(
        {"packages": dict(describe_environment()), "machine": asdict(machine.read())}, ENVIRONMENT
    )


def _log_data(
    tracker: Tracker, config: RunConfig, cases: Cases, split: Split, prepared: Prepared
) -> None:
    name, audit = config.dataset.name, prepared.audit
    # A shipped file is named as everybody has it, not by where it is installed here.
    origin = with_tilde(cases.origin.replace(str(SHIPPED), "medexp/data"))
    digests = [digest_cases(config.prompt, side) for side in (split.train, split.held_out)]
    train = DataInput(name, "training", digests[0], origin, audit.train.kept)
    held_out = DataInput(name, "held-out", digests[1], origin, audit.held_out.kept)
    tracker.log_inputs([train, held_out])


def log_audit(tracker: Tracker, config: RunConfig, inspection: Inspection) -> None:
    """Log what the audit says about the cases, as data and as a page."""
    tracker.log_json(inspection.as_dict(), AUDIT)
    tracker.log_text(audit_report.render_audit_page(config, inspection), AUDIT_PAGE)


def log_plan(
    tracker: Tracker,
    config: RunConfig,
    preflight: PreflightResult,
    runners_up: Sequence[Plan],
    console: Console,
) -> None:
    """Log the levers that were seen to fit, and what each phase was planned and measured to
    take.
    """
    leaves = flatten(config)
    tracker.log_params({param: leaves[name] for name, param in planner.LEVER_PARAMS.items()})
    # A continued run was seen to fit before; its figures are logged already.
    if not preflight.phases:
        return
    console.info(f"measured: {'; '.join(phase.sentence() for phase in preflight.phases)}", DONE)
    tracker.log_metrics(0, preflight.metrics())
    plans = preflight.as_dict() | {"runners_up": [*map(planner.plan_as_dict, runners_up)]}
    tracker.log_json(plans, PLAN)


def summarise_run(
    context: TrainContext,
    fitted: FitResult,
    losses: tuple[list[CaseLoss], list[CaseLoss]],
    scorecard: Scorecard,
) -> summary.RunSummary:
    """Return the figures of a run that has been trained and measured; `losses` are those of the
    held-out cases, before and after.
    """
    before, after = losses
    return summary.RunSummary(
        loss_before=mean_loss(before),
        loss_after=mean_loss(after),
        loss=scorecard.find_result("loss_completion").comparison,
        structure=scorecard.find_result("structure").comparison,
        last_loss=fitted.last_loss,
        steps=fitted.last_step,
        tokens=fitted.tokens,
        steps_s=fitted.steps_s,
        elapsed_s=time.perf_counter() - context.began,
        trainable=context.model.trainable,
        peak_bytes=context.meter.peak_bytes(),
        ceiling_bytes=context.meter.ceiling_bytes,
        planned_bytes=context.plan.budget.peak_bytes if context.plan is not None else 0,
    )


def log_end(
    context: TrainContext, result: TrainResult, record: Record, scorecard: Scorecard
) -> Path:
    """Log figures, answers and adapter; return where report.html lies."""
    config, tracker, outcome = context.config, context.tracker, result.outcome
    base_texts = [case.base.text for case in record.cases]
    tuned_texts = [case.tuned.text for case in record.cases]
    answers = summary.build_answer_columns(context.prepared.asked, base_texts, tuned_texts)
    tracker.log_table(answers, ANSWERS)
    tracker.log_metrics(outcome.steps, summary.run_metrics(outcome))
    if config.tracking.log_adapter:
        _log_adapter(context, result.adapter)
    if host_peak_bytes := machine.measure_peak_bytes():
        tracker.log_metrics(outcome.steps, {"host/peak_gib": gib(host_peak_bytes)})
    question = mlflow_description.extract_question(context.invocation.experiment_yaml)
    tracker.set_description(
        mlflow_description.describe_finished_run(
            config, question, outcome, scorecard, tracker.page, tracker.run_id
        )
    )
    adapter = f"{result.adapter.name}/ beside this page"
    facts = summary.build_summary_rows(outcome, adapter, result.run_id)
    facts.append(("test part", _open_test_part(context)))
    header = ReportHeader(
        f"{config.model.name} {context.run_name} on {config.dataset.name}",
        facts,
        planned_bytes=outcome.planned_bytes,
        measured_bytes=outcome.peak_bytes,
        ceiling_bytes=outcome.ceiling_bytes,
        **read_loss_curves(tracker),
    )
    folder = context.invocation.output_dir
    return publish_evaluation(tracker, record, scorecard, header, outcome.steps, folder)


def _open_test_part(context: TrainContext) -> str:
    """Count that the test part was opened, and return how often it was, in words."""
    if context.is_test_part_closed:
        return "closed: this trial was measured on validation cases"
    digests = [case.digest for case in context.prepared.held_out.cases]
    count = record_opening(context.config.tracking.root, digests, context.tracker.run_id)
    context.tracker.set_tags({"medexp.test_part_opened": count})
    return describe_openings(count)


def _log_adapter(context: TrainContext, adapter: Path) -> None:
    """Log the adapter as an artifact of the run, and as a model of its experiment."""
    config = context.config
    stored = context.tracker.log_folder(adapter, ADAPTER)
    tags = {
        "medexp.model": config.model.name,
        "medexp.dataset": config.dataset.name,
        "medexp.run": context.run_name,
    }
    name = f"{config.model.name}-r{config.lora.r}"
    context.tracker.log_model(name, stored, comparable_params(config, ()), tags)
