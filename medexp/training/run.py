"""A training run, from a checked config to an adapter, and the answers before and after."""

import copy
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from medexp.cli.app import Invocation
from medexp.config import flatten as flat
from medexp.config.flatten import flatten, telling, word
from medexp.config.remarks import on_schedule
from medexp.config.resolve import SHIPPED, tracking_root
from medexp.config.schema import RunConfig, Tracking
from medexp.data import loading as source
from medexp.data import mixture
from medexp.data.audit.inspection import Inspection
from medexp.data.cases import digest_of
from medexp.data.preparation import Prepared
from medexp.data.split import Split
from medexp.data.tokenizer_cache import Speller
from medexp.errors import TrainingDiverged
from medexp.evaluation import evaluator as measuring
from medexp.evaluation.baseline_cache import known_base
from medexp.evaluation.evaluator import Measured
from medexp.evaluation.record import CaseLoss, Record, mean_loss
from medexp.evaluation.scorecard import Card
from medexp.models import adapter_files as artifact
from medexp.models import base_identity, weights
from medexp.models import loading as model
from medexp.models import memory_guard as guard
from medexp.models.base_identity import BaseIdentity
from medexp.models.memory_guard import memory_phase
from medexp.models.weights import Weights
from medexp.planning import planner
from medexp.planning.memory_terms import Phase
from medexp.planning.step_time import Plan
from medexp.reports import audit_report as audit_page
from medexp.reports import mlflow_description as note
from medexp.reports import summary as report
from medexp.reports.console_tables import print_scorecard
from medexp.reports.publish import publish_evaluation, read_loss_curves
from medexp.reports.run_report import About
from medexp.sweep.workers.trial import Part
from medexp.system import machine
from medexp.system.console import DONE, NOTE, Screen, TrainingProgress
from medexp.system.home import short, with_tilde
from medexp.system.provenance import environment, git_commit
from medexp.system.units import gib
from medexp.tracking import queries as kept_runs
from medexp.tracking import tracker as tracking
from medexp.tracking.artifact_names import ADAPTER, STARTED_FROM
from medexp.tracking.rerun import Restored
from medexp.tracking.run_name import run_name
from medexp.tracking.store_upkeep import prepare
from medexp.tracking.tracker import DataInput, Tracker
from medexp.training import leftovers, trainer
from medexp.training.preflight import Settled, settle, settled_plan
from medexp.training.resume import Workspace, claimed, dead_runs, unfinished
from medexp.training.trainer import Fitted


@dataclass(frozen=True)
class TrainResult:
    """What a run came to: its figures, where the adapter lies, its MLflow run, and the last value
    of every metric there.
    """

    outcome: report.Outcome
    adapter: Path
    run_id: str
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Job(Measured):
    """A run under way: what was asked, and what the hands have made of it."""

    invocation: Invocation
    tracker: Tracker
    plan: Plan | None
    began: float
    base: BaseIdentity
    part: Part | None = None  # of a sweep


def train(
    run: RunConfig,
    invocation: Invocation,
    show: Screen,
    part: Part | None = None,
    restored: Restored | None = None,
) -> TrainResult:
    """Train the adapter that `run` describes, and answer the held-out questions before and after;
    `part` is its place in a sweep, `restored` the finished run that it makes again.

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
    names = (flat.fingerprint(run, cases.digest), flat.former_fingerprint(run, cases.digest))
    with claimed(unfinished(run.tracking), names[0], run.training.resume, names[1]) as work:
        show.say(_headline(run, work), title=f"{run.model.name} {run_name(run)}")
        if restored and (said := restored.commits(run)):
            show.say(said, NOTE)
        if plan is not None:
            plan = settled_plan(asked, plan, work) or plan
            planner.apply(run, plan)
            show.say(f"plan: {planner.sentence(plan, run.hardware.vram_ceiling_gib)}", DONE)
        base = measuring.opened(run, found, show)
        meter, speller = base.meter, Speller(base.tokenizer, run.prompt)
        ready, seen = _prepared(speller, run, sides, show)
        kept_runs.bury(run.tracking, dead_runs(run.tracking))
        with (
            tracking.open_run(
                run.tracking,
                work.mlflow_run_id,
                _run_name(run, invocation, part),
                partial(show.say, mark=NOTE),
            ) as tracker,
            work.with_room(invocation.output_dir),
        ):
            work.belongs_to(tracker.run_id)
            tracker.tags((part.ticket.tags if part else {}) | (restored.tags if restored else {}))
            _log_start(tracker, run, invocation, cases, sides, ready, base.weights)
            tracker.json(seen.as_dict(), "data/audit.json")
            tracker.text(audit_page.page(run, seen), "data/audit.html")
            with show.stage(
                f"loading {run.model.name}"
                + (", a step to see that it fits" if plan is not None else "")
            ):
                load = partial(model.load, run, base.weights, base.tokenizer, base.modules)
                settled = (
                    None
                    if plan is None
                    else settle(
                        asked, run, plan, load, ready, meter, work, partial(show.say, mark=NOTE)
                    )
                )
                tuned = load() if settled is None else settled.tuned
            for each in tuned.notes:
                show.say(each, NOTE)
            if settled is not None:
                plan = settled.plan
                _log_plan(tracker, run, settled, runners_up, show)
                # batches follow the micro-batch, and that may be another now
                if run.training.group_by_length:
                    ready = speller.prepared(run, sides)
            known, of_base = (
                known_base(run, base.weights, ready),
                base_identity.identity_of(run.model, base.weights),
            )
            result = _compare(
                Job(
                    run,
                    show,
                    work,
                    ready,
                    tuned,
                    meter,
                    known,
                    invocation,
                    tracker,
                    plan,
                    began,
                    of_base,
                    part,
                )
            )
        work.finish()
    # a sweep's trials would say it each
    if part is None and (left := leftovers.sentence(run.tracking)):
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


def _log_plan(
    tracker: Tracker, run: RunConfig, settled: Settled, runners_up: Sequence[Plan], show: Screen
) -> None:
    leaves = flatten(run)
    tracker.params({param: leaves[name] for name, param in planner.LEVER_PARAMS.items()})
    if settled.phases:  # a continued run was seen to fit before
        show.say(f"measured: {'; '.join(each.sentence() for each in settled.phases)}", DONE)
        tracker.metrics(0, settled.metrics())
        tracker.json(
            settled.as_dict() | {"runners_up": [*map(planner.as_dict, runners_up)]}, "plan.json"
        )


def _compare(job: Job) -> TrainResult:
    """Answer, train, answer again; keep the adapter and what it changed."""
    resume_from = job.work.last_checkpoint()
    before = job.answers(base=True)
    losses_before = job.base_losses()
    job.tracker.metrics(0, {"eval/loss": mean_loss(losses_before)})
    fitted = _fit(job, resume_from)
    with job.show.stage("measuring the tuned model's held-out loss"):
        losses_after = job.losses()
    job.tracker.metrics(
        fitted.last_step, {"eval/loss": _of_numbers(losses_after, fitted.last_step)}
    )
    after = job.answers(base=False)
    record = job.record((before, after), (losses_before, losses_after))
    card = measuring.card(record, job.run.evaluation, job.tuned.stack)
    with job.show.stage("saving the adapter"):
        folder = job.invocation.output_dir / "adapter"
        adapter = artifact.save_adapter(job.tuned, folder, job.invocation.composed_yaml, job.base)
    outcome = _outcome(job, fitted, (losses_before, losses_after), card)
    result = TrainResult(outcome, adapter, job.tracker.run_id, job.tracker.latest)
    page = _log_end(job, result, record, card)
    _print(job, result, record, card)
    job.show.result(f"Before and after side by side: {short(page)}")
    return result


def _of_numbers(losses: Sequence[CaseLoss], step: int) -> float:
    """The mean of held-out losses.

    Raises: TrainingDiverged if it is no number.
    """
    loss = mean_loss(losses)
    if not math.isfinite(loss):
        raise TrainingDiverged(
            f"the held-out loss is {loss} after step {step}; lower training.learning_rate, or"
            " lengthen training.warmup_steps"
        )
    return loss


def _fit(job: Job, resume_from: Path | None) -> Fitted:
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
            [progress, Recorder(job)],
        )


class Recorder:
    """A watcher: every step to MLflow, and the held-out loss every so many steps (the last one is
    measured afterwards).
    """

    def __init__(self, job: Job):
        self._job = job
        self._spill = guard.SpillGuard(job.meter, machine.read().system)

    def stepped(self, step: int, metrics: dict[str, float]) -> None:
        """Log the step."""
        job, memory = self._job, {}
        if job.meter.on_card:
            memory = {
                "vram/reserved_gib": gib(job.meter.reserved_bytes()),
                "vram/peak_gib": gib(job.meter.peak_bytes()),
                "vram/peak_allocated_gib": gib(job.meter.peak_allocated_bytes()),
                "vram/alloc_retries": float(job.meter.retries()),
            }
            self._spill.stepped(metrics["speed/step_s"], self._planned_s(step))
        job.tracker.metrics(step, metrics | memory)
        if job.part:
            job.part.stepped(step, job.ready.steps)
        if step % job.run.evaluation.every_steps == 0 and step < job.ready.steps:
            loss = _of_numbers(job.losses(), step)
            job.tracker.metrics(step, {"eval/loss": loss})
            job.show.say(f"  step {step}/{job.ready.steps}  held-out loss {loss:.4f}")
            if job.part:
                job.part.report(step, loss)

    def _planned_s(self, step: int) -> float | None:
        """What `step` should take; None where the card's pace is not known."""
        run, plan = self._job.run, self._job.plan
        if plan is None or not plan.is_timed:
            return None
        return trainer.step_seconds(
            run, [len(row.input_ids) for row in trainer.rows_of(run, self._job.ready.rows, step)]
        )


def _run_name(run: RunConfig, invocation: Invocation, part: Part | None = None) -> str:
    return run.tracking.run_name or (
        part.ticket.name if part else run_name(run, invocation.overrides)
    )


def _headline(run: RunConfig, work: Workspace) -> str:
    checkpoint = work.last_checkpoint()
    news = (
        "" if work.is_new else f", continued from {checkpoint.name if checkpoint else 'the start'}"
    )
    return (
        f" on {run.dataset.name}, hardware={run.hardware.name}, engine"
        f" {run.hardware.engine.value}{news}"
    )


def _log_start(
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
    tracker.note(note.begun(run, note.question(invocation.experiment_yaml)))
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
    tracker.text(invocation.composed_yaml, "config/composed.yaml")
    if run.lora.start_from is not None and run.tracking.log_adapter:
        tracker.folder(Path(run.lora.start_from), STARTED_FROM)
    tracker.text(with_tilde("\n".join(invocation.overrides) + "\n"), "config/overrides.txt")
    tracker.json({"packages": environment(), "machine": asdict(machine.read())}, "environment.json")


def _outcome(
    job: Job, fitted: Fitted, losses: tuple[list[CaseLoss], list[CaseLoss]], card: Card
) -> report.Outcome:
    before, after = losses
    return report.Outcome(
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


def _log_end(job: Job, result: TrainResult, record: Record, card: Card) -> Path:
    """Keep the figures and the answers; returns where report.html lies."""
    texts = [each.base.text for each in record.cases], [each.tuned.text for each in record.cases]
    job.tracker.table(report.before_after(job.ready.asked, *texts), "answers/before_after.json")
    job.tracker.metrics(result.outcome.steps, report.metrics(result.outcome))
    outcome, name = result.outcome, _run_name(job.run, job.invocation, job.part)
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
    asked = note.question(job.invocation.experiment_yaml)
    job.tracker.note(
        note.finished(job.run, asked, outcome, card, job.tracker.page, job.tracker.run_id)
    )
    about = About(
        f"{job.run.model.name} {name} on {job.run.dataset.name}",
        report.summary(outcome, f"{result.adapter.name}/ beside this page", result.run_id),
        planned_bytes=outcome.planned_bytes,
        measured_bytes=outcome.peak_bytes,
        ceiling_bytes=outcome.ceiling_bytes,
        **read_loss_curves(job.tracker),
    )
    return publish_evaluation(
        job.tracker, record, card, about, outcome.steps, job.invocation.output_dir
    )


def _print(job: Job, result: TrainResult, record: Record, card: Card) -> None:
    for case in record.cases:
        pair = [report.clipped(case.base.text, 900), report.clipped(case.tuned.text, 900)]
        job.show.table(
            f"Held out: {case.question}", ("before (base)", "after (tuned)"), [pair], prose=True
        )
    if record.cases:
        job.show.result(f"{report.NOT_FOR_CLINICAL_USE}\n", style="italic")
    print_scorecard(job.show, "What changed", record, card)
    job.show.table(
        "This run",
        ("", ""),
        report.summary(result.outcome, str(short(result.adapter)), result.run_id),
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
