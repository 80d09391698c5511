"""What keeps a file from being written: recognised, here alone, in what the system, torch,
safetensors, tokenizers and sqlite say of it, each in its own words."""

import errno
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from shutil import disk_usage
from typing import NamedTuple

from medexp.errors import OutputError
from medexp.system.units import MIB

FULL = (
    "No space left on device",
    "os error 28",
    "Disk quota exceeded",
    "os error 122",
    "database or disk is full",
)
TOO_LARGE = "File too large", "os error 27"
FORBIDDEN = (
    "Permission denied", "os error 13", "Operation not permitted", "os error 1)", "Read-only file system", "os error 30",
    "attempt to write a readonly database",
)  # fmt: skip
# Torch says no more, whatever hindered it.
UNSAID = "unexpected pos ", "PytorchStreamWriter failed writing file", "file write failed"
NO_ROOM = errno.ENOSPC, errno.EDQUOT
NOT_ALLOWED = errno.EACCES, errno.EPERM, errno.EROFS
FULL_BELOW = 64 * MIB  # a disk with more room than this is not called full, whatever an error says


class WriteHindrance(NamedTuple):
    """What keeps files from being written, and how that ends."""

    what: str
    until: str


def find_disk_full_error(error: BaseException) -> BaseException | None:
    """Return `error`, or the first of those that led to it, that says there is no room to write;
    None where none does.
    """
    return next(
        (
            each
            for each in _chain(error)
            if _says(each, FULL, NO_ROOM) or _says(each, TOO_LARGE, (errno.EFBIG,))
        ),
        None,
    )


def explain_write_error(error: BaseException, places: Sequence[Path]) -> WriteHindrance | None:
    """Return why something could not be written, where `error` or one that led to it says so, else
    None.

    The file's folder is looked at where it is named, else `places` and the system's folder for
    temporary files.
    """
    folders = [*places, Path(tempfile.gettempdir())]
    if (found := find_disk_full_error(error)) is not None:
        return _too_large() if _says(found, TOO_LARGE, (errno.EFBIG,)) else _no_room(found, folders)
    for each in _causes(error):
        if _says(each, FORBIDDEN, NOT_ALLOWED):
            return _not_allowed(each, folders)
        if _says(each, UNSAID, ()):
            return _unsaid(each, folders)
    return None


def refuse_full_disk(folders: Sequence[Path], enough_bytes: int) -> None:
    """Is there room to go on?

    Raises: OutputError naming the folder that is full.
    """
    for folder in folders:
        if folder.exists() and (free := disk_usage(folder).free) < enough_bytes:
            raise OutputError(
                f"{_is_full(folder, free)}; free some space, the same command continues"
            )


def _too_large() -> WriteHindrance:
    what = "a file may not become as large as this needs (ulimit -f shows the limit, in KiB)"
    return WriteHindrance(what, "it may")


def _no_room(error: BaseException, folders: Sequence[Path]) -> WriteHindrance:
    named = _named(error)
    fullest, free = _fullest([named] if named else folders)
    if free < FULL_BELOW:
        return WriteHindrance(_is_full(fullest, free), "there is room")
    reason = _first_line(error)
    where = (
        f"{named} cannot be written ({reason})"
        if named
        else f"something cannot be written ({reason})"
    )
    left = (
        f"the disk of {fullest} has {free // MIB:,} MiB left: too little for what was to be"
        " written, or a quota is used up"
    )
    return WriteHindrance(f"{where}; {left}", "there is room")


def _not_allowed(error: BaseException, folders: Sequence[Path]) -> WriteHindrance:
    named = _named(error)
    refused = None if named else next(filter(None, map(_refusal, folders)), None)
    what = (
        f"{named} cannot be used ({_first_line(error)})"
        if named
        else refused or f"a file cannot be used ({_first_line(error)})"
    )
    return WriteHindrance(what, "it can be written")


def _unsaid(error: BaseException, folders: Sequence[Path]) -> WriteHindrance:
    """A full disk and a folder that cannot be written look the same to whoever reads torch's words
    alone: look.
    """
    if refused := next(filter(None, map(_refusal, folders)), None):
        return WriteHindrance(refused, "it can be written")
    fullest, free = _fullest(folders)
    if free < FULL_BELOW:
        return WriteHindrance(_is_full(fullest, free), "there is room")
    left = f"the disk of {fullest} has {free // MIB:,} MiB left"
    return WriteHindrance(
        f"a file could not be written, and torch does not say why ({_first_line(error)}); {left}",
        "that is mended",
    )


def _refusal(folder: Path) -> str | None:
    """What the system says against a new file in `folder`; None where it says nothing."""
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)):
            return None
    except OSError as error:
        return (
            f"{folder} cannot be written ({error.strerror})" if error.errno in NOT_ALLOWED else None
        )


def _is_full(folder: Path, free: int) -> str:
    return f"the disk of {folder} is full ({free // MIB:,} MiB left)"


def _fullest(folders: Sequence[Path]) -> tuple[Path, int]:
    free = {folder: disk_usage(folder).free for folder in map(_existing, folders)}
    fullest = min(free, key=lambda folder: free[folder])
    return fullest, free[fullest]


def _named(error: BaseException) -> Path | None:
    return (
        Path(error.filename)
        if isinstance(error, OSError) and isinstance(error.filename, str)
        else None
    )


def _first_line(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error).strip()
    return text.partition("\n")[0]


def _says(error: BaseException, words: Sequence[str], numbers: Sequence[int]) -> bool:
    return (isinstance(error, OSError) and error.errno in numbers) or any(
        each in str(error) for each in words
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """`error`, and everything that it followed on."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """`error`, and what it says that it came from: something forbidden may have been seen to
    before, and is then no reason.
    """
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__


def _existing(place: Path) -> Path:
    return next(
        folder for folder in (place.absolute(), *place.absolute().parents) if folder.is_dir()
    )
