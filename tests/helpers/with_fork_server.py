"""`python -m MODULE ...` in a process that a fork server made, which forks its own warm processes
from that same server.

Otherwise every sweep in a test would start a server, and import the training stack, for a trial or
two. tests/test_privacy.py starts a sweep as a user does.
"""

import os
import runpy
import sys
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

from medexp.sweep.workers import warm_process

# Where a command's three streams are files, as it is told by the variable.
STREAMS_IN = "MEDEXP_TESTS_STREAMS"
STREAMS = {"stdin": os.O_RDONLY, "stdout": os.O_WRONLY, "stderr": os.O_WRONLY}


def start_server() -> str:
    """Start the server of this process, where there is none; returns its address."""
    forkserver.set_forkserver_preload(warm_process._PRELOADED)
    forkserver.ensure_running()
    return str(forkserver._forkserver._forkserver_address)  # type: ignore[attr-defined]


def join_server(address: str) -> None:
    """Have this process fork from the server at `address`, which made it.

    Of that server it has all but the address: see multiprocessing.forkserver._serve_one.
    """
    server = forkserver._forkserver  # type: ignore[attr-defined]
    server._forkserver_address = address
    server.ensure_running = resource_tracker.ensure_running


def redirect_streams(folder: Path) -> None:
    """Read standard input from the file `stdin` of `folder`, and write each output stream there."""
    for number, (name, flags) in enumerate(STREAMS.items()):
        descriptor = os.open(folder / name, flags)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115


if __name__ == "__main__":
    join_server(sys.argv[1])
    if streams := os.environ.pop(STREAMS_IN, None):
        redirect_streams(Path(streams))
    del sys.argv[:2]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
