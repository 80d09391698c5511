"""A file or a folder written whole or not at all: filled beside its place and renamed."""

import json
import os
import re
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

from medexp.system.stopping import delay_signals

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def write_json_atomic(
    file: Path,
    value: object,
    indent: int | None = None,
    private: bool = False,
    durable: bool = True,
) -> None:
    """Write `value` as JSON, as `write_text_atomic` writes text."""
    write_text_atomic(file, json.dumps(value, indent=indent), private, durable)


def write_text_atomic(file: Path, text: str, private: bool = False, durable: bool = True) -> None:
    """Write `text` so that a reader sees all of it or the file that was there before, also after a
    power cut (but for `durable=False`, which does not wait for the disk); `private`: for this user
    alone.
    """
    half_done = file.with_name(f".{file.name}-{os.getpid()}-{threading.get_ident()}")
    try:
        half_done.touch(0o600 if private else 0o666)
        half_done.write_text(text, encoding="utf-8", newline="")
        if durable:
            flush(half_done)
        half_done.replace(file)
        if durable:
            flush(file.parent)
    finally:
        half_done.unlink(missing_ok=True)


def flush(place: Path) -> None:
    """Wait until a file, or the list of a folder's files, is on the disk; some systems cannot tell
    of a folder.
    """
    is_folder = place.is_dir()
    with suppress(OSError) if is_folder else nullcontext():
        opened = os.open(place, os.O_RDONLY if is_folder else os.O_RDWR)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


@contextmanager
def atomic_directory(folder: Path) -> Iterator[Path]:
    """Yield a hidden folder beside `folder` that takes its place once everything is written.

    On any other ending it is removed, and what was at `folder` stays. What a killed process has
    left there is removed, too.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    half_done = _make_hidden_path(folder)
    try:
        with ExitStack() as delay_signals:
            # Two processes that begin or end at once take their turns: `_remove_leftovers` of one
            # must not meet the folder of the other before that one holds it.
            with _hold_lock(folder.parent, waits=True):
                # Not mkdtemp: its folders can be read by this user alone.
                half_done.mkdir()
                delay_signals.enter_context(_hold_lock(half_done))
            yield half_done
            with _hold_lock(folder.parent, waits=True):
                _replace(folder, half_done)
                _remove_leftovers(folder)
    finally:
        shutil.rmtree(half_done, ignore_errors=True)


@contextmanager
def _hold_lock(folder: Path, waits: bool = False) -> Iterator[bool]:
    """Hold `folder` for this process; yield whether it is held.

    False where another process holds it (with `waits` it is waited for), or where folders cannot be
    locked, as on Windows.
    """
    if fcntl is None:
        yield False
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(opened)


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left beside `folder`, which is whole now and held by none."""
    hidden = re.compile(rf"\.{re.escape(folder.name)}-[0-9a-f]{{32}}")
    for leftover in [path for path in folder.parent.iterdir() if hidden.fullmatch(path.name)]:
        with suppress(OSError), _hold_lock(leftover) as is_left:
            if is_left:
                shutil.rmtree(leftover, ignore_errors=True)


def _make_hidden_path(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")


def _replace(folder: Path, whole: Path) -> None:
    """What was there is moved aside first, and removed last; it comes back where `whole` cannot
    take its place.
    """
    if not folder.exists():
        whole.rename(folder)
        return
    aside = _make_hidden_path(folder)
    with delay_signals():
        folder.rename(aside)
        try:
            whole.rename(folder)
        except BaseException:
            aside.rename(folder)
            raise
    shutil.rmtree(aside, ignore_errors=True)
