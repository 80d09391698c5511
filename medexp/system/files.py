"""A file or a folder written whole or not at all: filled beside its place and renamed."""

import json
import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from medexp.system.stopping import held


def write_json(file: Path, value: object, indent: int | None = None, private: bool = False, durable: bool = True) -> None:
    """Write `value` as JSON so that a reader sees all of it or the file that was there before, also after a power cut (but for
    `durable=False`, which does not wait for the disk); `private`: for this user alone."""
    half_done = file.with_name(f".{file.name}-{os.getpid()}-{threading.get_ident()}")
    try:
        half_done.touch(0o600 if private else 0o666)
        half_done.write_text(json.dumps(value, indent=indent), encoding="utf-8")
        if durable:
            flush(half_done)
        half_done.replace(file)
        if durable:
            flush(file.parent)
    finally:
        half_done.unlink(missing_ok=True)


def flush(place: Path) -> None:
    """Wait until a file, or the list of a folder's files, is on the disk; some systems cannot tell of a folder."""
    is_folder = place.is_dir()
    with suppress(OSError) if is_folder else nullcontext():
        opened = os.open(place, os.O_RDONLY if is_folder else os.O_RDWR)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """A hidden folder beside `folder` that takes its place, and that of what was there, once everything was written; on any other
    ending it is gone, and what was there stands where it stood."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    half_done = _hidden_beside(folder)
    half_done.mkdir()  # not mkdtemp, whose folders are for this user alone
    try:
        yield half_done
        _replace(folder, half_done)
    finally:
        shutil.rmtree(half_done, ignore_errors=True)


def _hidden_beside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")


def _replace(folder: Path, whole: Path) -> None:
    """What was there is moved aside first, and removed last; it comes back where `whole` cannot take its place."""
    if not folder.exists():
        whole.rename(folder)
        return
    aside = _hidden_beside(folder)
    with held():
        folder.rename(aside)
        try:
            whole.rename(folder)
        except BaseException:
            aside.rename(folder)
            raise
    shutil.rmtree(aside, ignore_errors=True)
