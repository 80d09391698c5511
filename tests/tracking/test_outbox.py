"""A store that another program holds: nothing that a run logs is lost, and no run ends for it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.commands import TinyRuns

from medexp.config.schema import Tracking
from medexp.errors import OutputError
from medexp.tracking import outbox, store_lock, tracker
from medexp.tracking.store import STORE
from medexp.tracking.tracker import open_run
from medexp.training.callbacks import StepRecorder

LOCK = """
import sqlite3, sys
with sqlite3.connect(sys.argv[1], isolation_level=None) as store:
    store.execute("BEGIN EXCLUSIVE")
    print("locked", flush=True)
    sys.stdin.readline()
"""


class Backup:
    """Another program, which holds the store from `begin` to `end`."""

    def __init__(self, file: Path):
        self._file = file
        self._process: subprocess.Popen[str] | None = None

    def begin(self) -> None:
        words, pipe = [sys.executable, "-c", LOCK, str(self._file)], subprocess.PIPE
        self._process = subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "locked\n"

    def end(self) -> None:
        if self._process is not None:
            self._process.communicate("\n")
            self._process = None


@pytest.fixture
def backup(tiny_runs: TinyRuns) -> Iterator[Backup]:
    made = Backup(tiny_runs.root / "mlruns" / STORE)
    yield made
    made.end()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second stands for a minute."""
    monkeypatch.setattr(store_lock, "WAITS_S", 1.0)
    monkeypatch.setattr(tracker, "WAITS_S", 1.0)
    monkeypatch.setattr(outbox, "SAYS_AFTER_S", 0.0)


@pytest.fixture
def during_training(monkeypatch: pytest.MonkeyPatch, backup: Backup):
    """during_training(begin, end): the store is held from one step to another."""

    def arrange(begin: int, end: int | None) -> None:
        on_step_end = StepRecorder.on_step_end

        def held(self, step: int, metrics: dict[str, float]) -> None:
            if step == begin:
                backup.begin()
            if step == end:
                backup.end()
            on_step_end(self, step, metrics)

        monkeypatch.setattr(StepRecorder, "on_step_end", held)

    return arrange


STEPS = ["training.max_steps=5", "evaluation.every_steps=3", "training.resume=never"]


def test_a_store_that_is_locked_for_a_while_has_everything(
    tiny_runs: TinyRuns, during_training, impatient: None, capsys: pytest.CaptureFixture[str]
) -> None:
    during_training(2, 5)
    result = tiny_runs.train(*STEPS)
    assert set(tiny_runs.history(result.run_id, "train/loss")) == {1, 2, 3, 4, 5}
    assert set(tiny_runs.history(result.run_id, "eval/loss")) == {0, 3, 5}
    assert tiny_runs.client().get_run(result.run_id).info.status == "FINISHED"
    said = capsys.readouterr().err
    assert (
        f"{STORE} cannot be written (another program has locked it): what is logged waits" in said
    )
    assert f"{STORE} can be written again, and has everything" in said
    assert not (tiny_runs.root / "mlruns/unwritten").exists()


def test_a_store_that_stays_locked_costs_no_run_and_gets_everything_later(
    tiny_runs: TinyRuns,
    during_training,
    impatient: None,
    backup: Backup,
    capsys: pytest.CaptureFixture[str],
) -> None:
    during_training(2, None)
    result = tiny_runs.train(*STEPS)
    assert result.outcome.steps == 5
    assert result.adapter.is_dir()
    file = tiny_runs.root / "mlruns/unwritten" / f"{result.run_id}.json"
    said = capsys.readouterr().err
    assert (
        f"could not be written to {tiny_runs.root / 'mlruns' / STORE} (another program has" in said
    )
    assert f"{file} keeps what is left, and the next training" in said
    assert json.loads(file.read_text())["run_id"] == result.run_id
    backup.end()
    assert tiny_runs.client().get_run(result.run_id).info.status == "RUNNING"
    with open_run(tiny_runs.run().tracking, None, "the next command"):
        pass
    run = tiny_runs.client().get_run(result.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["result/loss_after"] == result.outcome.loss_after
    assert set(tiny_runs.history(result.run_id, "train/loss")) == {1, 2, 3, 4, 5}
    assert len(run.outputs.model_outputs) == 1
    tables = {each["path"] for each in json.loads(run.data.tags["mlflow.loggedArtifacts"])}
    assert tables == {"answers/before_after.json", "evaluation/per_case.json"}
    assert not file.exists()


def test_a_store_that_is_locked_from_the_start_is_said(
    tiny_runs: TinyRuns,
    backup: Backup,
    impatient: None,
) -> None:
    backup.begin()
    with pytest.raises(OutputError, match="has been locked by another program") as refused:
        tiny_runs.train()
    assert "\n" not in str(refused.value)
    backup.end()
    assert tiny_runs.train().outcome.steps == 2


def test_an_artifact_that_cannot_be_written_costs_no_run(
    tiny_runs: TinyRuns, impatient: None
) -> None:
    said: list[str] = []
    tracking: Tracking = tiny_runs.run().tracking
    with open_run(tracking, None, "a run", said.append) as opened:
        opened.log_text("in the way", "charts")
        opened.log_text("a chart", "charts/history.svg")
        opened.log_metrics(1, {"train/loss": 1.0})
    (run,) = tiny_runs.runs()
    assert (run.info.status, run.data.metrics["train/loss"]) == ("FINISHED", 1.0)
    assert "1 entry of run" in said[-1]
    (file,) = (tiny_runs.root / "mlruns/unwritten").glob("*.json")
    (entry,) = json.loads(file.read_text())["entries"]
    assert entry == ["text", {"file": "charts/history.svg", "text": "a chart"}]
