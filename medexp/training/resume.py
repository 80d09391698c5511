"""The folder of a run that is not finished yet: its checkpoints, the answers made so far, and the
MLflow run it belongs to.

Named by the run's fingerprint, so the same command finds it again after any ending. Held by a lock
that the operating system lets go when the process dies, whatever it died of; gone once the run has
finished.
"""

import json
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from medexp.config.schema import Resume, Tracking
from medexp.errors import MedexpError, OutputError, TrialPruned, VramCeilingError
from medexp.planning.memory_terms import Levers
from medexp.system import disk_space
from medexp.system.files import write_json_atomic
from medexp.tracking.artifact_names import ADAPTER_WEIGHTS

RUN = "run.json"  # which MLflow run a workspace belongs to
Found = TypeVar("Found")


class ResumableRun:
    """One unfinished run. `is_new` is False when an earlier process left it."""

    def __init__(self, folder: Path, lock: FileLock):
        self.folder = folder
        self._lock = lock
        self.is_new = self.mlflow_run_id is None

    @property
    def mlflow_run_id(self) -> str | None:
        """The MLflow run this work belongs to, once there is one."""
        found = _read_json(self.folder / RUN, dict)
        return str(found["mlflow_run_id"]) if found and "mlflow_run_id" in found else None

    def remember_mlflow_run(self, mlflow_run_id: str) -> None:
        """Remember the MLflow run, written whole or not at all."""
        write_json_atomic(self.folder / RUN, {"mlflow_run_id": mlflow_run_id})

    def fitting_levers(self) -> Levers | None:
        """The levers that this run was seen to fit with, once it was."""
        return _read_json(self.folder / "levers.json", lambda found: Levers(**found))

    def remember_fitting_levers(self, levers: Levers) -> None:
        """Remember the levers, written whole or not at all."""
        write_json_atomic(self.folder / "levers.json", asdict(levers))

    def levers_out_of_memory(self) -> tuple[Levers, str | None] | None:
        """The levers with which an earlier process ran out of memory after they had seemed to fit,
        and in which phase (its value; None in a file of an older medexp)."""
        return _read_json(
            self.folder / "ran_out.json",
            lambda found: (Levers(**found["levers"]), found.get("phase")),
        )

    def mark_out_of_memory(self, phase: str | None) -> None:
        """The levers did not fit after all, in the phase of this value: the next process is to take
        others.
        """
        if (levers := self.fitting_levers()) is not None:
            write_json_atomic(
                self.folder / "ran_out.json", {"levers": asdict(levers), "phase": phase}
            )
            (self.folder / "levers.json").unlink()

    @property
    def checkpoints(self) -> Path:
        """Where the trainer writes."""
        return self.folder / "checkpoints"

    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint that is whole, if any."""
        found = sorted(self.checkpoints.glob("checkpoint-*"), key=_step_of, reverse=True)
        return next((folder for folder in found if _is_complete_checkpoint(folder)), None)

    def answers_file(self, whose: str) -> Path:
        """The file that keeps the answers of "base" or "tuned" as they come."""
        return self.folder / f"answers_{whose}.jsonl"

    @contextmanager
    def explain_full_disk(self, *also: Path) -> Iterator[None]:
        """Where nothing can be written, here or in `also`: what was half written goes, so that
        MLflow can say how it ended.

        Raises: OutputError saying what hinders, and from where the same command continues.
        """
        try:
            yield
        except MedexpError:
            raise
        except Exception as error:
            hindrance = disk_space.hindrance(error, [self.folder, *also])
            if hindrance is None:
                raise
            for folder in self.checkpoints.glob("checkpoint-*"):
                if not _is_complete_checkpoint(folder):
                    shutil.rmtree(folder, ignore_errors=True)
            last = self.last_checkpoint()
            where = (
                f"from {last.name}, which is kept,"
                if last
                else "this run, which has no checkpoint yet,"
            )
            what, until = hindrance
            raise OutputError(f"{what}; the same command continues {where} once {until}") from error

    def release(self) -> None:
        """Let the next process have it."""
        self._lock.release()

    def finish(self) -> None:
        """The run is complete: nothing here is needed any more."""
        # The run's id goes last: one killed in between must not leave checkpoints that the same
        # command would continue in another MLflow run, which would then lack every step before
        # them.
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        _release_and_remove(self._lock)


def unfinished_runs_dir(tracking: Tracking) -> Path:
    """Where the workspaces of a store's runs lie."""
    return Path(tracking.root or ".") / "unfinished"


@contextmanager
def acquire(
    root: Path,
    fingerprint: str,
    resume: Resume,
    former: str | None = None,
) -> Iterator[ResumableRun]:
    """The workspace of the run with this fingerprint under `root`, held while it is used: the one
    an earlier process left (with `resume=auto`; an older medexp called it `former`), else a new
    one.

    Raises: OutputError if it cannot be written, or the disk is full.
    """
    workspace = _acquire(root, fingerprint, resume, former)
    try:
        with workspace.explain_full_disk():
            yield workspace
    except TrialPruned:
        workspace.finish()  # nobody will continue it
        raise
    except VramCeilingError as error:
        workspace.mark_out_of_memory(error.phase)
        raise
    finally:
        workspace.release()


def _acquire(root: Path, fingerprint: str, resume: Resume, former: str | None) -> ResumableRun:
    """One that was left is taken before a new one is made: the same command may have run twice at
    once, and one of them died.
    """
    left = [
        folder
        for name in (fingerprint, former)
        if name
        for folder in _list_earlier_dirs(root, name)
    ]
    for folder in left if resume is Resume.auto else ():
        lock = _try_lock(folder)
        if lock is not None and folder.exists():
            return ResumableRun(folder, lock)
        if lock is not None:  # it was finished meanwhile
            _release_and_remove(lock)
    for number in count(1):
        folder = root / (fingerprint if number == 1 else f"{fingerprint}-{number}")
        lock = None if folder.exists() else _try_lock(folder)
        if lock is not None:
            folder.mkdir(exist_ok=True)
            return ResumableRun(folder, lock)
    raise AssertionError("count() does not end")


def _list_earlier_dirs(root: Path, fingerprint: str) -> list[Path]:
    """The folders of runs with this fingerprint, the first one first."""
    numbered = re.compile(rf"{re.escape(fingerprint)}(?:-(\d+))?")
    matches = (
        (numbered.fullmatch(each.name), each)
        for each in root.glob(f"{fingerprint}*")
        if each.is_dir()
    )
    return [
        folder
        for _, folder in sorted((int(match[1] or 1), folder) for match, folder in matches if match)
    ]


def list_dead_mlflow_runs(tracking: Tracking) -> list[str]:
    """The MLflow runs of every workspace whose process is gone."""
    return [
        each.mlflow_run_id
        for each in iterate_abandoned_runs(unfinished_runs_dir(tracking))
        if each.mlflow_run_id
    ]


def iterate_abandoned_runs(root: Path) -> Iterator[ResumableRun]:
    """Every workspace whose process is gone, each held while it is looked at."""
    for folder in sorted(each for each in root.glob("*") if each.is_dir()):
        lock = _try_lock(folder)
        if lock is not None:
            workspace = ResumableRun(folder, lock)
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
            f"{folder.parent} cannot be written ({error.strerror}); set tracking.root=FOLDER or"
            " MEDEXP_HOME"
        ) from error
    return lock


def _release_and_remove(lock: FileLock) -> None:
    """Release a lock whose folder is gone, and its file with it."""
    # Windows keeps an open file; elsewhere it goes before another process can hold it
    with suppress(PermissionError):
        Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def _read_json(file: Path, of: Callable[[Any], Found]) -> Found | None:
    """What is in JSON `file`; None where it is not there or cannot be read, as after a power cut."""
    try:
        return of(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _step_of(folder: Path) -> int:
    number = folder.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1


def _is_complete_checkpoint(folder: Path) -> bool:
    """Its state file comes last when a process writes, and may come first when a machine stops:
    every other file is looked at.
    """
    state = _read_json(folder / "trainer_state.json", dict)
    if not state or state.get("global_step") != _step_of(folder):
        return False
    pickled = [*folder.glob("*.pt"), *folder.glob("*.pth")]
    there = {each.name for each in pickled}
    return (
        {"optimizer.pt", "scheduler.pt"} <= there
        and all(map(_is_complete_zip, pickled))
        and _is_complete_safetensors(folder / ADAPTER_WEIGHTS)
    )


def _is_complete_zip(file: Path) -> bool:
    """Has what torch saved in `file` its end? It is a zip, and the list of its parts comes last."""
    try:
        with zipfile.ZipFile(file) as opened:
            return bool(opened.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _is_complete_safetensors(file: Path) -> bool:
    """Is the safetensors `file` as long as its head says? Eight bytes give the head's length, and
    it every tensor's place.
    """
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            head = json.loads(opened.read(length)) if length < file.stat().st_size else {}
        ends = [
            tensor["data_offsets"][1] for name, tensor in head.items() if name != "__metadata__"
        ]
        return bool(ends) and 8 + length + max(ends) == file.stat().st_size
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False
