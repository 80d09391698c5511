"""The store: made whole or not at all, wherever the folder lies, and what it keeps of a run that is
continued.
"""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
from helpers.commands import command

from medexp.config.schema import Tracking
from medexp.errors import OutputError
from medexp.tracking.queries import find_run
from medexp.tracking.store import STORE, open_store
from medexp.tracking.tracker import open_run

OPEN = """
import sys
from medexp.config.schema import Tracking
from medexp.tracking.tracker import open_run
store = Tracking(
    root=sys.argv[1],
    experiment="here",
    run_name=None,
    system_metrics=False,
    log_adapter=False,
    tags={},
)
with open_run(store, None, "a run"):
    print("opened", flush=True)
"""


def store(root: Path) -> Tracking:
    return Tracking(
        root=str(root),
        experiment="here",
        run_name=None,
        system_metrics=False,
        log_adapter=False,
        tags={},
    )


def named_runs(root: Path) -> list[str]:
    client = open_store(store(root))
    return [
        run.info.run_name
        for run in client.search_runs([each.experiment_id for each in client.search_experiments()])
    ]


def test_two_first_runs_at_once_make_one_store(tmp_path: Path) -> None:
    root = tmp_path / "new"
    both = [
        subprocess.Popen([sys.executable, "-c", OPEN, str(root)], stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert named_runs(root) == ["a run", "a run"]


def test_a_store_whose_maker_was_killed_is_made_by_the_next(tmp_path: Path) -> None:
    places = tmp_path / STORE, tmp_path / f".{STORE}.new"
    with subprocess.Popen([sys.executable, "-c", OPEN, str(tmp_path)]) as process:
        while process.poll() is None and not any(
            place.exists() and place.stat().st_size for place in places
        ):
            pass
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / STORE).exists()
    status, output = command("-c", OPEN, str(tmp_path), cwd=tmp_path)
    assert (status, output) == (0, "opened\n")


@pytest.mark.parametrize(
    "left", [b"", b"no database at all, and longer than the head of one: " * 4]
)
def test_a_store_that_is_none(tmp_path: Path, left: bytes) -> None:
    (tmp_path / STORE).write_bytes(left)
    if not left:
        assert named_runs(tmp_path) == []
        return
    with pytest.raises(
        OutputError, match=r"mlflow\.db \(.*file is not a database.*\); move that file away"
    ) as refused:
        open_store(store(tmp_path))
    assert "\n" not in str(refused.value)
    assert (tmp_path / STORE).read_bytes() == left


ODD = ["50%25 done?", "x#y 100% &=é"]


@pytest.mark.parametrize("name", ODD)
def test_the_store_lies_under_its_root_whatever_that_is_called(tmp_path: Path, name: str) -> None:
    root = tmp_path / name / "runs"
    with open_run(store(root), None, "a run") as tracker:
        tracker.log_text("kept", "note.txt")
    assert [each.name for each in tmp_path.iterdir()] == [name]
    assert {STORE, "artifacts"} <= {each.name for each in root.iterdir()}
    assert named_runs(root) == ["a run"]
    assert (
        find_run(store(root), tracker.run_id, ["note.txt"]).artifacts["note.txt"].read_text()
        == "kept"
    )


def test_what_a_continued_run_says_again_is_there_once(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_text("weights")
    run_id = None
    for turn in range(2):
        with open_run(store(tmp_path / "runs"), run_id, "a run") as tracker:
            tracker.log_params({"lora.r": 4, "vram.offload_layers": turn})
            tracker.log_table(
                {"question": ["why?"], "score": [float("nan")], "turn": [turn]},
                "answers/before_after.json",
            )
            kept = tracker.log_folder(adapter, "adapter")
            if turn == 0:  # died after the model was begun, before the run was told
                tracker._client.create_logged_model(
                    tracker.experiment_id, "small-r4", tracker.run_id
                )
            else:
                tracker.log_model("small-r4", kept, {"lora.r": 4}, {})
                tracker.log_model("small-r4", kept, {"lora.r": 4}, {})
        run_id = tracker.run_id
    client = open_store(store(tmp_path / "runs"))
    run = client.get_run(run_id)
    assert run.data.params == {"lora.r": "4", "vram.offload_layers": "0"}
    assert run.data.tags["vram.offload_layers"] == "1"
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [
        {"path": "answers/before_after.json", "type": "table"}
    ]
    found = find_run(store(tmp_path / "runs"), run_id, ["answers/before_after.json"]).artifacts[
        "answers/before_after.json"
    ]
    table = pandas.read_json(found, orient="split")  # as MLflow's load_table does
    assert (list(table["question"]), list(table["turn"]), list(table["score"].isna())) == (
        ["why?"],
        [1],
        [True],
    )
    (model,) = client.search_logged_models([tracker.experiment_id])
    assert ([each.model_id for each in run.outputs.model_outputs], model.status.value) == (
        [model.model_id],
        "READY",
    )
    assert (
        Path(model.artifact_location.removeprefix("file://")) / "adapter_model.safetensors"
    ).read_text() == "weights"


def statuses(root: Path) -> dict[str, str]:
    client = open_store(store(root))
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
    return {run.info.run_id: run.info.status for run in runs}


def test_a_run_whose_process_died_before_it_held_it_open_is_killed_by_the_next(
    tmp_path: Path,
) -> None:
    dying = OPEN + "    import os; os.kill(os.getpid(), 9)\n"
    assert (
        subprocess.run([sys.executable, "-c", dying, str(tmp_path)], check=False).returncode
        == -signal.SIGKILL
    )
    for lock in (tmp_path / "open").glob("*.*.lock"):
        lock.unlink()  # as if it had been killed a moment earlier
    (dead,) = statuses(tmp_path)
    with open_run(store(tmp_path), None, "alive") as alive:
        assert statuses(tmp_path) == {dead: "KILLED", alive.run_id: "RUNNING"}
        with open_run(store(tmp_path), None, "beside it"):
            assert statuses(tmp_path)[alive.run_id] == "RUNNING"
    with open_run(store(tmp_path), dead, "taken up") as again:
        assert (again.run_id, statuses(tmp_path)[dead]) == (dead, "RUNNING")


HOLD = """
import sys
from pathlib import Path
from medexp.config.schema import Tracking
from medexp.tracking.tracker import open_run
store = Tracking(
    root=sys.argv[1],
    experiment="here",
    run_name=None,
    system_metrics=False,
    log_adapter=False,
    tags={},
)
with open_run(store, sys.argv[2] if sys.argv[2:] else None, "a sweep") as tracker:
    print(tracker.run_id, flush=True)
    sys.stdin.readline()
"""


def test_a_run_that_only_dead_processes_have_open_is_killed_by_the_next(tmp_path: Path) -> None:
    """As a sweep that was killed outright, and one whose study another sweeper still works on."""

    def opened(*run_id: str) -> subprocess.Popen[str]:
        words, pipe = [sys.executable, "-c", HOLD, str(tmp_path), *run_id], subprocess.PIPE
        process = subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True)
        assert process.stdout is not None
        said.append(process.stdout.readline().strip())
        return process

    def kill(process: subprocess.Popen[str]) -> None:
        process.kill()
        process.communicate()

    said: list[str] = []
    client = open_store(store(tmp_path))
    one, shared = opened(), opened()
    other = opened(said[1])
    assert said[2] == said[1]
    kill(one)
    kill(shared)
    with open_run(store(tmp_path), None, "the next command"):
        status = [client.get_run(run_id).info.status for run_id in said[:2]]
        assert status == ["KILLED", "RUNNING"]
    assert client.get_run(said[0]).data.tags["medexp.reason"] == "died"
    kill(other)
    with open_run(store(tmp_path), None, "the next command"):
        pass
    assert client.get_run(said[1]).info.status == "KILLED"
    assert [each.name for each in (tmp_path / "open").iterdir()] == [".lock"]
