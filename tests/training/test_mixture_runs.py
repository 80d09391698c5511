"""Whole runs on a mixture: proportions, what is measured, and a stop in the middle that loses and
doubles no case.
"""

import json
import os
import signal
from pathlib import Path

import pytest
from helpers.commands import TinyRuns

from medexp.errors import RunInterrupted
from medexp.training.callbacks import StepRecorder

LONGER = [
    "training.max_steps=5",
    "training.micro_batch=2",
    "training.save_steps=2",
    "evaluation.every_steps=9",
]


@pytest.fixture
def mixture(tmp_path: Path) -> list[str]:
    """Overrides of a mixture, four to one, of a file and the shipped cases, measured on the shipped
    ones.
    """
    records = [
        {
            "Question": f"What of case {number}?",
            "Complex_CoT": "Hm. Well.",
            "Response": f"{number}.",
        }
        for number in range(12)
    ]
    (tmp_path / "plain.json").write_text(json.dumps(records))
    parts = (
        f"{{use: local, weight: 4, path: {tmp_path / 'plain.json'}}}, {{use: clinical_cases,"
        " weight: 1}"
    )
    return [
        "dataset=mixture",
        f"dataset.mixture=[{parts}]",
        "dataset.held_out_from=clinical_cases",
        "dataset.max_cases=null",
    ]


def test_a_stopped_run_goes_on_with_the_very_next_case(
    tiny_runs: TinyRuns, mixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = tiny_runs.train(*mixture, *LONGER, "training.resume=never")
    plain = StepRecorder.on_step_end

    def on_step_end(recorder: StepRecorder, step: int, metrics: dict[str, float]) -> None:
        plain(recorder, step, metrics)
        if step == 3:
            monkeypatch.setattr(StepRecorder, "on_step_end", plain)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(StepRecorder, "on_step_end", on_step_end)
    with pytest.raises(RunInterrupted):
        tiny_runs.train(*mixture, *LONGER)
    continued = tiny_runs.train(*mixture, *LONGER)
    assert tiny_runs.history(continued.run_id, "train/loss") == tiny_runs.history(
        unbroken.run_id, "train/loss"
    )
    assert continued.outcome.loss_after == unbroken.outcome.loss_after


def test_a_mixture_is_kept_with_the_run(tiny_runs: TinyRuns, mixture, tmp_path: Path) -> None:
    result = tiny_runs.train(*mixture, *LONGER)
    run = tiny_runs.client().get_run(result.run_id)
    assert run.data.params["dataset.mixture.0.weight"] == "4.0"
    assert run.data.params["dataset.held_out_from.name"] == "clinical_cases"
    kept = json.loads(
        Path(
            tiny_runs.client().download_artifacts(result.run_id, "data/audit.json", str(tmp_path))
        ).read_text()
    )
    assert [(part["name"], part["kept"], part["drawn"]) for part in kept["parts"]] == [
        ("local", 12, 8),
        ("clinical_cases", 327, 2),
    ]
    assert kept["held_out"]["kept"] == 2
