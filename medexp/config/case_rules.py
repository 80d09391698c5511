"""The rules of cases, prompts, what is measured with them, and where weights come from."""

import re
from collections.abc import Iterator
from dataclasses import replace

from medexp.config.schema import (
    Benchmark,
    Dataset,
    Overlong,
    PromptForm,
    RunConfig,
    Source,
)
from medexp.errors import listing, nearest

# Who answers: the base asked with the training prompt, the base asked its best way, the adapter.
ARMS = ("base", "base_best", "tuned")
# A word in braces in a prompt.
PLACEHOLDER = re.compile(r"\{(\w+)\}")


def check_prompt(config: RunConfig) -> Iterator[str]:
    """Yield what a prompt lacks: places for question and answer, a template, its marks."""
    prompt = config.prompt
    in_question = PLACEHOLDER.findall(prompt.question)
    in_completion = PLACEHOLDER.findall(prompt.completion)
    if in_question != ["question"]:
        yield "prompt.question must hold {question} exactly once and no other placeholder"
    if in_completion not in (["answer"], ["reasoning", "answer"]):
        yield (
            "prompt.completion must hold {answer}, before it {reasoning} where the prompt reasons,"
            " and no other placeholder"
        )
    if prompt.form is PromptForm.chat and prompt.question != "{question}":
        yield (
            f"prompt.question={prompt.question[:40]!r} goes with prompt.form=text alone: with chat"
            " the chat template writes what stands around a question; set it to {question}, and"
            " say instructions in prompt.system"
        )
    if prompt.form is PromptForm.chat and in_completion == ["answer"]:
        yield (
            "prompt.completion has no {reasoning} and prompt.form=chat: with chat it is left out by"
            " itself where a case has none; set it as conf/prompt/chat.yaml does"
        )
    if prompt.form is PromptForm.text and prompt.system is not None:
        yield (
            f"prompt.system is set and prompt={prompt.name} has no place for it; use prompt=chat,"
            " or write it into prompt.question"
        )
    if config.dataset.overlong is Overlong.trim_reasoning and "reasoning" not in in_completion:
        yield (
            "dataset.overlong=trim_reasoning needs a prompt with reasoning and"
            f" prompt={prompt.name} has none; use drop or error"
        )


def check_cases(config: RunConfig) -> Iterator[str]:
    """Yield sources, parts and lengths of cases that cannot be had."""
    dataset = config.dataset
    if dataset.name == "mixture" and not dataset.mixture:
        yield (
            "dataset=mixture has no parts: set 'dataset.mixture=[{use: OPTION, weight: NUMBER},"
            " ...]'"
        )
    elif dataset.mixture:
        yield from _check_mixture(dataset)
    elif dataset.path is None and dataset.hub_id is None:
        yield (
            f"dataset={dataset.name} has no file: set dataset.path=FILE (JSON, JSONL, CSV, TSV or"
            " Parquet) or dataset.hub_id"
        )
    if dataset.max_cases is not None and dataset.held_out >= dataset.max_cases:
        yield (
            f"dataset.held_out={dataset.held_out} leaves nothing to train on with"
            f" dataset.max_cases={dataset.max_cases}"
        )
    elif (
        dataset.max_cases is not None and dataset.held_out + dataset.validation >= dataset.max_cases
    ):
        yield (
            f"dataset.held_out={dataset.held_out} and dataset.validation={dataset.validation} leave"
            f" nothing to train on with dataset.max_cases={dataset.max_cases}"
        )
    sources = [dataset, *dataset.mixture, dataset.held_out_from]
    for source in (source for source in sources if isinstance(source, Source)):
        if (source.test_share or 0) + source.validation_share >= 1:
            yield (
                f"dataset.test_share={source.test_share} and"
                f" dataset.validation_share={source.validation_share} of {source.name} leave"
                " nothing to train on; together they must be below 1"
            )
    if config.evaluation.answers > dataset.held_out:
        yield (
            f"evaluation.answers={config.evaluation.answers} is more than"
            f" dataset.held_out={dataset.held_out}: only held-out questions are answered; lower the"
            " first or raise the second"
        )
    training = config.training
    needs_validation = {
        "training.keep_best=true": training.keep_best,
        f"training.early_stopping_patience={training.early_stopping_patience}": (
            training.early_stopping_patience is not None
        ),
    }
    for setting, is_set in needs_validation.items():
        if is_set and not dataset.validation:
            yield (
                f"{setting} chooses by the loss on validation cases and dataset.validation=0 holds"
                " none out; set dataset.validation=16, or leave it out"
            )


def _check_mixture(dataset: Dataset) -> Iterator[str]:
    if dataset.path is not None or dataset.hub_id is not None:
        yield (
            f"dataset={dataset.name} has a file of its own ({dataset.path or dataset.hub_id}) and"
            " dataset.mixture too; use dataset=mixture, and set the file of a part in its entry"
            " (dataset.mixture.0.path=FILE)"
        )
    for place, source in enumerate(dataset.mixture):
        if source.path is None and source.hub_id is None:
            yield (
                f"dataset.mixture[{place}] ({source.name}) has no file: give its entry a path"
                " (JSON, JSONL, CSV, TSV or Parquet)"
            )
        if any(
            replace(source, weight=1.0) == replace(earlier, weight=1.0)
            for earlier in dataset.mixture[:place]
        ):
            yield (
                f"dataset.mixture[{place}] ({source.name}) stands there twice; give it one entry"
                " with both weights added"
            )


def check_arms(config: RunConfig) -> Iterator[str]:
    """Yield arms, draws and temperatures that say nothing."""
    evaluation = config.evaluation
    for arm in evaluation.arms:
        if arm not in ARMS:
            yield f"evaluation.arms has {arm}; allowed are {listing(ARMS)}{nearest(arm, ARMS)}"
    for arm in ("base", "tuned"):
        if arm not in evaluation.arms:
            yield (
                f"evaluation.arms={listing(evaluation.arms)} lacks {arm}: what fine-tuning changed"
                " is measured between base and tuned; evaluation.arms=[base,base_best,tuned] adds"
                " the base asked its best way"
            )
    if evaluation.draws > 1 and not evaluation.temperature:
        yield (
            f"evaluation.draws={evaluation.draws} with evaluation.temperature=0 gives the same"
            " answer again; set evaluation.temperature=0.7, or evaluation.draws=1"
        )


def check_benchmarks(config: RunConfig) -> Iterator[str]:
    """Yield benchmarks that are unknown, or have no file."""
    known = [benchmark.value for benchmark in Benchmark]
    for name in config.evaluation.benchmarks:
        if name not in known:
            yield (
                f"evaluation.benchmarks has {name}; allowed are"
                f" {listing(known)}{nearest(name, known)}"
            )
    files = vars(config.evaluation.benchmark_files)
    for benchmark in (Benchmark.medbullets, Benchmark.medxpertqa):
        if benchmark.value in config.evaluation.benchmarks and not files[benchmark.value]:
            yield (
                f"evaluation.benchmarks has {benchmark.value}, which is read from a file alone; set"
                f" evaluation.benchmark_files.{benchmark.value}=FILE"
            )
    if config.evaluation.benchmark_reasoning and not any(files.values()):
        yield (
            "evaluation.benchmark_reasoning=true asks the questions of evaluation.benchmark_files"
            " and none is set; set evaluation.benchmark_files.medqa=FILE or another of"
            f" {listing(known)}"
        )


def check_judge(config: RunConfig) -> Iterator[str]:
    """Yield what the judging model lacks."""
    judge = config.evaluation.judge
    if judge.model is None:
        return
    if judge.url is None or not judge.url.startswith(("http://", "https://")):
        yield (
            f"evaluation.judge.url={judge.url} is no endpoint; give the whole address, as in"
            " http://127.0.0.1:8000/v1/chat/completions"
        )
    if judge.instructions is None or "{{ outputs }}" not in judge.instructions:
        yield (
            "evaluation.judge.instructions must hold {{ outputs }}, and may hold {{ inputs }} and"
            " {{ expectations }}"
        )


def check_weights(config: RunConfig) -> Iterator[str]:
    """Yield a model whose weights nobody can find."""
    model = config.model
    if model.path is None and model.package is None and model.hub_id is None:
        yield f"model={model.name} has no weights: set model.path=FOLDER or model.hub_id=OWNER/NAME"
    if model.shape.heads % model.shape.kv_heads:
        yield (
            f"model.shape.heads={model.shape.heads} is not a multiple of"
            f" model.shape.kv_heads={model.shape.kv_heads}"
        )


# Each yields one sentence for every problem of a whole config.
