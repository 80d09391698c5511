"""What unfinished runs have left is counted, and removed when it is asked for and not otherwise."""

import os
import time
from pathlib import Path

import pytest
from helpers.commands import command

from medexp.config.schema import Resume, Tracking
from medexp.tracking.tracker import open_run
from medexp.training import leftovers
from medexp.training.resume import acquire, unfinished_runs_dir


@pytest.fixture
def tracking(tmp_path: Path) -> Tracking:
    root = str(tmp_path / "mlruns")
    return Tracking(
        root=root,
        experiment="medexp",
        run_name=None,
        system_metrics=False,
        log_adapter=True,
        tags={},
    )


def leave(tracking: Tracking, name: str, days: float, num_bytes: int = 0) -> Path:
    """An unfinished run untouched for so long."""
    with acquire(unfinished_runs_dir(tracking), name, Resume.auto) as work:
        work.remember_mlflow_run(f"run-{name}")
        work.answers_file("base").write_bytes(b"")
        os.truncate(work.answers_file("base"), num_bytes)  # sparse: no disk is taken
    then = time.time() - days * leftovers.DAY_S
    for file in (*work.folder.iterdir(), work.folder):
        os.utime(file, (then, then))
    return work.folder


def test_little_that_is_young_is_not_mentioned(tracking: Tracking) -> None:
    assert leftovers.summarise_leftovers(tracking) is None
    leave(tracking, "abc", days=3)
    assert leftovers.summarise_leftovers(tracking) is None


@pytest.mark.parametrize(("days", "num_bytes"), [(40, 0), (1, 3 * 2**30)])
def test_what_is_old_or_large_is_mentioned(tracking: Tracking, days: float, num_bytes: int) -> None:
    leave(tracking, "abc", days, num_bytes)
    leave(tracking, "abd", 0.1)
    said = leftovers.summarise_leftovers(tracking) or ""
    assert "holds 2 unfinished runs, " in said
    assert f"{num_bytes / 2**30:.2f} GiB, untouched for up to {days} day" in said
    assert "python -m medexp.clean" in said


def test_only_what_is_old_and_nobody_s_is_removed(tracking: Tracking) -> None:
    old, young, held = (
        leave(tracking, "old", 40),
        leave(tracking, "young", 3),
        leave(tracking, "held", 50),
    )
    with acquire(unfinished_runs_dir(tracking), "held", Resume.auto):
        removed = leftovers.remove_leftovers(tracking, 30)
    assert [each.name for each in removed] == ["old"]
    assert [each.is_dir() for each in (old, young, held)] == [False, True, True]
    assert [each.name for each in leftovers.remove_leftovers(tracking, 0)] == ["held", "young"]
    assert list(unfinished_runs_dir(tracking).iterdir()) == []


def test_the_command_lists_them_and_removes_what_is_asked_for(
    tracking: Tracking, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit), open_run(tracking, None, "stopped") as run:
        raise SystemExit
    with acquire(unfinished_runs_dir(tracking), "abc", Resume.auto) as work:
        work.remember_mlflow_run(run.run_id)
    status, output = command("-m", "medexp.clean", cwd=tmp_path)
    assert (status, "clean.days=N removes" in output, run.run_id in output) == (0, True, True)
    status, output = command("-m", "medexp.clean", "clean.days=1", cwd=tmp_path)
    assert (status, "0 unfinished runs removed" in output) == (0, True)
    status, output = command("-m", "medexp.clean", "clean.days=0", cwd=tmp_path)
    assert (status, "1 unfinished run removed, 0.00 GiB freed" in output) == (0, True)
    status, output = command("-m", "medexp.clean", cwd=tmp_path)
    assert (status, "holds no unfinished run" in output) == (0, True)
    status, output = command("-m", "medexp.clean", "clean.days=-1", cwd=tmp_path)
    assert (status, "clean.days=-1.0 is out of range" in output) == (2, True)
