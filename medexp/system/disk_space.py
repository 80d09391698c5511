"""No room to write: recognised in what the system, torch, safetensors, tokenizers and sqlite say of it, each in its own words."""

import errno
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from shutil import disk_usage

TOO_LARGE = "File too large", "os error 27"
FULL = (
    "No space left on device", "os error 28", "Disk quota exceeded", "os error 122",
    "unexpected pos ", "PytorchStreamWriter failed writing file", "file write failed",  # torch says no more, whatever hindered it
    "database or disk is full",
)  # fmt: skip
MIB = 2**20


def lacking(error: BaseException, places: Sequence[Path]) -> str | None:
    """What is full, where `error`, or one that led to it, says that something could not be written for want of room: the file's
    folder where it is named, else that of `places` and the system's folder for temporary files with the least room left."""
    chain = list(_chain(error))
    if not any(_says(each, FULL, (errno.ENOSPC, errno.EDQUOT)) or _says(each, TOO_LARGE, (errno.EFBIG,)) for each in chain):
        return None
    if any(_says(each, TOO_LARGE, (errno.EFBIG,)) for each in chain):
        return "a file may not become as large as this run needs (ulimit -f shows the limit, in KiB)"
    named = [Path(each.filename) for each in chain if isinstance(each, OSError) and isinstance(each.filename, str)]
    free = {folder: disk_usage(folder).free for folder in map(_existing, named or [*places, Path(tempfile.gettempdir())])}
    fullest = min(free, key=lambda folder: free[folder])
    return f"the disk of {fullest} is full ({free[fullest] // MIB:,} MiB left)"


def _says(error: BaseException, words: Sequence[str], numbers: Sequence[int]) -> bool:
    return (isinstance(error, OSError) and error.errno in numbers) or any(each in str(error) for each in words)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__


def _existing(place: Path) -> Path:
    return next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.is_dir())
