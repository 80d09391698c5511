"""python -m medexp.evaluate: what fine-tuning changed in the answers of a finished run, measured
again or measured more.

    python -m medexp.evaluate run=1dcdb30943f842af9120e49a56f8725b             # an MLflow run id
    # or the folder of an adapter
    python -m medexp.evaluate run=outputs/2026-11-22/17-49-37/adapter
    # the stored answers scored again: no model, seconds
    python -m medexp.evaluate run=1dcdb309... evaluate.rescore=true

Model, data, prompt and held-out cases are those of the run; what the command line names wins over
them. Base and tuned model are asked the same questions. The figures go to an MLflow run
of their own, below the one that was measured.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medexp.cli.app import run_command
from medexp.cli.composition import CommandSpec
from medexp.config.command_options import EvaluateOptions
from medexp.config.flatten import comparable_params
from medexp.config.invocation import AnyInvocation, Invocation
from medexp.config.schema import Benchmark, Evaluation, Prompt, RunConfig
from medexp.data import loading as data_loading
from medexp.data import mixture
from medexp.data.prompts import digest_cases
from medexp.data.split import Split
from medexp.data.tokenizer_cache import CachedTokenizer
from medexp.errors import RunError
from medexp.evaluation import benchmarks, evaluator, verification
from medexp.evaluation.baseline_cache import open_baseline_cache
from medexp.evaluation.benchmark_questions import ChoiceQuestion, parse_questions
from medexp.evaluation.evaluator import Evaluator
from medexp.evaluation.measures import lexicon
from medexp.evaluation.noise_floor import MeasureNoise, measure_noise
from medexp.evaluation.record import BenchmarkGrades, Record
from medexp.evaluation.scorecard import Scorecard
from medexp.models import backend
from medexp.models.memory_guard import memory_phase
from medexp.models.ranks import open_ranks
from medexp.models.session import (
    load_model_under_ceiling,
    open_session,
    prepare_finished_run,
    share_model,
)
from medexp.planning.memory_terms import Phase
from medexp.reports import mlflow_description, summary
from medexp.reports.console_tables import describe_noise, print_noise_floor, print_scorecard
from medexp.reports.publish import publish_evaluation, read_loss_curves
from medexp.reports.run_report import ReportHeader
from medexp.system import machine
from medexp.system.console import DONE, NOTE, Console
from medexp.system.home import short, with_tilde
from medexp.system.units import bytes_of_gib, format_duration
from medexp.tracking import finished_run, queries
from medexp.tracking import tracker as tracking
from medexp.tracking.artifact_names import COMPOSED_CONFIG, RECORD
from medexp.tracking.finished_run import FinishedRun
from medexp.tracking.openings import describe_openings, record_opening
from medexp.training.resume import ResumableRun, acquire_run, list_dead_mlflow_runs


def evaluate(
    config: RunConfig,
    options: EvaluateOptions,
    run: FinishedRun,
    invocation: AnyInvocation,
    console: Console,
) -> Scorecard:
    """Measure `run`, which was made with `config`, print and store what changed; return it.

    Raises: any error of `medexp.errors`; answers made until then are kept, and the same call
        continues it.
    """
    evaluator.check_primary(config.evaluation)
    verification.check_verifier(config.evaluation)
    began = time.perf_counter()
    if options.rescore:
        record, scorecard = _rescore(config, run, console)
        published = _publish(config, invocation, run, record, scorecard, None)
        noise: list[MeasureNoise] = []
    else:
        record, scorecard, published, noise = _measure(config, options, invocation, run, console)
    console.result(f"{summary.NOT_FOR_CLINICAL_USE}\n", style="italic")
    print_scorecard(console, f"What changed: {run.name}", record, scorecard)
    if noise:
        print_noise_floor(console, noise)
    console.result(
        f"Before and after side by side: {short(published.page)}\nMLflow run {published.run_id},"
        f" {format_duration(time.perf_counter() - began)}"
    )
    return scorecard


@dataclass(frozen=True)
class PublishedEvaluation:
    """An evaluation that is in MLflow: its run there, and where its report.html lies."""

    run_id: str
    page: Path


def _publish(
    config: RunConfig,
    invocation: AnyInvocation,
    run: FinishedRun,
    record: Record,
    scorecard: Scorecard,
    work: ResumableRun | None,
    noise: Sequence[MeasureNoise] = (),
) -> PublishedEvaluation:
    """Store `scorecard` as a run of MLflow, and return where.

    It is the run of `work` where an earlier process was stopped in the middle of this.
    """
    queries.mark_runs_killed(config.tracking, list_dead_mlflow_runs(config.tracking))
    earlier_id = work.mlflow_run_id if work else None
    with tracking.open_run(config.tracking, earlier_id, f"evaluate {run.name}") as tracker:
        if work is not None:
            work.remember_mlflow_run(tracker.run_id)
        tracker.set_tags(_make_tags(run))
        tracker.log_params(comparable_params(config, invocation.overrides))
        tracker.log_text(invocation.composed_yaml, COMPOSED_CONFIG)
        header = _make_report_header(config, run, record, tracker.run_id)
        # Who only scores stored answers again has looked at these cases before: nothing is opened.
        if work is not None and record.held_out:
            count = record_opening(config.tracking.root, record.held_out, tracker.run_id)
            tracker.set_tags({"medexp.test_part_opened": count})
            facts = [*header.facts, ("test part", describe_openings(count))]
            header = replace(header, facts=facts)
        if noise:
            floors = {f"noise/{moved.measure.key}": moved.floor for moved in noise}
            tracker.log_metrics(0, floors)
            facts = [*header.facts, ("noise floor", describe_noise(noise))]
            header = replace(header, facts=facts)
        page = publish_evaluation(tracker, record, scorecard, header, 0, invocation.output_dir)
        tracker.set_description(mlflow_description.describe_evaluation(scorecard, tracker.page))
        return PublishedEvaluation(tracker.run_id, page)


def _measure(
    config: RunConfig,
    options: EvaluateOptions,
    invocation: AnyInvocation,
    run: FinishedRun,
    console: Console,
) -> tuple[Record, Scorecard, PublishedEvaluation, list[MeasureNoise]]:
    """Load base and adapter, ask both, score the answers, and store them."""
    config, weights = prepare_finished_run(config, run, console)
    questions = _read_benchmark_questions(config.evaluation)
    cases = data_loading.load_cases(config.dataset, config.prompt)
    sides = mixture.split_mixture(cases.by_source, config.dataset, cases.reading)
    with (
        acquire_run(config, cases.digest, "evaluate-{}") as work,
        open_ranks(config.hardware, invocation.output_dir) as ranks,
    ):
        console.info(
            f": {config.model.name} on {config.dataset.name}, hardware={config.hardware.name}",
            title=run.name,
        )
        base = open_session(config, weights, console)
        config = base.config
        _point_out_other_cases(run, config.prompt, sides, console)
        data = CachedTokenizer(base.tokenizer, config.prompt).prepare_cases(config, sides)
        tuned = load_model_under_ceiling(config, base, console)
        if ranks is not None:
            share_model(ranks, tuned, config, base.weights, console)
        job = Evaluator(
            config,
            console,
            work.answers_file,
            data,
            tuned,
            base.meter,
            open_baseline_cache(config, base.weights, data),
        )
        record = _measure_both_models(job, questions)
        scorecard = evaluator.score_record(record, config.evaluation, base.modules)
        noise: list[MeasureNoise] = []
        if options.noise_floor and record.cases:
            noise = measure_noise(record, *job.repeat_in_other_batches(), lexicon.load())
        published = _publish(config, invocation, run, record, scorecard, work, noise)
        # Last: until they are published, the answers lie nowhere else.
        work.finish()
    return record, scorecard, published, noise


def _measure_both_models(
    job: Evaluator, questions: dict[Benchmark, list[ChoiceQuestion]]
) -> Record:
    """Return losses, answers and benchmark grades of base and tuned model."""
    losses_before = job.measure_base_losses()
    with job.console.status("measuring the tuned model's held-out loss"):
        losses_after = job.measure_losses()
    record = job.build_record(
        job.generate_base_answers() | {"tuned": job.generate_answers("tuned")},
        (losses_before, losses_after),
    )
    return replace(record, benchmarks=_ask_benchmarks(job, questions))


def _ask_benchmarks(
    job: Evaluator, questions: dict[Benchmark, list[ChoiceQuestion]]
) -> dict[str, BenchmarkGrades]:
    """Return the grades by likelihood, and by reasoned answers where those are asked for."""
    evaluation, grades = job.config.evaluation, {}
    if evaluation.benchmark_reasoning:
        grades = job.answer_benchmarks(questions)
        if not benchmarks.is_installed():
            job.console.info(
                "lm-eval is not installed, so benchmarks are answered with reasoning alone", NOTE
            )
            return grades
    if not questions and not evaluation.benchmarks:
        return grades
    with (
        job.console.status("asking the benchmarks, base and tuned"),
        memory_phase(Phase.evaluation, "asking the benchmarks", job.meter),
    ):
        return benchmarks.grade_benchmarks(job.model, evaluation, questions) | grades


def _point_out_other_cases(
    run: FinishedRun, prompt: Prompt, sides: Split, console: Console
) -> None:
    known = (None, digest_cases(prompt, sides.held_out))
    if run.kept is not None and run.kept.held_out not in known:
        console.info(
            "these held-out cases are not those of the run: some of them may have been trained on",
            NOTE,
        )


def _read_benchmark_questions(evaluation: Evaluation) -> dict[Benchmark, list[ChoiceQuestion]]:
    """Return the questions of the benchmarks with a local file, before anything heavy is loaded."""
    files = {
        Benchmark(name): Path(file)
        for name, file in vars(evaluation.benchmark_files).items()
        if file is not None
    }
    if evaluation.benchmarks or (files and not evaluation.benchmark_reasoning):
        benchmarks.check_installed()
    return {
        benchmark: parse_questions(
            benchmark,
            data_loading.read_records(file, f"evaluation.benchmark_files.{benchmark.value}"),
            file.name,
        )
        for benchmark, file in files.items()
    }


def _rescore(config: RunConfig, run: FinishedRun, console: Console) -> tuple[Record, Scorecard]:
    """Score the stored answers, and say whether the figures are those stored with them."""
    if run.record is None:
        raise RunError(
            f"run={run.asked} has no stored answers ({RECORD}); leave evaluate.rescore=true out"
            " to have them made"
        )
    record = Record.from_json(
        run.record.read_text(encoding="utf-8"), f"{RECORD} of run {run.asked}"
    )
    modules = (
        backend.load_backend(config.hardware, machine.cache_dir())
        if config.evaluation.embedding
        else None
    )
    scorecard = evaluator.score_record(record, config.evaluation, modules)
    stored = run.kept.metrics if run.kept is not None else {}
    again = {name: value for name, value in scorecard.metrics().items() if name in stored}
    different = [name for name, value in again.items() if stored[name] != value]
    console.info(
        f"{len(again) - len(different)} of {len(again)} stored figures are the same to the digit",
        DONE,
    )
    for name in different:
        console.info(f"{name}: {stored[name]!r} is stored, {again[name]!r} now", NOTE)
    return record, scorecard


def _make_tags(run: FinishedRun) -> dict[str, object]:
    parent = run.kept.run_id if run.kept is not None else None
    return {
        "medexp.evaluates": run.asked,
        "mlflow.parentRunId": parent,
        "mlflow.source.name": "medexp.evaluate",
    }


def _make_report_header(
    config: RunConfig, run: FinishedRun, record: Record, run_id: str
) -> ReportHeader:
    """Return what report.html has beside the measures; for a run in MLflow also curves and VRAM."""
    facts = [
        ("evaluated", with_tilde(run.asked)),
        ("model", config.model.name),
        (
            "cases",
            f"{config.dataset.name}: {len(record.base_losses)} held out, {len(record.cases)}"
            " answered",
        ),
        ("MLflow run", run_id),
    ]
    if run.kept is None:
        return ReportHeader(run.name, facts)
    metrics = run.kept.metrics
    planned_bytes = int(metrics.get("vram/planned_bytes", 0))
    measured_bytes = int(metrics.get("vram/measured_bytes", 0))
    return ReportHeader(
        run.name,
        facts,
        planned_bytes=planned_bytes,
        measured_bytes=measured_bytes,
        ceiling_bytes=bytes_of_gib(config.hardware.vram_ceiling_gib or 0) if measured_bytes else 0,
        **read_loss_curves(run.kept.tracker),
    )


def _run(config: RunConfig, invocation: Invocation[EvaluateOptions, FinishedRun]) -> float:
    scorecard = evaluate(config, invocation.options, invocation.run, invocation, Console())
    result = scorecard.find_result("loss_answer")
    return result.after if result.after is not None else float("nan")


COMMAND = CommandSpec("evaluate", EvaluateOptions, recompose=finished_run.recompose_from_options)


def main() -> None:
    """Run the command that the command line describes; ends the process."""
    run_command(_run, COMMAND)


if __name__ == "__main__":
    main()
