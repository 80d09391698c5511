"""Why a file cannot be written: a full disk, a file that may not become so large, a folder that may
not be written to.

Recognised here alone, in what the system, torch, safetensors, tokenizers and sqlite say of it, each
in its own words.
"""

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
    "Permission denied", "os error 13", "Operation not permitted", "os error 1)",
    "Read-only file system", "os error 30", "attempt to write a readonly database",
)  # fmt: skip
# Torch says no more, whatever kept it from writing.
UNSAID = "unexpected pos ", "PytorchStreamWriter failed writing file", "file write failed"
NO_ROOM = errno.ENOSPC, errno.EDQUOT
NOT_ALLOWED = errno.EACCES, errno.EPERM, errno.EROFS
# A disk with more room than this is not called full, whatever an error says.
FULL_BELOW = 64 * MIB


class WriteHindrance(NamedTuple):
    """Why files cannot be written, and until when the same command waits for that to change."""

    what: str
    until: str


def is_disk_full(error: OSError) -> bool:
    """Return whether `error` is the system's word for a full disk or a quota that is used up."""
    return error.errno in NO_ROOM


def find_disk_full_error(error: BaseException) -> BaseException | None:
    """Return `error`, or the first of those that led to it, that says there is no room to write;
    None where none does.
    """
    for cause in _walk_chain(error):
        if _mentions(cause, FULL, NO_ROOM) or _mentions(cause, TOO_LARGE, (errno.EFBIG,)):
            return cause
    return None


def explain_write_error(error: BaseException, places: Sequence[Path]) -> WriteHindrance | None:
    """Return why something could not be written, where `error` or one that led to it says so, else
    None.

    The file's folder is looked at where it is named, else `places` and the system's folder for
    temporary files.
    """
    folders = [*places, Path(tempfile.gettempdir())]
    if (found := find_disk_full_error(error)) is not None:
        return (
            _explain_too_large()
            if _mentions(found, TOO_LARGE, (errno.EFBIG,))
            else _explain_full_disk(found, folders)
        )
    for cause in _walk_causes(error):
        if _mentions(cause, FORBIDDEN, NOT_ALLOWED):
            return _explain_forbidden(cause, folders)
        if _mentions(cause, UNSAID, ()):
            return _explain_unsaid(cause, folders)
    return None


def refuse_full_disk(folders: Sequence[Path], enough_bytes: int) -> None:
    """Check that every folder has `enough_bytes` left.

    Raises: OutputError naming the folder that is full.
    """
    for folder in folders:
        if folder.exists() and (free := disk_usage(folder).free) < enough_bytes:
            raise OutputError(
                f"{_describe_full_disk(folder, free)}; free some space, the same command continues"
            )


def _explain_too_large() -> WriteHindrance:
    what = "a file may not become as large as this needs (ulimit -f shows the limit, in KiB)"
    return WriteHindrance(what, "it may")


def _explain_full_disk(error: BaseException, folders: Sequence[Path]) -> WriteHindrance:
    named = _extract_file(error)
    fullest, free = _find_fullest([named] if named else folders)
    if free < FULL_BELOW:
        return WriteHindrance(_describe_full_disk(fullest, free), "there is room")
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


def _explain_forbidden(error: BaseException, folders: Sequence[Path]) -> WriteHindrance:
    named = _extract_file(error)
    refused = None if named else next(filter(None, map(_find_refusal, folders)), None)
    what = (
        f"{named} cannot be used ({_first_line(error)})"
        if named
        else refused or f"a file cannot be used ({_first_line(error)})"
    )
    return WriteHindrance(what, "it can be written")


def _explain_unsaid(error: BaseException, folders: Sequence[Path]) -> WriteHindrance:
    """Return why a file of torch's could not be written, by looking at `folders`.

    Its words are the same for a full disk and for a folder that may not be written to.
    """
    if refused := next(filter(None, map(_find_refusal, folders)), None):
        return WriteHindrance(refused, "it can be written")
    fullest, free = _find_fullest(folders)
    if free < FULL_BELOW:
        return WriteHindrance(_describe_full_disk(fullest, free), "there is room")
    left = f"the disk of {fullest} has {free // MIB:,} MiB left"
    return WriteHindrance(
        f"a file could not be written, and torch does not say why ({_first_line(error)}); {left}",
        "that is mended",
    )


def _find_refusal(folder: Path) -> str | None:
    """Return what the system says against a new file in `folder`; None where it says nothing."""
    try:
        with tempfile.TemporaryFile(dir=_find_existing_folder(folder)):
            return None
    except OSError as error:
        return (
            f"{folder} cannot be written ({error.strerror})" if error.errno in NOT_ALLOWED else None
        )


def _describe_full_disk(folder: Path, free: int) -> str:
    return f"the disk of {folder} is full ({free // MIB:,} MiB left)"


def _find_fullest(folders: Sequence[Path]) -> tuple[Path, int]:
    free = {folder: disk_usage(folder).free for folder in map(_find_existing_folder, folders)}
    fullest = min(free, key=lambda folder: free[folder])
    return fullest, free[fullest]


def _extract_file(error: BaseException) -> Path | None:
    return (
        Path(error.filename)
        if isinstance(error, OSError) and isinstance(error.filename, str)
        else None
    )


def _first_line(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error).strip()
    return text.partition("\n")[0]


def _mentions(error: BaseException, words: Sequence[str], numbers: Sequence[int]) -> bool:
    has_number = isinstance(error, OSError) and error.errno in numbers
    return has_number or any(phrase in str(error) for phrase in words)


def _walk_chain(error: BaseException) -> Iterator[BaseException]:
    """Yield `error`, and every error that it was raised after."""
    visited: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in visited:
        visited.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _walk_causes(error: BaseException) -> Iterator[BaseException]:
    """Yield `error`, and the errors that it was raised from.

    Not those that were only handled before: something forbidden may have been seen to there, and is
    then no reason.
    """
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__


def _find_existing_folder(place: Path) -> Path:
    return next(
        folder for folder in (place.absolute(), *place.absolute().parents) if folder.is_dir()
    )
