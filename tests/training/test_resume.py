import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from medexp.config.schema import Resume
from medexp.errors import OutputError
from medexp.tracking.artifact_names import ADAPTER_WEIGHTS
from medexp.training.resume import acquire, iterate_abandoned_runs

HOLD = """
import sys, time
from pathlib import Path
from medexp.config.schema import Resume
from medexp.training.resume import acquire
with acquire(Path(sys.argv[1]), sys.argv[2], Resume.auto) as workspace:
    workspace.remember_mlflow_run("held-run")
    print(workspace.folder.name, flush=True)
    time.sleep(60)
"""


@contextmanager
def another_process_holding(root: Path, fingerprint: str) -> Iterator[subprocess.Popen]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root), fingerprint], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == fingerprint
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


def leave_unfinished(root: Path, fingerprint: str, mlflow_run_id: str = "left-run") -> None:
    with acquire(root, fingerprint, Resume.auto) as workspace:
        workspace.remember_mlflow_run(mlflow_run_id)


def write_checkpoint(folder: Path, step: int, state: str | None) -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"step": torch.ones(64)}, checkpoint / name)
    save_file(
        {"lora_A": torch.ones(4, 4), "lora_B": torch.zeros(4)},
        checkpoint / ADAPTER_WEIGHTS,
        {"format": "pt"},
    )
    if state is not None:
        (checkpoint / "trainer_state.json").write_text(state)
    return checkpoint


def whole(step: int) -> str:
    return json.dumps({"global_step": step, "log_history": []})


def test_a_first_run_gets_a_new_workspace(tmp_path):
    with acquire(tmp_path / "unfinished", "abc", Resume.auto) as workspace:
        assert workspace.folder == tmp_path / "unfinished" / "abc"
        assert workspace.folder.is_dir()
        assert workspace.is_new
        assert workspace.mlflow_run_id is None
        assert workspace.find_last_checkpoint() is None


def test_the_same_fingerprint_finds_what_was_left(tmp_path):
    leave_unfinished(tmp_path, "abc")
    with acquire(tmp_path, "abc", Resume.auto) as workspace:
        assert workspace.folder.name == "abc"
        assert not workspace.is_new
        assert workspace.mlflow_run_id == "left-run"


def test_another_fingerprint_finds_nothing(tmp_path):
    leave_unfinished(tmp_path, "abc")
    with acquire(tmp_path, "abd", Resume.auto) as workspace:
        assert workspace.is_new


def test_a_workspace_can_be_given_to_another_mlflow_run(tmp_path):
    leave_unfinished(tmp_path, "abc", "first")
    leave_unfinished(tmp_path, "abc", "second")
    with acquire(tmp_path, "abc", Resume.auto) as workspace:
        assert workspace.mlflow_run_id == "second"


def test_resume_never_leaves_what_is_there_alone(tmp_path):
    leave_unfinished(tmp_path, "abc", "first")
    for name in ("abc-2", "abc-3"):
        with acquire(tmp_path, "abc", Resume.never) as workspace:
            assert workspace.folder.name == name
            assert workspace.is_new
            workspace.remember_mlflow_run(name)
    with acquire(tmp_path, "abc", Resume.auto) as workspace:
        assert workspace.mlflow_run_id == "first"


def test_two_runs_at_once_have_a_workspace_each(tmp_path):
    with (
        acquire(tmp_path, "abc", Resume.auto) as first,
        acquire(tmp_path, "abc", Resume.auto) as second,
    ):
        assert first.folder != second.folder


def test_a_workspace_held_by_another_process_is_not_taken(tmp_path):
    with (
        another_process_holding(tmp_path, "abc"),
        acquire(tmp_path, "abc", Resume.auto) as workspace,
    ):
        assert workspace.folder.name == "abc-2"
        assert workspace.is_new
        assert list(iterate_abandoned_runs(tmp_path)) == []


def test_a_killed_process_lets_its_workspace_go(tmp_path):
    with another_process_holding(tmp_path, "abc"):
        pass
    assert [workspace.mlflow_run_id for workspace in iterate_abandoned_runs(tmp_path)] == [
        "held-run"
    ]
    with acquire(tmp_path, "abc", Resume.auto) as workspace:
        assert workspace.folder.name == "abc"
        assert workspace.mlflow_run_id == "held-run"


def test_an_error_lets_the_workspace_go(tmp_path):
    with pytest.raises(ZeroDivisionError), acquire(tmp_path, "abc", Resume.auto) as held:
        raise ZeroDivisionError
    assert held.folder.exists()
    with acquire(tmp_path, "abc", Resume.auto) as workspace:
        assert workspace.folder.name == "abc"


def test_abandoned_lists_what_nobody_holds(tmp_path):
    leave_unfinished(tmp_path, "bbb", "run-b")
    leave_unfinished(tmp_path, "aaa", "run-a")
    with acquire(tmp_path, "ccc", Resume.auto):
        assert [workspace.mlflow_run_id for workspace in iterate_abandoned_runs(tmp_path)] == [
            "run-a",
            "run-b",
        ]


def test_an_abandoned_workspace_is_held_while_it_is_looked_at(tmp_path):
    leave_unfinished(tmp_path, "abc")
    looking = iterate_abandoned_runs(tmp_path)
    seen = next(looking)
    with acquire(tmp_path, "abc", Resume.auto) as workspace:
        assert workspace.folder != seen.folder
    looking.close()
    with acquire(tmp_path, "abc", Resume.auto) as workspace:
        assert workspace.folder == seen.folder


def test_nothing_is_abandoned_where_nothing_ran(tmp_path):
    assert list(iterate_abandoned_runs(tmp_path / "never")) == []


def test_a_finished_run_leaves_nothing(tmp_path):
    leave_unfinished(tmp_path, "abc")
    with acquire(tmp_path, "abc", Resume.auto) as workspace:
        write_checkpoint(workspace.checkpoints, 1, whole(1))
        workspace.answers_file("base").write_text("{}")
        workspace.finish()
        assert list(tmp_path.iterdir()) == []
    assert list(tmp_path.iterdir()) == []
    with acquire(tmp_path, "abc", Resume.auto) as workspace:
        assert workspace.is_new


def test_the_last_checkpoint_is_the_one_of_the_highest_step(tmp_path):
    with acquire(tmp_path, "abc", Resume.auto) as workspace:
        for step in (9, 100, 20):
            write_checkpoint(workspace.checkpoints, step, whole(step))
        assert workspace.find_last_checkpoint() == workspace.checkpoints / "checkpoint-100"


@pytest.mark.parametrize("state", [None, "", '{"global_step": 2', "\0" * 40, whole(10), "{}"])
def test_an_incomplete_checkpoint_is_skipped(tmp_path, state):
    with acquire(tmp_path, "abc", Resume.auto) as workspace:
        write_checkpoint(workspace.checkpoints, 10, whole(10))
        write_checkpoint(workspace.checkpoints, 20, state)
        assert workspace.find_last_checkpoint() == workspace.checkpoints / "checkpoint-10"


def test_a_folder_that_is_no_checkpoint_is_skipped(tmp_path):
    with acquire(tmp_path, "abc", Resume.auto) as workspace:
        (workspace.checkpoints / "checkpoint-best").mkdir(parents=True)
        (workspace.checkpoints / "checkpoint-best" / "trainer_state.json").write_text(whole(20))
        assert workspace.find_last_checkpoint() is None


def test_base_and_tuned_answers_are_kept_apart(tmp_path):
    with acquire(tmp_path, "abc", Resume.auto) as workspace:
        files = {workspace.answers_file("base"), workspace.answers_file("tuned")}
        assert len(files) == 2
        assert {file.parent for file in files} == {workspace.folder}


def test_a_root_that_cannot_be_written_is_named_with_its_key(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        OutputError, match=r"cannot be written.*tracking.root=FOLDER or MEDEXP_HOME"
    ):
        leave_unfinished(tmp_path / "file" / "unfinished", "abc")


TORN = {
    "empty": lambda whole: whole[:0],
    "cut": lambda whole: whole[: len(whole) // 2],
    "zeros": lambda whole: bytes(len(whole)),
}


@pytest.mark.parametrize("how", TORN)
@pytest.mark.parametrize(
    "name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", ADAPTER_WEIGHTS, "trainer_state.json"]
)
def test_a_checkpoint_with_a_torn_file_is_skipped(tmp_path, name, how):
    with acquire(tmp_path, "abc", Resume.auto) as workspace:
        older, newer = (
            write_checkpoint(workspace.checkpoints, step, whole(step)) for step in (10, 20)
        )
        assert workspace.find_last_checkpoint() == newer
        (newer / name).write_bytes(TORN[how]((newer / name).read_bytes()))
        assert workspace.find_last_checkpoint() == older


@pytest.mark.parametrize("name", ["optimizer.pt", ADAPTER_WEIGHTS])
def test_a_checkpoint_without_a_file_is_skipped(tmp_path, name):
    with acquire(tmp_path, "abc", Resume.auto) as workspace:
        (write_checkpoint(workspace.checkpoints, 10, whole(10)) / name).unlink()
        assert workspace.find_last_checkpoint() is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"other": 1}', "\0" * 20])
def test_a_file_that_cannot_be_read_counts_as_absent(tmp_path, text):
    leave_unfinished(tmp_path, "abc")
    for name in ("run", "levers", "ran_out"):
        (tmp_path / "abc" / f"{name}.json").write_text(text)
    assert [workspace.mlflow_run_id for workspace in iterate_abandoned_runs(tmp_path)] == [None]
    with acquire(tmp_path, "abc", Resume.auto) as workspace:
        assert (
            workspace.mlflow_run_id,
            workspace.load_fitting_levers(),
            workspace.load_levers_out_of_memory(),
        ) == (
            None,
            None,
            None,
        )


def test_what_a_second_run_at_once_left_is_found_again(tmp_path):
    with (
        acquire(tmp_path, "abc", Resume.auto) as first,
        acquire(tmp_path, "abc", Resume.auto) as second,
    ):
        second.remember_mlflow_run("second")
        first.finish()
    with acquire(tmp_path, "abc", Resume.auto) as workspace:
        assert (workspace.folder.name, workspace.mlflow_run_id) == ("abc-2", "second")
        workspace.finish()
    assert list(tmp_path.iterdir()) == []


def test_what_an_older_medexp_left_is_found_by_its_former_name(tmp_path):
    leave_unfinished(tmp_path, "former", "first")
    with acquire(tmp_path, "abc", Resume.never, "former") as workspace:
        assert workspace.is_new
        workspace.finish()
    with acquire(tmp_path, "abc", Resume.auto, "former") as workspace:
        assert (workspace.folder.name, workspace.mlflow_run_id) == ("former", "first")
        workspace.finish()
    with acquire(tmp_path, "abc", Resume.auto, "former") as workspace:
        assert workspace.folder.name == "abc"


def test_what_another_fingerprint_left_is_not_taken(tmp_path):
    for other in ("abc-2-2", "abcd", "evaluate-abc"):
        leave_unfinished(tmp_path, other)
    with acquire(tmp_path, "abc", Resume.auto) as workspace:
        assert workspace.folder.name == "abc"


DIE_WHILE_FINISHING = """
import os, sys
from pathlib import Path
from medexp.config.schema import Resume
from medexp.training.resume import acquire
left = int(sys.argv[2])
def watch(event, _):
    global left
    left -= event in ("os.remove", "os.rmdir")
    if left == 0:
        os.kill(os.getpid(), 9)
with acquire(Path(sys.argv[1]), "abc", Resume.auto) as workspace:
    sys.addaudithook(watch)
    workspace.finish()
"""


def test_a_kill_while_a_finished_run_is_cleared_leaves_no_checkpoint_without_its_mlflow_run(
    tmp_path,
):
    for removal in range(1, 30):
        root = tmp_path / str(removal)
        leave_unfinished(root, "abc")
        write_checkpoint(root / "abc" / "checkpoints", 2, whole(2))
        died = subprocess.run(
            [sys.executable, "-c", DIE_WHILE_FINISHING, str(root), str(removal)], check=False
        ).returncode
        if died == 0:
            break
        with acquire(root, "abc", Resume.auto) as workspace:
            assert workspace.mlflow_run_id == "left-run" or workspace.find_last_checkpoint() is None
    assert removal > 6
