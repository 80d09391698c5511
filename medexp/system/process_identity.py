"""Is a process still there? Known by its number, its machine and when it began: numbers are given
again.
"""

import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any


def describe_this_process() -> dict[str, object]:
    """This process, as others can tell whether it still lives."""
    return owner_of(os.getpid())


def owner_of(pid: int) -> dict[str, object]:
    """Process `pid`, so that it is not taken for a later one with its number."""
    import psutil

    return {"host": socket.gethostname(), "pid": pid, "began": psutil.Process(pid).create_time()}


def is_alive(process: Mapping[str, Any]) -> bool:
    """Is the process `describe_this_process()` described still there (on this machine)?"""
    import psutil

    try:
        found = psutil.Process(process["pid"])
        return bool(
            abs(found.create_time() - process["began"]) < 1
            and found.status() != psutil.STATUS_ZOMBIE
        )
    except psutil.Error:
        return False


def as_tag() -> str:
    """This process in one line, with a digest in the place of the machine's name."""
    me = describe_this_process()
    return json.dumps(me | {"host": _digest(str(me["host"]))})


def is_dead(tag: str) -> bool:
    """Is the process that wrote `tag` known to be gone? Of another machine's nothing is known."""
    try:
        process = json.loads(tag)
        return bool(process["host"] == _digest(socket.gethostname()) and not is_alive(process))
    except (ValueError, TypeError, KeyError):
        return False


def _digest(host: str) -> str:
    return hashlib.sha256(host.encode()).hexdigest()[:12]


def wait_for_end(process: Mapping[str, Any], seconds: float, say: Callable[[], None]) -> bool:
    """Wait until `process` has ended; False if it has not after `seconds`."""
    deadline, told = time.monotonic() + seconds, False
    while is_alive(process):
        if time.monotonic() > deadline:
            return False
        if not told:
            say()
            told = True
        time.sleep(0.2)
    return True
