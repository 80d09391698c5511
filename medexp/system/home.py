"""Paths without the user: the home folder as ~, in what is kept or shown to others."""

import logging
import os
import re
from pathlib import Path

# so that /home/ann is not found in /home/anne, nor in /mnt/home/ann
_BEFORE, _AFTER = r"(?<![\w.~-])", r"(?![\w-]|\.\w)"


def expand_home(path: str | Path) -> Path:
    """Return `path` with a leading ~ or ~user as the home folder; as it is where no such user is
    known, which is then a folder's name (Path.expanduser raises there).
    """
    return Path(os.path.expanduser(path))  # noqa: PTH111


def with_tilde(text: str) -> str:
    """Return `text` with this user's home folder in it as ~, which every path of a config may begin
    with.
    """
    for home in _homes():
        text = re.sub(f"{_BEFORE}{re.escape(home)}{_AFTER}", "~", text)
    return text


def short(path: Path) -> Path:
    """Return `path` as it is typed in the current folder: from there where it lies below it, else
    from the home folder.
    """
    here = Path.cwd()
    return (
        path.relative_to(here)
        if path != here and path.is_relative_to(here)
        else Path(with_tilde(str(path)))
    )


def _homes() -> list[str]:
    """The home folder as the environment names it and, where that is a link, as it is called
    without.
    """
    try:
        named = Path.home()
        homes = [named, named.resolve()]
    # An account without a home.
    except (OSError, RuntimeError):
        return []
    # The root folder would be found in every path.
    return list(dict.fromkeys(str(home) for home in homes if len(home.parts) > 1))


class TildeFormatter(logging.Formatter):
    """Writes a line of a log, and the traceback below it, without the user's name."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line with the home folder as ~."""
        return with_tilde(super().format(record))
