"""A finished run found again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import TinyRuns
from omegaconf import OmegaConf

from medexp.config.schema import Faulty
from medexp.errors import RunError
from medexp.tracking import finished_run
from medexp.tracking.finished_run import FinishedRun


def test_the_last_run_is_the_newest_that_training_has_finished(tiny_runs: TinyRuns) -> None:
    root = tiny_runs.root / "mlruns"
    with pytest.raises(RunError, match="run=last is neither a folder nor a run in"):
        finished_run.find_run("last", str(root), tiny_runs.root)
    tiny_runs.train("lora.r=2")
    newest = tiny_runs.train("lora.r=4")
    client = tiny_runs.client()
    unfinished = client.create_run(
        client.get_run(newest.run_id).info.experiment_id,
        tags={"mlflow.source.name": "medexp.train"},
    )
    found = finished_run.find_run("last", str(root), tiny_runs.root)
    assert found.kept is not None
    assert found.kept.run_id == newest.run_id != unfinished.info.run_id
    assert found.adapter is not None
    assert found.adapter.is_relative_to(root)  # the stored one, no copy that nobody removes
    assert (found.adapter / "adapter_model.safetensors").is_file()
    assert found.adapter.is_relative_to(root)  # not a copy


def test_a_mistyped_store_is_said_and_not_made(tmp_path: Path) -> None:
    nowhere = tmp_path / "mlrunz"
    with pytest.raises(
        RunError, match=r"mlrunz holds no runs yet; run python -m medexp\.train first"
    ):
        finished_run.find_run("last", str(nowhere), tmp_path)
    assert not nowhere.exists()


def test_the_last_run_is_one_that_can_be_asked(tiny_runs: TinyRuns) -> None:
    kept = tiny_runs.train("lora.r=2")
    tiny_runs.train("lora.r=4", "tracking.log_adapter=false")
    found = finished_run.find_run("last", str(tiny_runs.root / "mlruns"), tiny_runs.root)
    assert found.kept is not None
    assert found.kept.run_id == kept.run_id


def test_a_config_that_was_kept_before_a_key_existed_is_put_back(
    tmp_path: Path, compose: Callable[..., Any]
) -> None:
    stored = compose("dataset=medical_o1", "dataset.held_out=7")
    lines = OmegaConf.to_yaml(stored, resolve=True).splitlines()
    kept = [line for line in lines if line != "  faulty: error"]
    assert len(kept) == len(lines) - 1
    (tmp_path / "composed.yaml").write_text("\n".join(kept))
    subject = FinishedRun("old", None, tmp_path / "composed.yaml", None, None)
    made = finished_run.recompose_from_run(compose(), subject, [])
    assert (made.dataset.held_out, made.dataset.faulty) == (7, Faulty.error)
