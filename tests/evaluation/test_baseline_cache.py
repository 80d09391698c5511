"""The base is asked once by all runs that would hear the same from it, and again by one that would
not.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import TinyRuns, change_one_weight

from medexp.config.schema import RunConfig
from medexp.data import loading as data_loading
from medexp.data.encoding import make_vocabulary
from medexp.data.preparation import prepare
from medexp.data.split import split_cases
from medexp.evaluation import baseline_cache as known_base
from medexp.evaluation import evaluator, generation
from medexp.evaluation.record import CaseLoss, Record
from medexp.models import backend, weights
from medexp.models.tokenizer import load_tokenizer
from medexp.models.weights import Weights
from medexp.system import machine
from medexp.tracking.artifact_names import RECORD
from medexp.training.context import TrainResult


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Who was asked: a word for every batch of answers and every pass over the held-out cases."""
    heard: list[str] = []
    generate, measure = generation._generate, evaluator.measure_case_losses
    weigh = evaluator.score_diagnoses

    def answering(tuned: Any, prompts: Any, max_new_tokens: int, base: bool, how: Any) -> Any:
        heard.append("base answers" if base else "tuned answers")
        return generate(tuned, prompts, max_new_tokens, base, how)

    def measured(*args: Any) -> Any:
        heard.append("losses")
        return measure(*args)

    monkeypatch.setattr(generation, "_generate", answering)

    def weighed(*args: Any) -> Any:
        heard.append("likelihoods")
        return weigh(*args)

    monkeypatch.setattr(evaluator, "measure_case_losses", measured)
    monkeypatch.setattr(evaluator, "score_diagnoses", weighed)
    return heard


def base_side(tiny_runs: TinyRuns, result: TrainResult) -> tuple[object, ...]:
    record = Record.from_json((result.adapter.parent / RECORD).read_text(), "here")
    base = record.likelihoods["base"]
    assert len(base.diagnoses) == len(base.knowledge) == len(record.held_out)
    return [case.base for case in record.cases], record.base_losses, base


def test_a_second_run_does_not_ask_the_base_again(tiny_runs: TinyRuns, asked: list[str]) -> None:
    first = tiny_runs.train(name="first")
    assert asked == ["base answers", "losses", "losses", "tuned answers", *["likelihoods"] * 2]
    asked.clear()
    second = tiny_runs.train("training.learning_rate=5e-3", "lora.r=4", name="second")
    assert asked == ["losses", "tuned answers", "likelihoods"]
    assert base_side(tiny_runs, first) == base_side(tiny_runs, second)
    assert (
        tiny_runs.history(first.run_id, "eval/loss")[0]
        == tiny_runs.history(second.run_id, "eval/loss")[0]
    )


def test_it_is_asked_again_on_demand_and_says_the_same(
    tiny_runs: TinyRuns, asked: list[str]
) -> None:
    first = tiny_runs.train(name="first")
    asked.clear()
    second = tiny_runs.train("evaluation.reuse_base=false", "training.resume=never", name="second")
    assert asked == ["base answers", "losses", "losses", "tuned answers", *["likelihoods"] * 2]
    assert base_side(tiny_runs, first) == base_side(tiny_runs, second)


def files_of(run: RunConfig, found: Weights, tokenizer: Any) -> tuple[Path, Path, Path]:
    ready = prepare(
        run,
        split_cases(data_loading.load_cases(run.dataset).cases, run.dataset),
        make_vocabulary(tokenizer, run.prompt),
    )
    known = known_base.open_baseline_cache(run, found, ready)
    assert known is not None
    return known.answers_file(ready.prompts), known._losses, known._likelihoods["base"]


@pytest.fixture
def places(tiny_runs: TinyRuns) -> Callable[..., tuple[Path, Path, Path]]:
    """places(*overrides): where the base's answers and losses lie."""
    run = tiny_runs.run()
    found = weights.find_weights(run.model)
    tokenizer = load_tokenizer(found, backend.load_backend(run.hardware, machine.cache_dir()))
    return lambda *overrides: files_of(
        tiny_runs.run(*overrides), weights.find_weights(run.model), tokenizer
    )


def test_what_decides_it_and_nothing_else(
    places: Callable[..., tuple[Path, Path, Path]], tiny_runs: TinyRuns
) -> None:
    answers, losses, likelihoods = places()
    training = (
        "lora.r=4",
        "training.learning_rate=1e-3",
        "training.max_seq_tokens=600",
        "training.seed=5",
    )
    assert places(*training) == (answers, losses, likelihoods)
    only_answers = places("evaluation.answers=1"), places("evaluation.max_new_tokens=5")
    assert all(each[0] != answers and each[1:] == (losses, likelihoods) for each in only_answers)
    other = (
        places("dataset.split_seed=7"),
        places("prompt=direct"),
        places("hardware.dtype=float16"),
    )
    for each in other:
        assert not set(each) & {answers, losses, likelihoods}


def test_a_checkpoint_that_was_written_again_is_another_base(
    places: Callable[..., tuple[Path, Path, Path]], tiny_runs: TinyRuns
) -> None:
    before = places()
    file = tiny_runs.model / "model.safetensors"
    os.utime(file, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns + 1_000_000))
    assert not set(places()) & set(before)


def test_a_checkpoint_that_was_moved_is_the_same_base_and_another_in_its_place_is_not(
    tiny_model: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(tiny_model, tmp_path / "moved")
    assert known_base._describe_checkpoint(moved) == known_base._describe_checkpoint(tiny_model)
    file = moved / "model.safetensors"
    written = file.stat().st_mtime_ns
    change_one_weight(moved)
    os.utime(file, ns=(written, written))
    assert known_base._describe_checkpoint(moved) != known_base._describe_checkpoint(tiny_model)


@pytest.mark.parametrize("text", ["", "[{", '[{"nats": 1}]', "null"])
def test_losses_that_cannot_be_read_are_measured_again(tmp_path: Path, text: str) -> None:
    likelihoods = {"base": tmp_path / "likelihoods.json"}
    answers, losses = tmp_path / "answers.jsonl", tmp_path / "losses.json"
    known = known_base.BaselineCache(lambda *_: answers, losses, likelihoods)
    (tmp_path / "losses.json").write_text(text)
    (tmp_path / "likelihoods.json").write_text(text)
    assert known.load_likelihoods("base") is None
    assert known.load_losses() is None
    known.store_losses([CaseLoss(1.0, 2, 0.5, 1)])
    assert known.load_losses() == [CaseLoss(1.0, 2, 0.5, 1)]
