"""Whole runs with a validation part: it chooses on the way, and the test part judges once."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from helpers.commands import TinyRuns, invoke
from safetensors.torch import load_file

from medexp.errors import TrialPaused
from medexp.evaluation.evaluator import Evaluator
from medexp.evaluation.record import CaseLoss
from medexp.system.console import Console
from medexp.training.run import train

VALIDATED = [
    "dataset.validation=4",
    "training.max_steps=6",
    "training.save_steps=2",
    "evaluation.every_steps=2",
    "training.micro_batch=2",
]


class Trial:
    """A place in a sweep that remembers what it was told."""

    name, tags = "trial 0", {"medexp.trial": "0"}

    def __init__(self, chooses: bool = True) -> None:
        self.chooses = chooses
        self.losses: dict[int, float] = {}
        self.pauses_at: int | None = None
        self.resumed_after: list[int] = []

    def report_progress(self, step: int, steps: int) -> None:
        pass

    def report(self, step: int, loss: float) -> None:
        self.losses[step] = loss
        if step == self.pauses_at:
            raise TrialPaused(f"held-out loss {loss:.4f} after step {step}")

    def resume(self, step: int) -> None:
        self.resumed_after.append(step)


def stored_record(folder: Path) -> dict:
    return json.loads(next(folder.rglob("record.json")).read_text())


def test_the_curve_is_of_the_validation_part_and_the_judgement_of_the_test_part(
    tiny_runs: TinyRuns,
) -> None:
    plain, parted = tiny_runs.train(name="plain"), tiny_runs.train(*VALIDATED, name="parted")
    assert set(tiny_runs.history(parted.run_id, "eval/loss")) == {0, 2, 4, 6}
    # The test part is that of a run without validation cases, and its loss no part of the curve.
    assert parted.outcome.loss_before == plain.outcome.loss_before
    assert tiny_runs.history(parted.run_id, "eval/loss")[0] != pytest.approx(
        parted.outcome.loss_before
    )
    client = tiny_runs.client()
    assert client.get_run(plain.run_id).data.tags["medexp.test_part_opened"] == "1"
    assert client.get_run(parted.run_id).data.tags["medexp.test_part_opened"] == "2"
    page = (tiny_runs.root / "parted" / "report.html").read_text()
    assert "opened 2 times in this store" in page


def rising_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every validation loss be higher than the one before."""
    calls = itertools.count(10)
    monkeypatch.setattr(
        Evaluator,
        "measure_validation_losses",
        lambda _: [CaseLoss(float(next(calls)), 1)],
    )


def test_the_adapter_of_the_best_step_is_the_one_that_is_kept(
    tiny_runs: TinyRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    constant = ["training.schedule=constant", "training.warmup_steps=0"]
    short = tiny_runs.train(*VALIDATED, *constant, "training.max_steps=2", name="short")
    rising_losses(monkeypatch)
    best = tiny_runs.train(*VALIDATED, *constant, "training.keep_best=true", name="best")
    last = tiny_runs.train(*VALIDATED, *constant, name="last")
    assert tiny_runs.client().get_run(best.run_id).data.tags["medexp.kept_step"] == "2"
    weights = [
        load_file(result.adapter / "adapter_model.safetensors") for result in (short, best, last)
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(torch.equal(weights[1][name], weights[2][name]) for name in weights[0])
    assert best.outcome.loss_after == short.outcome.loss_after


def test_training_ends_when_the_validation_loss_no_longer_falls(
    tiny_runs: TinyRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    rising_losses(monkeypatch)
    result = tiny_runs.train(*VALIDATED, "training.early_stopping_patience=1")
    # The lowest after step 2, higher after step 4: that is one evaluation without a fall.
    assert result.outcome.steps == 4


def test_a_trial_of_a_sweep_is_measured_on_validation_cases_and_opens_no_test_part(
    tiny_runs: TinyRuns,
) -> None:
    trial = Trial()
    more = [*VALIDATED, "evaluation.answers=1"]
    result = train(
        tiny_runs.run(*more),
        invoke(tiny_runs.root / "trial", more, "composed: yaml\n"),
        Console(),
        trial,
    )
    judged = tiny_runs.train(*more, name="judged")
    tried, tested = (
        stored_record(tiny_runs.root / "trial"),
        stored_record(tiny_runs.root / "judged"),
    )
    assert not set(tried["held_out"]) & set(tested["held_out"])
    assert trial.losses == pytest.approx(
        {step: tiny_runs.history(judged.run_id, "eval/loss")[step] for step in (2, 4)}
    )
    tags = tiny_runs.client().get_run(result.run_id).data.tags
    assert "medexp.test_part_opened" not in tags
    assert tiny_runs.client().get_run(judged.run_id).data.tags["medexp.test_part_opened"] == "1"
    assert (
        "this trial was measured on validation cases"
        in (tiny_runs.root / "trial" / "report.html").read_text()
    )


def test_a_paused_trial_goes_on_to_the_losses_of_one_that_ran_through(
    tiny_runs: TinyRuns,
) -> None:
    more = [*VALIDATED, "training.save_steps=50", "lora.dropout=0.1", "evaluation.answers=0"]

    def go(trial: Trial, name: str, *also: str) -> str:
        overrides = [*more, *also]
        invocation = invoke(tiny_runs.root / name, overrides, "composed: yaml\n")
        return train(tiny_runs.run(*overrides), invocation, Console(), trial).run_id

    unbroken = go(Trial(), "unbroken", "training.resume=never")
    trial = Trial()
    trial.pauses_at = 2
    with pytest.raises(TrialPaused):
        go(trial, "paused")
    (run,) = [run for run in tiny_runs.runs() if run.info.run_id != unbroken]
    assert (run.info.status, run.data.tags["medexp.reason"]) == ("KILLED", "paused")
    continued = go(trial, "continued")
    assert (continued, trial.resumed_after) == (run.info.run_id, [2])
    for figure in ("train/loss", "train/learning_rate", "eval/loss"):
        history = tiny_runs.history(unbroken, figure)
        assert tiny_runs.history(continued, figure) == history
    assert trial.losses == {step: history[step] for step in (2, 4)}
    assert not list((tiny_runs.root / "mlruns/unfinished").glob("*/checkpoints"))


def test_a_repeat_with_another_seed_judges_on_the_test_part(tiny_runs: TinyRuns) -> None:
    more = [*VALIDATED, "evaluation.answers=0"]
    invocation = invoke(tiny_runs.root / "seed", more, "composed: yaml\n")
    result = train(tiny_runs.run(*more), invocation, Console(), Trial(chooses=False))
    tags = tiny_runs.client().get_run(result.run_id).data.tags
    assert tags["medexp.test_part_opened"] == "1"


def test_groups_and_primary_measures_are_in_the_record(tiny_runs: TinyRuns) -> None:
    tiny_runs.train("evaluation.primary=[structure]", "dataset.held_out=4")
    record = stored_record(tiny_runs.root / "out")
    assert record["primary"] == ["structure"]
    # Groups are whole: as many as it takes to have four cases.
    assert len(record["groups"]) == len(record["held_out"]) >= 4
    assert 1 < len(set(record["groups"])) < len(record["groups"])
    assert all(group.startswith("group=") for group in record["groups"])


def test_three_arms_and_several_draws_are_answered_kept_and_made_once(tiny_runs: TinyRuns) -> None:
    more = [
        "evaluation.arms=[base,base_best,tuned]",
        "evaluation.draws=2",
        "evaluation.temperature=0.7",
    ]
    tiny_runs.train(*more, name="first")
    record = stored_record(tiny_runs.root / "first")
    (case, _) = record["cases"]
    # So small a model says the same to both prompts: every arm draws from the same seeds.
    assert case["base_best"]["tokens"] == 16
    assert {arm: len(draws) for arm, draws in case["draws"].items()} == {
        "base": 1,
        "base_best": 1,
        "tuned": 1,
    }
    assert case["draws"]["tuned"][0]["text"] != case["tuned"]["text"]
    # The base's answers, asked both ways and drawn twice, are not made again for another adapter.
    files = {file: file.stat().st_mtime_ns for file in (tiny_runs.root / "mlruns/base").iterdir()}
    assert len([file for file in files if file.name.startswith("answers")]) == 4
    tiny_runs.train(*more, "lora.r=4", name="second")
    assert {
        file: file.stat().st_mtime_ns for file in (tiny_runs.root / "mlruns/base").iterdir()
    } == files
    again = stored_record(tiny_runs.root / "second")
    assert again["cases"][0]["base_best"] == case["base_best"]
    assert "base, asked its best way" in (tiny_runs.root / "second" / "report.html").read_text()
