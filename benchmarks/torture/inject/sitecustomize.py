"""Comes into every Python that has this folder on its path: dies at a file operation, or has its
clock set back, as TORTURE_* say.

TORTURE_COUNT=FILE        how many file operations there were, written at the end
TORTURE_DIE=NUMBER:S      kill -9, S seconds after file operation NUMBER
TORTURE_CLOCK=AFTER:BY    AFTER seconds from the start the clock is BY seconds further, or back

File operations are what Python's audit events show: files opened to write, renamed, removed,
linked, folders made, databases opened.
"""

import atexit
import os
import signal
import sys
import threading
import time

_EVENTS = {
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "sqlite3.connect",
    "os.truncate",
}
_count = 0


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _watch(event: str, args: tuple) -> None:
    global _count  # noqa: PLW0603
    if event not in _EVENTS and not (
        event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
    ):
        return
    _count += 1
    if _count == _at:
        threading.Timer(_later_s, _die).start() if _later_s else _die()


def _set_clock(after_s: float, by_s: float) -> None:
    began, plain, plain_ns = time.monotonic(), time.time, time.time_ns

    def shift() -> float:
        return by_s if time.monotonic() - began >= after_s else 0.0

    time.time = lambda: plain() + shift()
    time.time_ns = lambda: plain_ns() + int(shift() * 1e9)


_number, _, _later = os.environ.get("TORTURE_DIE", "0:0").partition(":")
_at, _later_s = int(_number), float(_later)
# this process's, not its children's
if os.environ.pop("TORTURE_DIE", None) or "TORTURE_COUNT" in os.environ:
    sys.addaudithook(_watch)
if _counted := os.environ.pop("TORTURE_COUNT", None):

    def _write() -> None:
        count = _count
        with open(_counted, "w") as file:  # noqa: PTH123
            file.write(str(count))

    atexit.register(_write)
if "TORTURE_CLOCK" in os.environ:
    _set_clock(*map(float, os.environ["TORTURE_CLOCK"].split(":")))
