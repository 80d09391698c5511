"""A training run, from a checked config to an adapter, and the answers before and after."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from medexp.config.flatten import format_override
from medexp.config.invocation import AnyInvocation
from medexp.config.remarks import remark_on_kernels, remark_on_schedule
from medexp.config.resolve import find_tracking_root
from medexp.config.schema import RunConfig, Tracking
from medexp.data import loading as data_loading
from medexp.data import mixture
from medexp.data.audit.inspection import Inspection, inspect_prepared
from medexp.data.preparation import Prepared
from medexp.data.prompts import ChatPrompt, digest_cases
from medexp.data.split import Split
from medexp.data.tokenizer_cache import CachedTokenizer
from medexp.errors import VramCeilingError
from medexp.evaluation import evaluator, verification
from medexp.evaluation.baseline_cache import open_baseline_cache
from medexp.evaluation.record import CaseLoss, Record, mean_loss
from medexp.evaluation.scorecard import Scorecard
from medexp.models import adapter_files, base_identity, weights
from medexp.models import loading as model_loading
from medexp.models.adapter_model import AdapterModel
from medexp.models.memory_guard import memory_phase
from medexp.models.ranks import open_ranks
from medexp.models.session import Session, open_session, share_model
from medexp.models.tokenizer import check_chat_template
from medexp.models.weights import Weights
from medexp.planning import limits, planner
from medexp.planning.memory_terms import Phase
from medexp.planning.step_time import Plan
from medexp.reports import summary
from medexp.reports.console_tables import print_scorecard
from medexp.system import machine
from medexp.system.console import DONE, NOTE, Console
from medexp.system.home import short
from medexp.tracking import queries
from medexp.tracking import tracker as tracking
from medexp.tracking.artifact_names import ADAPTER
from medexp.tracking.finished_run import FinishedRun
from medexp.tracking.rerun import OriginalRun
from medexp.tracking.run_name import make_run_name
from medexp.tracking.store_upkeep import prepare_store
from medexp.tracking.tracker import Tracker
from medexp.training import leftovers, trainer
from medexp.training.best_checkpoint import BestCheckpoint
from medexp.training.callbacks import StepRecorder, TrainingProgress, mean_finite_loss
from medexp.training.context import TrainContext, TrainResult, TrialReporter, choose_run_name
from medexp.training.mlflow_logging import log_audit, log_end, log_plan, log_start, summarise_run
from medexp.training.preflight import (
    PreflightResult,
    find_fitting_plan,
    find_safer_plan,
    run_preflight,
)
from medexp.training.resume import ResumableRun, acquire_run, list_dead_mlflow_runs, step_of
from medexp.training.step_measurement import remember_steps
from medexp.training.trainer import FitResult, StepCallback

# Characters of an answer that are printed; all of it is in MLflow.
PRINTED_CHARACTERS = 900


@dataclass(frozen=True)
class _Request:
    """What `train` was called with, and when.

    `requested` is the config before a plan was applied to it: another plan is made of it where the
    first does not fit.
    """

    requested: RunConfig
    invocation: AnyInvocation
    console: Console
    trial: TrialReporter | None
    began: float

    @property
    def restored(self) -> OriginalRun | None:
        """The finished run that this one makes again, if any."""
        original = self.invocation.run
        return OriginalRun(original) if isinstance(original, FinishedRun) else None


def train(
    config: RunConfig,
    invocation: AnyInvocation,
    console: Console,
    trial: TrialReporter | None = None,
) -> TrainResult:
    """Train the adapter that `config` describes, and answer the held-out questions before and
    after; `trial` is its place in a sweep, `invocation.run` the finished run that it makes again.

    Raises: any error of `medexp.errors`; what was done until then is kept, and the same call
        continues it.
    """
    request = _Request(config, invocation, console, trial, time.perf_counter())
    evaluator.check_primary(config.evaluation)
    verification.check_verifier(config.evaluation)
    # A store that cannot be opened is refused before anything is computed for it.
    prepare_store(Path(config.tracking.root or "."))
    config, plan, runners_up = _apply_best_plan(config)
    base = _find_base(config, console)
    cases = data_loading.load_cases(config.dataset, config.prompt)
    split = mixture.split_mixture(cases.by_source, config.dataset, cases.reading)
    # What a sweep chooses by is measured on validation cases, and opens no test part.
    is_closed = trial is not None and trial.chooses and bool(split.validation)
    if is_closed:
        split = split.with_test_part_closed()
    # The same run as a trial has other cases answered, and may not continue with these answers.
    naming = "{}-validation" if is_closed else "{}"
    with (
        acquire_run(config, cases.digest, naming) as work,
        open_ranks(config.hardware, invocation.output_dir) as ranks,
    ):
        config, plan = _announce(request, config, work, plan)
        session = open_session(config, base, console)
        config = session.config
        tokenizer = CachedTokenizer(session.tokenizer, config.prompt)
        prepared, inspection = _prepare_cases(config, split, tokenizer, console)
        if isinstance(config.prompt, ChatPrompt):
            work.require_same_words(config.prompt.template.digest)
        with _open_mlflow_run(request, config, work) as tracker:
            log_start(tracker, config, invocation, cases, split, prepared, session.weights)
            log_audit(tracker, config, inspection)
            model, preflight = _load_model(request, config, session, prepared, work, plan)
            if preflight is not None:
                config = preflight.config
                log_plan(tracker, config, preflight, runners_up, console)
                # Batches follow the micro-batch, and the plan that fits may have another.
                if config.training.group_by_length:
                    prepared = tokenizer.prepare_cases(config, split)
            if ranks is not None:
                share_model(ranks, model, config, session.weights, console)
            context = _build_context(
                request, config, work, tracker, session, prepared, model, preflight
            )
            with _noting_what_is_safer(request, preflight):
                result = _train_between_evaluations(context)
        work.finish()
    _print_remarks(request, config, split, result)
    return result


def _apply_best_plan(config: RunConfig) -> tuple[RunConfig, Plan | None, tuple[Plan, ...]]:
    """Return `config` with its best plan applied, that plan, and the runners-up.

    On a CPU nothing is planned, but what its memory cannot hold is refused.

    Raises: VramPlanError.
    """
    chosen, runners_up = planner.choose_plan(config)
    if not planner.is_planned(config):
        return config, None, ()
    return planner.apply_plan(config, chosen), chosen, runners_up


def _find_base(config: RunConfig, console: Console) -> Weights:
    """Return the base model's weights; where the adapter to start from was trained on another
    version of them, that is said.

    Raises: ModelError if they cannot be had, or the adapter does not belong to them.
    """
    base, start = weights.find_weights(config.model), config.lora.start_from
    check_chat_template(config, base)
    if start is not None:
        note = adapter_files.check_adapter(Path(start), config.lora, config.model, base)
        if note:
            console.info(note, NOTE)
    return base


def _announce(
    request: _Request, config: RunConfig, work: ResumableRun, plan: Plan | None
) -> tuple[RunConfig, Plan | None]:
    """Say what is about to be trained; return `config` with the plan to begin with, and that plan,
    which is that of an earlier process where it was seen to fit.
    """
    console = request.console
    title = f"{config.model.name} {make_run_name(config)}"
    console.info(_headline(config, work), title=title)
    if request.restored and (commits := request.restored.commits(config)):
        console.info(commits, NOTE)
    if plan is None:
        return config, None
    plan = find_fitting_plan(request.requested, plan, work) or plan
    config = planner.apply_plan(config, plan)
    ceiling = config.hardware.vram_ceiling_gib
    console.info(f"plan: {planner.describe_plan(plan, ceiling)}", DONE)
    for remark in limits.remark_on_margin(config):
        console.info(remark, NOTE)
    return config, plan


def _headline(config: RunConfig, work: ResumableRun) -> str:
    checkpoint, continued = work.find_last_checkpoint(), ""
    if not work.is_new:
        continued = f", continued from {checkpoint.name if checkpoint else 'the start'}"
    hardware = config.hardware
    cards = f", {hardware.cards} cards" if hardware.cards > 1 else ""
    return (
        f" on {config.dataset.name}, hardware={hardware.name}{cards}, engine"
        f" {hardware.engine.value}{continued}"
    )


def _prepare_cases(
    config: RunConfig, split: Split, tokenizer: CachedTokenizer, console: Console
) -> tuple[Prepared, Inspection]:
    """Return the cases as rows of tokens, and what the audit says about them."""
    prepared = tokenizer.prepare_cases(config, split)
    console.info(f"cases: {prepared.audit.sentence()}", DONE)
    with console.status("auditing the cases"):
        inspection = inspect_prepared(tokenizer, config, prepared, {})
    remarks = (*remark_on_schedule(config, prepared.steps), *remark_on_kernels(config))
    for remark in (*inspection.broken, *remarks):
        console.info(remark, NOTE)
    return prepared, inspection


@contextmanager
def _open_mlflow_run(request: _Request, config: RunConfig, work: ResumableRun) -> Iterator[Tracker]:
    """Open the MLflow run, new or the one that `work` was begun in; a full disk is explained."""
    invocation, trial = request.invocation, request.trial
    queries.mark_runs_killed(config.tracking, list_dead_mlflow_runs(config.tracking))
    name = choose_run_name(config, invocation, trial)
    say = partial(request.console.info, mark=NOTE)
    trial_tags = trial.tags if trial else {}
    restored_tags = request.restored.tags if request.restored else {}
    with (
        tracking.open_run(config.tracking, work.mlflow_run_id, name, say) as tracker,
        work.explain_full_disk(invocation.output_dir),
    ):
        work.remember_mlflow_run(tracker.run_id)
        tracker.set_tags({**trial_tags, **restored_tags})
        yield tracker


def _load_model(
    request: _Request,
    config: RunConfig,
    session: Session,
    prepared: Prepared,
    work: ResumableRun,
    plan: Plan | None,
) -> tuple[AdapterModel, PreflightResult | None]:
    """Return the model with its adapter, and with which plan a real step of it fits; no step is
    tried where nothing is planned.
    """
    console = request.console

    def load(planned: RunConfig) -> AdapterModel:
        return model_loading.load_model(
            planned, session.weights, session.tokenizer, session.modules
        )

    if plan is None:
        with console.status(f"loading {config.model.name}"):
            model, preflight = load(config), None
    else:
        say = partial(console.info, mark=NOTE)
        with console.status(f"loading {config.model.name}, a step to see that it fits"):
            preflight = run_preflight(
                request.requested, config, plan, load, prepared, session.meter, work, say
            )
            model = preflight.model
            if preflight.measured is not None and machine.read().gpus:
                remember_steps([preflight.measured])
    for note in model.notes:
        console.info(note, NOTE)
    return model, preflight


def _build_context(
    request: _Request,
    config: RunConfig,
    work: ResumableRun,
    tracker: Tracker,
    session: Session,
    prepared: Prepared,
    model: AdapterModel,
    preflight: PreflightResult | None,
) -> TrainContext:
    return TrainContext(
        config=config,
        console=request.console,
        answers_file=work.answers_file,
        prepared=prepared,
        model=model,
        meter=session.meter,
        baseline=open_baseline_cache(config, session.weights, prepared),
        work=work,
        invocation=request.invocation,
        tracker=tracker,
        plan=preflight.plan if preflight is not None else None,
        began=request.began,
        base=base_identity.compute_identity(config.model, session.weights),
        best=BestCheckpoint(
            model,
            work.folder,
            config.training.keep_best,
            config.training.early_stopping_patience,
        ),
        trial=request.trial,
    )


@contextmanager
def _noting_what_is_safer(request: _Request, preflight: PreflightResult | None) -> Iterator[None]:
    """Let an error for want of memory say whether a plan is left that takes less."""
    try:
        yield
    except VramCeilingError as error:
        error.nothing_safer = (
            preflight is None
            or find_safer_plan(request.requested, preflight.plan, error.phase) is None
        )
        raise


def _train_between_evaluations(context: TrainContext) -> TrainResult:
    """Answer, train, answer again; keep the adapter and what it changed."""
    config, tracker, invocation = context.config, context.tracker, context.invocation
    checkpoint = context.work.find_last_checkpoint()
    answers = context.generate_base_answers()
    losses_before = context.measure_base_losses()
    tracker.log_metrics(0, {"eval/loss": _measure_base_validation(context, losses_before)})
    fitted = _fit(context, checkpoint)
    _restore_best(context, fitted)
    with context.console.status("measuring the tuned model's held-out loss"):
        losses_after = context.measure_losses()
    loss_after = mean_finite_loss(losses_after, fitted.last_step)
    if not context.has_own_validation:
        tracker.log_metrics(fitted.last_step, {"eval/loss": loss_after})
    answers["tuned"] = context.generate_answers("tuned")
    losses = losses_before, losses_after
    record = context.build_record(answers, losses)
    scorecard = evaluator.score_record(record, config.evaluation, context.model.stack)
    with context.console.status("saving the adapter"):
        adapter = adapter_files.save_adapter(
            context.model, invocation.output_dir / ADAPTER, invocation.composed_yaml, context.base
        )
    outcome = summarise_run(context, fitted, losses, scorecard)
    result = TrainResult(outcome, adapter, tracker.run_id, tracker.latest)
    page = log_end(context, result, record, scorecard)
    _print_result(context, result, record, scorecard)
    context.console.result(f"Before and after side by side: {short(page)}")
    return result


def _measure_base_validation(context: TrainContext, losses: list[CaseLoss]) -> float:
    """Return the loss that the curve on the way begins with: the base's, on validation cases where
    there are any, else on the held-out ones.
    """
    if not context.has_own_validation:
        return mean_loss(losses)
    with (
        context.console.status("measuring the base's validation loss"),
        context.model.adapter_disabled(),
    ):
        return mean_loss(context.measure_validation_losses())


def _restore_best(context: TrainContext, fitted: FitResult) -> None:
    """Measure the last step's validation loss, and go back to the best step where it is kept."""
    if not context.has_own_validation and not context.config.training.keep_best:
        return
    with context.console.status("measuring the last step's validation loss"):
        losses = context.measure_validation_losses()
    last_step = fitted.last_step
    loss = mean_finite_loss(losses, last_step)
    context.tracker.log_metrics(last_step, {"eval/loss": loss})
    context.best.add_loss(last_step, loss)
    kept_step = context.best.restore_best(last_step)
    context.tracker.set_tags({"medexp.kept_step": kept_step})
    if kept_step != last_step:
        context.console.info(
            f"kept the adapter of step {kept_step}, whose validation loss is the lowest", DONE
        )


def _fit(context: TrainContext, checkpoint: Path | None) -> FitResult:
    """Train from `checkpoint`, or from the first step."""
    meter, prepared = context.meter, context.prepared
    if context.trial and checkpoint:
        context.trial.resume(step_of(checkpoint))
    with (
        TrainingProgress(
            context.console, prepared.steps, meter.reserved_bytes, meter.ceiling_bytes
        ) as progress,
        memory_phase(Phase.training, "training", meter),
    ):
        callbacks: list[StepCallback] = [progress, StepRecorder(context)]
        checkpoints = context.work.checkpoints
        return trainer.fit(
            context.model, prepared.rows, context.config, checkpoints, checkpoint, callbacks
        )


def _print_result(
    context: TrainContext, result: TrainResult, record: Record, scorecard: Scorecard
) -> None:
    """Print both answers of every case, what changed, and the figures of the run."""
    console = context.console
    for case in record.cases:
        answers = [
            summary.clip_text(answer.text, PRINTED_CHARACTERS) for answer in (case.base, case.tuned)
        ]
        heads = ("before (base)", "after (tuned)")
        console.table(f"Held out: {case.question}", heads, [answers], prose=True)
    if record.cases:
        console.result(f"{summary.NOT_FOR_CLINICAL_USE}\n", style="italic")
    print_scorecard(console, "What changed", record, scorecard)
    rows = summary.build_summary_rows(result.outcome, str(short(result.adapter)), result.run_id)
    console.table("This run", ("", ""), rows)
    console.result("Every answer, with its reference, is in MLflow: make ui")
    run_words = _name_run_for_commands(context.config.tracking, result)
    console.result(f'Ask it: python -m medexp.ask {run_words} question="..."')


def _name_run_for_commands(tracked_in: Tracking, result: TrainResult) -> str:
    """Return the words by which every other command, started in this folder, finds the run."""
    if not tracked_in.log_adapter:
        return format_override("run", str(short(result.adapter)))
    if tracked_in.root == find_tracking_root(None, Path.cwd()):
        return f"run={result.run_id}"
    root = str(short(Path(tracked_in.root or "")))
    return f"run={result.run_id} {format_override('tracking.root', root)}"


def _print_remarks(request: _Request, config: RunConfig, split: Split, result: TrainResult) -> None:
    """Print what unfinished runs have left, and how the run that was made again compares."""
    console = request.console
    # In a sweep every trial would say it.
    if request.trial is None and (remark := leftovers.summarise_leftovers(config.tracking)):
        console.info(remark, NOTE)
    if request.restored:
        held_out, trained_on = (
            digest_cases(config.prompt, side) for side in (split.held_out, split.train)
        )
        console.result(request.restored.sentence(result.outcome.loss_after, held_out, trained_on))
