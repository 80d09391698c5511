"""The folder of a run that is not finished yet: its checkpoints, the answers made so far, and the MLflow run it belongs to.

Named by the run's fingerprint, so the same command finds it again after any ending. Held by a lock that the operating system
lets go when the process dies, whatever it died of; gone once the run has finished.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

from medexp.config.schema import Resume, Tracking
from medexp.errors import OutputError, TrialPruned, VramCeilingError
from medexp.vram.terms import Levers
from medexp.whole import write_json


class Workspace:
    """One unfinished run. `is_new` is False when an earlier process left it."""

    def __init__(self, folder: Path, lock: FileLock):
        self.folder = folder
        self._lock = lock
        self.is_new = self.mlflow_run_id is None

    @property
    def mlflow_run_id(self) -> str | None:
        """The MLflow run this work belongs to, once there is one."""
        file = self.folder / "run.json"
        run_id: str | None = json.loads(file.read_text())["mlflow_run_id"] if file.exists() else None
        return run_id

    def belongs_to(self, mlflow_run_id: str) -> None:
        """Remember the MLflow run, written whole or not at all."""
        write_json(self.folder / "run.json", {"mlflow_run_id": mlflow_run_id})

    def settled(self) -> Levers | None:
        """The levers that this run was seen to fit with, once it was."""
        file = self.folder / "levers.json"
        return Levers(**json.loads(file.read_text())) if file.exists() else None

    def settle(self, levers: Levers) -> None:
        """Remember the levers, written whole or not at all."""
        write_json(self.folder / "levers.json", asdict(levers))

    def ran_out(self) -> tuple[Levers, str | None] | None:
        """The levers with which an earlier process ran out of memory after they had seemed to fit, and in which phase (its value;
        None in a file of an older medexp)."""
        file = self.folder / "ran_out.json"
        found = json.loads(file.read_text()) if file.exists() else None
        return (Levers(**found["levers"]), found.get("phase")) if found else None

    def unsettle(self, phase: str | None) -> None:
        """The levers did not fit after all, in the phase of this value: the next process is to take others."""
        if (levers := self.settled()) is not None:
            write_json(self.folder / "ran_out.json", {"levers": asdict(levers), "phase": phase})
            (self.folder / "levers.json").unlink()

    @property
    def checkpoints(self) -> Path:
        """Where the trainer writes."""
        return self.folder / "checkpoints"

    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint that was written to its end (its state file comes last), if any."""
        found = sorted(self.checkpoints.glob("checkpoint-*"), key=_step_of, reverse=True)
        return next((folder for folder in found if _is_whole(folder)), None)

    def answers(self, whose: str) -> Path:
        """The file that keeps the answers of "base" or "tuned" as they come."""
        return self.folder / f"answers_{whose}.jsonl"

    def release(self) -> None:
        """Let the next process have it."""
        self._lock.release()

    def finish(self) -> None:
        """The run is complete: nothing here is needed any more."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(PermissionError):  # Windows keeps an open file; elsewhere it goes before another process can hold it
            Path(self._lock.lock_file).unlink(missing_ok=True)
        self.release()


def unfinished(tracking: Tracking) -> Path:
    """Where the workspaces of a store's runs lie."""
    return Path(tracking.root or ".") / "unfinished"


@contextmanager
def claimed(root: Path, fingerprint: str, resume: Resume) -> Iterator[Workspace]:
    """The workspace of the run with this fingerprint under `root`, held while it is used: the one an earlier process left
    (with `resume=auto`), else a new one.

    Raises: OutputError if it cannot be written.
    """
    workspace = _claim(root, fingerprint, resume)
    try:
        yield workspace
    except TrialPruned:
        workspace.finish()  # nobody will continue it
        raise
    except VramCeilingError as error:
        workspace.unsettle(error.phase)
        raise
    finally:
        workspace.release()


def _claim(root: Path, fingerprint: str, resume: Resume) -> Workspace:
    for number in count(1):
        folder = root / (fingerprint if number == 1 else f"{fingerprint}-{number}")
        if resume is Resume.never and folder.exists():
            continue
        lock = _try_lock(folder)
        if lock is not None:
            folder.mkdir(exist_ok=True)
            return Workspace(folder, lock)
    raise AssertionError("count() does not end")


def abandoned(root: Path) -> Iterator[Workspace]:
    """Every workspace whose process is gone, each held while it is looked at."""
    for folder in sorted(each for each in root.glob("*") if each.is_dir()):
        lock = _try_lock(folder)
        if lock is not None:
            workspace = Workspace(folder, lock)
            try:
                yield workspace
            finally:
                workspace.release()


def _try_lock(folder: Path) -> FileLock | None:
    lock = FileLock(folder.with_name(folder.name + ".lock"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        return None
    except OSError as error:
        raise OutputError(
            f"{folder.parent} cannot be written ({error.strerror}); set tracking.root=FOLDER or MEDEXP_HOME"
        ) from error
    return lock


def _step_of(folder: Path) -> int:
    number = folder.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1


def _is_whole(folder: Path) -> bool:
    try:
        state = json.loads((folder / "trainer_state.json").read_text())
    except (OSError, json.JSONDecodeError):
        return False
    return bool(state.get("global_step") == _step_of(folder))
