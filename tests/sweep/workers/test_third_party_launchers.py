"""Launchers of others: trials go through them, outcomes come back through their folders."""

import importlib.util
import json

import pytest

RAY = importlib.util.find_spec("ray") is not None


@pytest.mark.parametrize(
    "launcher",
    [
        "submitit_local",
        pytest.param("ray", marks=pytest.mark.skipif(not RAY, reason="needs medexp[ray]")),
    ],
)
def test_a_sweep_through_a_launcher_of_a_cluster(sweeps, launcher):
    status, output = sweeps.run(
        "lora.r=choice(4,8)", "sweep.n_trials=1", f"hydra/launcher={launcher}"
    )
    assert status == 0, output
    assert sweeps.endings() == ["done"]
    (trial,) = sweeps.trials()
    kept = json.loads((sweeps.folder / "0/outcome.json").read_text())
    assert kept["metrics"]["result/loss_after"] == trial.value
    parent, nested = sorted(sweeps.tiny_runs.runs(), key=lambda run: run.info.run_name != "s")
    assert nested.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert not (sweeps.folder / "0/trial.json").exists()


def test_a_point_that_a_cluster_s_job_refuses_is_known_for_what_it_is(sweeps):
    status, output = sweeps.run(
        "training.max_seq_tokens=choice(64,65)",
        "sweep.n_trials=1",
        "hydra/launcher=submitit_local",
        "dataset.overlong=drop",
    )
    assert status == 6, output
    assert "The last one, input: every one of the" in output
    assert "is longer than training.max_seq_tokens=6" in output
