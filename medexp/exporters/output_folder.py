"""The folder that an export goes to: checked before anything is written, and then written as a
whole or not at all.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medexp.errors import MedexpError, OutputError
from medexp.system import disk_space
from medexp.system.files import atomic_directory
from medexp.system.units import GIB, MIB

# What an export says of itself. A folder without this file is never replaced.
MANIFEST_NAME = "export.json"


def check_folder(folder: Path, overwrite: bool, needed_bytes: int) -> None:
    """Check that an export of `needed_bytes` can be written to `folder`.

    Raises: OutputError if it holds something (with `overwrite`: something that is not an export),
        or the disk is too small.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        is_export = (folder / MANIFEST_NAME).is_file()
        if not is_export:
            raise OutputError(
                f"export.folder={folder} is not empty and holds no export; give a new or an empty"
                " folder"
            )
        if not overwrite:
            raise OutputError(
                f"export.folder={folder} already holds an export; set overwrite=true to replace it"
            )
    parent = next(
        ancestor
        for ancestor in (folder.absolute(), *folder.absolute().parents)
        if ancestor.is_dir()
    )
    if not os.access(parent, os.W_OK):
        raise OutputError(f"{parent} cannot be written; set export.folder=FOLDER")
    free = shutil.disk_usage(parent).free
    if needed_bytes > free:
        raise OutputError(
            f"the export needs {format_size(needed_bytes)} on the disk of {parent} and"
            f" {format_size(free)} are free; make room, or set export.folder=FOLDER on another disk"
        )


@contextmanager
def open_output_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder to write an export to, which becomes `folder` at the end; after an error it is
    removed.

    Raises: OutputError where the disk fills up meanwhile, or nothing may be written there.
    """
    try:
        with atomic_directory(folder) as unfinished:
            yield unfinished
    except MedexpError:
        raise
    except Exception as error:
        hindrance = disk_space.explain_write_error(error, [folder.parent])
        if hindrance is None:
            raise
        raise OutputError(
            f"{folder} cannot be written: {hindrance.what}; nothing of it was left"
        ) from error


def write_manifest(folder: Path, facts: dict[str, object]) -> None:
    """Write export.json: `facts`, and the size of every file."""
    list_files = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    (folder / MANIFEST_NAME).write_text(
        json.dumps(facts | {"files": list_files}, indent=2) + "\n", encoding="utf-8"
    )


def list_files(folder: Path) -> list[tuple[str, str]]:
    """Return every file in `folder` with its size, as rows of a table."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [
        (path.relative_to(folder).as_posix(), format_size(path.stat().st_size)) for path in paths
    ]


def format_size(num_bytes: int) -> str:
    """Return `num_bytes` as people read it."""
    if num_bytes >= GIB:
        return f"{num_bytes / GIB:.2f} GiB"
    return f"{num_bytes / MIB:.1f} MiB" if num_bytes >= MIB else f"{num_bytes / 1024:.1f} KiB"
