"""Medical multiple-choice benchmarks through lm-eval: the base and the tuned model on the same
questions, in one process.

By name from the Hub, or from local files of the same schemas. Each question is right or wrong; what
that means over all is arithmetic for `scorecard`.
"""

import importlib
import importlib.util
import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from medexp.config.schema import Benchmark, Evaluation
from medexp.errors import DataError, MachineError
from medexp.evaluation.benchmark_questions import ChoiceQuestion
from medexp.evaluation.record import BenchmarkGrades
from medexp.models.adapter_model import AdapterModel
from medexp.system import hub

MMLU_SUBJECTS = (
    "anatomy",
    "clinical_knowledge",
    "college_biology",
    "college_medicine",
    "medical_genetics",
    "professional_medicine",
)
ON_HUB: Mapping[Benchmark, Sequence[str]] = {
    Benchmark.medqa: ("medqa_4options",),
    Benchmark.medmcqa: ("medmcqa",),
    Benchmark.pubmedqa: ("pubmedqa",),
    Benchmark.mmlu_medical: tuple(f"mmlu_{subject}" for subject in MMLU_SUBJECTS),
}
LocalQuestions = Mapping[Benchmark, Sequence[ChoiceQuestion]]


def is_installed() -> bool:
    """Return whether lm-eval can be imported."""
    return importlib.util.find_spec("lm_eval") is not None


def check_installed() -> None:
    """Refuse to go on where lm-eval is not installed.

    Raises: MachineError saying how to have it.
    """
    if not is_installed():
        raise MachineError(
            "evaluation.benchmarks needs the benchmarks extra (lm_eval is missing): "
            "pip install 'medexp[benchmarks]', or leave benchmarks and benchmark_files out"
        )


def grade_benchmarks(
    model: AdapterModel, evaluation: Evaluation, local: LocalQuestions
) -> dict[str, BenchmarkGrades]:
    """Return for each benchmark asked for, by name, which questions the base answered right, and
    which the model with the adapter.

    Raises: DataError if a benchmark without a file cannot be downloaded from the Hub.
    """
    with TemporaryDirectory() as folder, _silence_harness():
        tasks = {
            benchmark: _write_local_task(benchmark, local[benchmark], Path(folder))
            if benchmark in local
            else ON_HUB[benchmark]
            for benchmark in Benchmark
            if benchmark in local or benchmark.value in evaluation.benchmarks
        }
        harness = importlib.import_module("lm_eval")
        manager = importlib.import_module("lm_eval.tasks").TaskManager(include_path=folder)
        base = _grade(harness, manager, model, tasks, evaluation, is_base=True)
        tuned = _grade(harness, manager, model, tasks, evaluation, is_base=False)
    return {
        benchmark.value: BenchmarkGrades(base[benchmark], tuned[benchmark]) for benchmark in tasks
    }


def _write_local_task(
    benchmark: Benchmark, questions: Sequence[ChoiceQuestion], folder: Path
) -> Sequence[str]:
    """Write the questions and an lm-eval task over them; return the task's name."""
    name = f"medexp_{benchmark.value}"
    file = folder / f"{name}.jsonl"
    rows = "".join(json.dumps(asdict(question)) + "\n" for question in questions)
    file.write_text(rows, encoding="utf-8")
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{prompt}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{right}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    # JSON is YAML, too.
    (folder / f"{name}.yaml").write_text(json.dumps(task), encoding="utf-8")
    return (name,)


def _grade(
    harness: Any,
    manager: Any,
    model: AdapterModel,
    tasks: Mapping[Benchmark, Sequence[str]],
    evaluation: Evaluation,
    is_base: bool,
) -> dict[Benchmark, tuple[bool, ...]]:
    wrapped = importlib.import_module("lm_eval.models.huggingface").HFLM(
        pretrained=model.network.get_base_model(),
        tokenizer=model.tokenizer,
        batch_size=evaluation.batch_size,
    )
    with model.evaluation_mode(), model.adapter_disabled() if is_base else nullcontext():
        try:
            with hub.translate_hub_errors():
                results = harness.simple_evaluate(
                    model=wrapped,
                    tasks=[name for names in tasks.values() for name in names],
                    task_manager=manager,
                    num_fewshot=0,
                    limit=evaluation.benchmark_limit,
                    bootstrap_iters=0,
                    log_samples=True,
                )
        except hub.HubError as error:
            raise DataError(
                f"evaluation.benchmarks could not be downloaded from the Hub: {error}. "
                "Set evaluation.benchmark_files to local files of the same schemas"
            ) from error
    samples: dict[str, list[dict[str, Any]]] = results["samples"]
    return {
        benchmark: tuple(
            bool(sample["acc"])
            for name in names
            for sample in sorted(samples[name], key=lambda sample: sample["doc_id"])
        )
        for benchmark, names in tasks.items()
    }


@contextmanager
def _silence_harness() -> Iterator[None]:
    """Drop what lm-eval prints; its warnings are about tasks that are not asked for."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield
