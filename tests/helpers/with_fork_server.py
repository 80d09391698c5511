"""`python -m MODULE ...` in a process that a fork server made, which forks its own warm processes
from that same server.

Otherwise every sweep in a test would start a server, and import the training stack, for a trial or
two. tests/test_privacy.py starts a sweep as a user does.
"""

import runpy
import sys
from multiprocessing import forkserver, resource_tracker

from medexp.sweep.workers import warm_process


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


if __name__ == "__main__":
    join_server(sys.argv[1])
    del sys.argv[:2]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
