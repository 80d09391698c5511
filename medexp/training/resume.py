"""The folder of a run that is not finished yet: its checkpoints, the answers made so far, and the
MLflow run it belongs to.

It is named by the run's fingerprint, so that the same command finds it again after any ending. A
process holds it by a lock that the operating system releases when the process dies, whatever it
died of. The folder is removed once the run has finished.
"""

import json
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from medexp.config.flatten import fingerprint, former_fingerprint
from medexp.config.schema import Resume, RunConfig, Tracking
from medexp.errors import MedexpError, OutputError, RunError, TrialPruned, VramCeilingError
from medexp.planning.memory_terms import Levers
from medexp.system import disk_space
from medexp.system.files import write_json_atomic
from medexp.tracking.artifact_names import ADAPTER_WEIGHTS

# The files of a folder: its MLflow run, the chat template it is written with, the levers that fit,
# and those that did not after all.
RUN = "run.json"
WORDS = "words.json"
LEVERS = "levers.json"
OUT_OF_MEMORY = "ran_out.json"
Read = TypeVar("Read")


class ResumableRun:
    """An unfinished run, held by this process; `is_new` is False when an earlier one left it."""

    def __init__(self, folder: Path, lock: FileLock):
        self.folder = folder
        self._lock = lock
        self.is_new = self.mlflow_run_id is None

    @property
    def mlflow_run_id(self) -> str | None:
        """The MLflow run that this belongs to, once there is one."""
        return read_json(self.folder / RUN, lambda stored: str(stored["mlflow_run_id"]))

    def remember_mlflow_run(self, mlflow_run_id: str) -> None:
        """Write down the MLflow run, whole or not at all."""
        write_json_atomic(self.folder / RUN, {"mlflow_run_id": mlflow_run_id})

    def require_same_words(self, digest: str) -> None:
        """Write down the `digest` of the chat template that the run is written with.

        Raises: RunError where an earlier process has trained it with another one.
        """
        file = self.folder / WORDS
        before = read_json(file, lambda stored: str(stored["chat_template"]))
        if before not in (None, digest):
            raise RunError(
                "the model's chat template is another than when this run was begun, and its steps"
                " so far were trained with that; put the former tokenizer back, or set"
                " training.resume=never to begin anew"
            )
        write_json_atomic(file, {"chat_template": digest})

    def load_fitting_levers(self) -> Levers | None:
        """Return the levers that this run was seen to fit with; None before that."""
        return read_json(self.folder / LEVERS, lambda stored: Levers(**stored))

    def remember_fitting_levers(self, levers: Levers) -> None:
        """Write down the levers, whole or not at all."""
        write_json_atomic(self.folder / LEVERS, asdict(levers))

    def load_levers_out_of_memory(self) -> tuple[Levers, str | None] | None:
        """Return the levers with which an earlier process ran out of memory after they had seemed
        to fit, and in which phase (its value; None in a file of an older medexp).
        """
        return read_json(
            self.folder / OUT_OF_MEMORY,
            lambda stored: (Levers(**stored["levers"]), stored.get("phase")),
        )

    def mark_out_of_memory(self, phase: str | None) -> None:
        """Write down that the levers did not fit after all, in the phase of this value, so that the
        next process takes others.
        """
        if (levers := self.load_fitting_levers()) is not None:
            did_not_fit = {"levers": asdict(levers), "phase": phase}
            write_json_atomic(self.folder / OUT_OF_MEMORY, did_not_fit)
            (self.folder / LEVERS).unlink()

    @property
    def checkpoints(self) -> Path:
        """The folder that the trainer writes to."""
        return self.folder / "checkpoints"

    def find_last_checkpoint(self) -> Path | None:
        """Return the newest complete checkpoint, or None."""
        newest_first = sorted(self.checkpoints.glob("checkpoint-*"), key=step_of, reverse=True)
        return next(filter(_is_complete_checkpoint, newest_first), None)

    def answers_file(self, whose: str) -> Path:
        """Return the file that the answers of "base" or "tuned" are kept in as they come."""
        return self.folder / f"answers_{whose}.jsonl"

    @contextmanager
    def explain_full_disk(self, *also: Path) -> Iterator[None]:
        """Explain where nothing can be written, here or in `also`; incomplete checkpoints are
        removed, so that MLflow has room to say how the run ended.

        Raises: OutputError saying what hinders, and from where the same command continues.
        """
        try:
            yield
        except MedexpError:
            raise
        except Exception as error:
            hindrance = disk_space.explain_write_error(error, [self.folder, *also])
            if hindrance is None:
                raise
            for folder in self.checkpoints.glob("checkpoint-*"):
                if not _is_complete_checkpoint(folder):
                    shutil.rmtree(folder, ignore_errors=True)
            where = "this run, which has no checkpoint yet,"
            if last := self.find_last_checkpoint():
                where = f"from {last.name}, which is kept,"
            what, until = hindrance
            raise OutputError(f"{what}; the same command continues {where} once {until}") from error

    def release(self) -> None:
        """Release the lock, so that another process can go on."""
        self._lock.release()

    def finish(self) -> None:
        """Remove the folder: the run is complete."""
        # The run's id goes last: one killed in between must not leave checkpoints that the same
        # command would continue in another MLflow run, which would then lack every step before
        # them.
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        _release_and_remove(self._lock)


def unfinished_runs_dir(tracking: Tracking) -> Path:
    """Return the folder that holds the unfinished runs of a store."""
    return Path(tracking.root or ".") / "unfinished"


def acquire_run(
    config: RunConfig, data_digest: str, naming: str = "{}"
) -> AbstractContextManager[ResumableRun]:
    """Return the folder of the run of `config` on the cases of that digest, new or left by an
    earlier process, to be held in a `with`.

    `naming` tells it from another use of the same run: "evaluate-{}".
    """
    names = [naming.format(of(config, data_digest)) for of in (fingerprint, former_fingerprint)]
    return acquire(unfinished_runs_dir(config.tracking), names[0], config.training.resume, names[1])


@contextmanager
def acquire(
    root: Path,
    fingerprint: str,
    resume: Resume,
    former: str | None = None,
) -> Iterator[ResumableRun]:
    """Hold the run with this fingerprint under `root`: the one an earlier process left (with
    `resume=auto`; an older medexp called it `former`), else a new one.

    Raises: OutputError if it cannot be written, or the disk is full.
    """
    run = _acquire(root, fingerprint, resume, former)
    try:
        with run.explain_full_disk():
            yield run
    except TrialPruned:
        # A pruned trial is not continued.
        run.finish()
        raise
    except VramCeilingError as error:
        run.mark_out_of_memory(error.phase)
        raise
    finally:
        run.release()


def _acquire(root: Path, fingerprint: str, resume: Resume, former: str | None) -> ResumableRun:
    """Return the first run that no process holds, one that was left before a new one: the same
    command may have run twice at once, and one of them died.
    """
    names = [name for name in (fingerprint, former) if name] if resume is Resume.auto else []
    for folder in (folder for name in names for folder in _list_earlier_dirs(root, name)):
        lock = _try_lock(folder)
        if lock is not None and folder.exists():
            return ResumableRun(folder, lock)
        # It was finished between the look and the lock.
        if lock is not None:
            _release_and_remove(lock)
    for number in count(1):
        folder = root / (fingerprint if number == 1 else f"{fingerprint}-{number}")
        lock = None if folder.exists() else _try_lock(folder)
        if lock is not None:
            folder.mkdir(exist_ok=True)
            return ResumableRun(folder, lock)
    raise AssertionError("count() does not end")


def _list_earlier_dirs(root: Path, fingerprint: str) -> list[Path]:
    """Return the folders of runs with this fingerprint, the first one first."""
    numbered_name = re.compile(rf"{re.escape(fingerprint)}(?:-(\d+))?")
    numbered = [
        (int(match[1] or 1), folder)
        for folder in root.glob(f"{fingerprint}*")
        if folder.is_dir() and (match := numbered_name.fullmatch(folder.name))
    ]
    return [folder for _, folder in sorted(numbered)]


def list_dead_mlflow_runs(tracking: Tracking) -> list[str]:
    """Return the MLflow runs of every run whose process is gone."""
    abandoned = iterate_abandoned_runs(unfinished_runs_dir(tracking))
    return [run.mlflow_run_id for run in abandoned if run.mlflow_run_id]


def iterate_abandoned_runs(root: Path) -> Iterator[ResumableRun]:
    """Yield every run whose process is gone, held while it is looked at."""
    for folder in sorted(path for path in root.glob("*") if path.is_dir()):
        lock = _try_lock(folder)
        if lock is not None:
            run = ResumableRun(folder, lock)
            try:
                yield run
            finally:
                run.release()


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
    # Removed before it is released, so that no other process holds a lock whose file is gone.
    # Windows does not remove an open file: there it stays.
    with suppress(PermissionError):
        Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def read_json(file: Path, parse: Callable[[Any], Read]) -> Read | None:
    """Return what `parse` makes of JSON `file`; None where it is not there or not readable, as
    after a power cut.
    """
    try:
        return parse(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def step_of(folder: Path) -> int:
    """Return the step of the checkpoint in `folder` by its name, -1 for another folder."""
    number = folder.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1


def _is_complete_checkpoint(folder: Path) -> bool:
    """Return whether every file of a checkpoint is complete.

    Its state file is written last, but when a machine stops it may be the first on the disk.
    """
    state = read_json(folder / "trainer_state.json", dict)
    if not state or state.get("global_step") != step_of(folder):
        return False
    pickles = [*folder.glob("*.pt"), *folder.glob("*.pth")]
    return (
        {"optimizer.pt", "scheduler.pt"} <= {file.name for file in pickles}
        and all(map(_is_complete_zip, pickles))
        and _is_complete_safetensors(folder / ADAPTER_WEIGHTS)
    )


def _is_complete_zip(file: Path) -> bool:
    """Return whether what torch saved in `file` has its end: it is a zip, and the list of its parts
    comes last.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return bool(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _is_complete_safetensors(file: Path) -> bool:
    """Return whether the safetensors `file` is as long as its header says: eight bytes give the
    header's length, and the header every tensor's place.
    """
    try:
        num_bytes = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length)) if length < num_bytes else {}
        header.pop("__metadata__", None)
        ends = [tensor["data_offsets"][1] for tensor in header.values()]
        return bool(ends) and 8 + length + max(ends) == num_bytes
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False
