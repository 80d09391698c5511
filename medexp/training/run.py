"""A training run, from a checked config to an adapter, and the answers before and after."""

import copy
import time
from functools import partial
from pathlib import Path

from medexp.cli.app import Invocation
from medexp.config import flatten
from medexp.config.flatten import word
from medexp.config.remarks import on_schedule
from medexp.config.resolve import tracking_root
from medexp.config.schema import RunConfig, Tracking
from medexp.data import loading as source
from medexp.data import mixture
from medexp.data.audit.inspection import Inspection
from medexp.data.cases import digest_of
from medexp.data.preparation import Prepared
from medexp.data.split import Split
from medexp.data.tokenizer_cache import Speller
from medexp.evaluation import evaluator
from medexp.evaluation.baseline_cache import open_baseline_cache
from medexp.evaluation.record import Record, mean_loss
from medexp.evaluation.scorecard import Scorecard
from medexp.models import adapter_files as artifact
from medexp.models import base_identity, weights
from medexp.models import loading as model
from medexp.models.memory_guard import memory_phase
from medexp.models.session import open_session
from medexp.planning import planner
from medexp.planning.memory_terms import Phase
from medexp.planning.step_time import Plan
from medexp.reports import audit_report, summary
from medexp.reports.console_tables import print_scorecard
from medexp.system.console import DONE, NOTE, Screen, TrainingProgress
from medexp.system.home import short
from medexp.tracking import queries as kept_runs
from medexp.tracking import tracker as tracking
from medexp.tracking.artifact_names import ADAPTER, AUDIT, AUDIT_PAGE
from medexp.tracking.rerun import Restored
from medexp.tracking.run_name import run_name
from medexp.tracking.store_upkeep import prepare
from medexp.training import leftovers, trainer
from medexp.training.callbacks import StepRecorder, mean_finite_loss
from medexp.training.context import (
    TrainContext,
    TrainResult,
    TrialReporter,
    displayed_run_name,
)
from medexp.training.mlflow_logging import log_end, log_plan, log_start, summarise_run
from medexp.training.preflight import find_fitting_plan, run_preflight
from medexp.training.resume import ResumableRun, acquire, list_dead_mlflow_runs, unfinished_runs_dir
from medexp.training.trainer import FitResult


def train(
    run: RunConfig,
    invocation: Invocation,
    show: Screen,
    trial: TrialReporter | None = None,
    restored: Restored | None = None,
) -> TrainResult:
    """Train the adapter that `run` describes, and answer the held-out questions before and after;
    `trial` is its place in a sweep, `restored` the finished run that it makes again.

    Raises: any error of `medexp.errors`; what was done until then is kept, and the same call
        continues it.
    """
    began = time.perf_counter()
    prepare(Path(run.tracking.root or "."))  # a store that cannot be opened is refused at once
    asked = copy.deepcopy(run)
    plan, runners_up = _plan(run)
    found = weights.find(run.model)
    if run.lora.start_from is not None and (
        other_base := artifact.check_adapter(Path(run.lora.start_from), run.lora, run.model, found)
    ):
        show.say(other_base, NOTE)
    cases = source.load(run.dataset, run.prompt)
    sides = mixture.sides(cases.by_source, run.dataset, cases.reading)
    names = (flatten.fingerprint(run, cases.digest), flatten.former_fingerprint(run, cases.digest))
    with acquire(
        unfinished_runs_dir(run.tracking), names[0], run.training.resume, names[1]
    ) as work:
        show.say(_headline(run, work), title=f"{run.model.name} {run_name(run)}")
        if restored and (said := restored.commits(run)):
            show.say(said, NOTE)
        if plan is not None:
            plan = find_fitting_plan(asked, plan, work) or plan
            planner.apply(run, plan)
            show.say(f"plan: {planner.sentence(plan, run.hardware.vram_ceiling_gib)}", DONE)
        base = open_session(run, found, show)
        meter, speller = base.meter, Speller(base.tokenizer, run.prompt)
        ready, seen = _prepared(speller, run, sides, show)
        kept_runs.bury(run.tracking, list_dead_mlflow_runs(run.tracking))
        with (
            tracking.open_run(
                run.tracking,
                work.mlflow_run_id,
                displayed_run_name(run, invocation, trial),
                partial(show.say, mark=NOTE),
            ) as tracker,
            work.explain_full_disk(invocation.output_dir),
        ):
            work.remember_mlflow_run(tracker.run_id)
            tracker.tags((trial.tags if trial else {}) | (restored.tags if restored else {}))
            log_start(tracker, run, invocation, cases, sides, ready, base.weights)
            tracker.json(seen.as_dict(), AUDIT)
            tracker.text(audit_report.render_audit_page(run, seen), AUDIT_PAGE)
            with show.stage(
                f"loading {run.model.name}"
                + (", a step to see that it fits" if plan is not None else "")
            ):
                load = partial(model.load, run, base.weights, base.tokenizer, base.modules)
                settled = (
                    None
                    if plan is None
                    else run_preflight(
                        asked, run, plan, load, ready, meter, work, partial(show.say, mark=NOTE)
                    )
                )
                tuned = load() if settled is None else settled.tuned
            for each in tuned.notes:
                show.say(each, NOTE)
            if settled is not None:
                plan = settled.plan
                log_plan(tracker, run, settled, runners_up, show)
                # batches follow the micro-batch, and that may be another now
                if run.training.group_by_length:
                    ready = speller.prepared(run, sides)
            known, of_base = (
                open_baseline_cache(run, base.weights, ready),
                base_identity.identity_of(run.model, base.weights),
            )
            result = _compare(
                TrainContext(
                    run,
                    show,
                    work.answers_file,
                    ready,
                    tuned,
                    meter,
                    known,
                    work,
                    invocation,
                    tracker,
                    plan,
                    began,
                    of_base,
                    trial,
                )
            )
        work.finish()
    # a sweep's trials would say it each
    if trial is None and (left := leftovers.summarise_leftovers(run.tracking)):
        show.say(left, NOTE)
    if restored:
        show.result(
            restored.sentence(
                result.outcome.loss_after, digest_of(sides.held_out), digest_of(sides.train)
            )
        )
    return result


def _plan(run: RunConfig) -> tuple[Plan | None, tuple[Plan, ...]]:
    """The plan of `run`, set in it, and the runners-up; on a CPU nothing is planned, but what its
    memory cannot hold is refused.

    Raises: VramPlanError.
    """
    chosen, runners_up = planner.choose(run)
    if not planner.is_planned(run):
        return None, ()
    planner.apply(run, chosen)
    return chosen, runners_up


def _prepared(
    speller: Speller, run: RunConfig, sides: Split, show: Screen
) -> tuple[Prepared, Inspection]:
    """The cases as rows of tokens, and what the audit says about them."""
    ready = speller.prepared(run, sides)
    show.say(f"cases: {ready.audit.sentence()}", DONE)
    with show.stage("auditing the cases"):
        seen = speller.inspected(run, ready, {})
    for remark in (*seen.broken, *on_schedule(run, ready.steps)):
        show.say(remark, NOTE)
    return ready, seen


def _compare(job: TrainContext) -> TrainResult:
    """Answer, train, answer again; keep the adapter and what it changed."""
    resume_from = job.work.last_checkpoint()
    before = job.answers(base=True)
    losses_before = job.base_losses()
    job.tracker.metrics(0, {"eval/loss": mean_loss(losses_before)})
    fitted = _fit(job, resume_from)
    with job.show.stage("measuring the tuned model's held-out loss"):
        losses_after = job.losses()
    job.tracker.metrics(
        fitted.last_step, {"eval/loss": mean_finite_loss(losses_after, fitted.last_step)}
    )
    after = job.answers(base=False)
    record = job.record((before, after), (losses_before, losses_after))
    card = evaluator.score_record(record, job.run.evaluation, job.tuned.stack)
    with job.show.stage("saving the adapter"):
        folder = job.invocation.output_dir / ADAPTER
        adapter = artifact.save_adapter(job.tuned, folder, job.invocation.composed_yaml, job.base)
    outcome = summarise_run(job, fitted, (losses_before, losses_after), card)
    result = TrainResult(outcome, adapter, job.tracker.run_id, job.tracker.latest)
    page = log_end(job, result, record, card)
    _print(job, result, record, card)
    job.show.result(f"Before and after side by side: {short(page)}")
    return result


def _fit(job: TrainContext, resume_from: Path | None) -> FitResult:
    meter = job.meter
    with (
        TrainingProgress(
            job.show, job.ready.steps, meter.reserved_bytes, meter.ceiling_bytes
        ) as progress,
        memory_phase(Phase.training, "training", meter),
    ):
        return trainer.fit(
            job.tuned,
            job.ready.rows,
            job.run,
            job.work.checkpoints,
            resume_from,
            [progress, StepRecorder(job)],
        )


def _headline(run: RunConfig, work: ResumableRun) -> str:
    checkpoint = work.last_checkpoint()
    news = (
        "" if work.is_new else f", continued from {checkpoint.name if checkpoint else 'the start'}"
    )
    return (
        f" on {run.dataset.name}, hardware={run.hardware.name}, engine"
        f" {run.hardware.engine.value}{news}"
    )


def _print(job: TrainContext, result: TrainResult, record: Record, card: Scorecard) -> None:
    for case in record.cases:
        pair = [summary.clip_text(case.base.text, 900), summary.clip_text(case.tuned.text, 900)]
        job.show.table(
            f"Held out: {case.question}", ("before (base)", "after (tuned)"), [pair], prose=True
        )
    if record.cases:
        job.show.result(f"{summary.NOT_FOR_CLINICAL_USE}\n", style="italic")
    print_scorecard(job.show, "What changed", record, card)
    job.show.table(
        "This run",
        ("", ""),
        summary.build_summary_rows(result.outcome, str(short(result.adapter)), result.run_id),
    )
    job.show.result("Every answer, with its reference, is in MLflow: make ui")
    job.show.result(
        f'Ask it: python -m medexp.ask {_found_by(job.run.tracking, result)} question="..."'
    )


def _found_by(kept_in: Tracking, result: TrainResult) -> str:
    """The words that lead every other command, started in this folder, to the run."""
    if not kept_in.log_adapter:
        return word("run", str(short(result.adapter)))
    is_usual = kept_in.root == tracking_root(None, Path.cwd())
    return (
        f"run={result.run_id}"
        if is_usual
        else f"run={result.run_id} {word('tracking.root', str(short(Path(kept_in.root or ''))))}"
    )
