"""What another process printed into a file."""

from pathlib import Path

MAX_LINE_CHARACTERS = 400


def read_last_line(log: Path) -> str:
    """Return the last line that a process printed to `log`, "" where the file cannot be read.

    Lines that begin with "$ " are the commands that were run, and printed by nobody.
    """
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return ""
    printed = [line for line in lines if not line.startswith("$ ")]
    if not printed:
        return "it printed nothing"
    return printed[-1].removeprefix("medexp: ")[:MAX_LINE_CHARACTERS]
