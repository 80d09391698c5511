"""The store: made whole or not at all, wherever the folder lies, and what it keeps of a run that is continued."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from doors import command

from medexp.config.schema import Tracking
from medexp.errors import OutputError
from medexp.tracking import STORE, find_run, open_run, open_store

OPEN = """
import sys
from medexp.config.schema import Tracking
from medexp.tracking import open_run
store = Tracking(root=sys.argv[1], experiment="here", run_name=None, system_metrics=False, log_adapter=False, tags={})
with open_run(store, None, "a run"):
    print("opened", flush=True)
"""


def store(root: Path) -> Tracking:
    return Tracking(root=str(root), experiment="here", run_name=None, system_metrics=False, log_adapter=False, tags={})


def named_runs(root: Path) -> list[str]:
    client = open_store(store(root))
    return [run.info.run_name for run in client.search_runs([each.experiment_id for each in client.search_experiments()])]


def test_two_first_runs_at_once_make_one_store(tmp_path: Path) -> None:
    root = tmp_path / "new"
    both = [subprocess.Popen([sys.executable, "-c", OPEN, str(root)], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert named_runs(root) == ["a run", "a run"]


def test_a_store_whose_maker_was_killed_is_made_by_the_next(tmp_path: Path) -> None:
    places = tmp_path / STORE, tmp_path / f".{STORE}.new"
    with subprocess.Popen([sys.executable, "-c", OPEN, str(tmp_path)]) as process:
        while process.poll() is None and not any(place.exists() and place.stat().st_size for place in places):
            pass
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / STORE).exists()
    status, output = command("-c", OPEN, str(tmp_path), cwd=tmp_path)
    assert (status, output) == (0, "opened\n")


@pytest.mark.parametrize("left", [b"", b"no database at all, and longer than the head of one: " * 4])
def test_a_store_that_is_none(tmp_path: Path, left: bytes) -> None:
    (tmp_path / STORE).write_bytes(left)
    if not left:
        assert named_runs(tmp_path) == []
        return
    with pytest.raises(OutputError, match=r"mlflow\.db \(.*file is not a database.*\); move that file away") as refused:
        open_store(store(tmp_path))
    assert "\n" not in str(refused.value)
    assert (tmp_path / STORE).read_bytes() == left


ODD = ["50%25 done?", "x#y 100% &=é"]


@pytest.mark.parametrize("name", ODD)
def test_the_store_lies_under_its_root_whatever_that_is_called(tmp_path: Path, name: str) -> None:
    root = tmp_path / name / "runs"
    with open_run(store(root), None, "a run") as tracker:
        tracker.text("kept", "note.txt")
    assert [each.name for each in tmp_path.iterdir()] == [name]
    assert {STORE, "artifacts"} <= {each.name for each in root.iterdir()}
    assert named_runs(root) == ["a run"]
    assert find_run(store(root), tracker.run_id, ["note.txt"]).artifacts["note.txt"].read_text() == "kept"
