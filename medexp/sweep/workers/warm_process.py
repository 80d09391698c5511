"""Commands in processes that begin with the training stack imported.

Importing it takes 9 s of a core, as long as a short trial trains. Python's own fork server imports
it once, and every command is forked from there: a process of its own all the same, whose crash or
leak ends nothing else. On a CPU only: a card that was touched before a fork is lost after it.
"""

import atexit
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

# The second one imports the modules of medexp itself, and those that they are made of.
_PRELOADED = ["medexp.sweep.workers.preload", "medexp.training.run"]
_STANDARD_STREAMS = {"stdin": 0, "stdout": 1, "stderr": 2}


def can_fork() -> bool:
    """Return whether this system can fork a process that has loaded the training stack.

    macOS and Windows cannot: the first ends such a process in its own libraries.
    """
    return sys.platform.startswith("linux")


class WarmProcess:
    """`python -m MODULE ARGUMENTS` in a session of its own, forked with the stack imported.

    It has what `subprocess.Popen` has and the worker pool needs. `output` is the file descriptor
    that both its output streams go to.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        output: int,
        environment: Mapping[str, str],
        folder: Path,
    ):
        context = get_context("forkserver")
        context.set_forkserver_preload(_PRELOADED)
        has_begun, begins = context.Pipe(duplex=False)
        # A connection is what can be handed to another process; it closes its descriptor.
        stream = Connection(os.dup(output), readable=False)
        with has_begun, begins, stream:
            self._process = context.Process(
                target=_run_module,
                args=(module, [*arguments], stream, begins, dict(environment), str(folder)),
            )
            self._process.start()
            begins.close()
            # Before it leads a session of its own, a signal would not find it.
            wait([has_begun, self._process.sentinel])
        assert self._process.pid is not None
        self.pid = self._process.pid

    def __enter__(self) -> "WarmProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()

    @property
    def returncode(self) -> int | None:
        """The exit status, below 0 for the signal that ended it, None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; returns the exit status.

        Raises: subprocess.TimeoutExpired after `timeout` seconds.
        """
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        return self._process.exitcode


def _run_module(
    module: str,
    arguments: list[str],
    stream: Connection,
    begins: Connection,
    environment: dict[str, str],
    folder: str,
) -> None:
    """Become `python -m module arguments` in `folder`."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for name, descriptor in _STANDARD_STREAMS.items():
        if descriptor:
            os.dup2(stream.fileno(), descriptor)
            setattr(sys, name, open(descriptor, "w", closefd=False))  # noqa: SIM115
    stream.close()
    begins.send(None)
    begins.close()
    _set_thread_count()
    sys.path.insert(0, folder)
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        # multiprocessing leaves without them.
        atexit._run_exitfuncs()
        sys.stdout.flush()


def _set_thread_count() -> None:
    """Have torch use the threads that OMP_NUM_THREADS allows; it has read another value."""
    torch: Any = sys.modules.get("torch")
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if torch is not None and threads.isdigit():
        torch.set_num_threads(int(threads))


def terminate_with_parent() -> bool:
    """Have this process get SIGTERM when the one that asked for it dies.

    Returns False for a process that was not forked warm. Its parent is the fork server, which lives
    as long as any of the forked does.
    """
    parent = parent_process()
    if parent is None:
        return False

    def watch() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="medexp-parent").start()
    return True
