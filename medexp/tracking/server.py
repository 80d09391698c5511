"""MLflow's pages over the project's store: a server on 127.0.0.1 while it is open, and the links
worth following.

Refuses to be reached from elsewhere: it listens on 127.0.0.1 and answers to that name alone.
"""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medexp.config.schema import Tracking
from medexp.errors import MachineError
from medexp.system.ports import refuse_taken_port
from medexp.tracking.store import refuse_empty, store_uri
from medexp.tracking.store_upkeep import prepare_store

READY_WITHIN_S = 120.0


@contextmanager
def serve_mlflow(tracking: Tracking, port: int, log: Path) -> Iterator[str]:
    """The address of an MLflow server over the store of `tracking`, ready to answer; it and its
    workers end with the block.

    Raises: RunError if there is no store yet; MachineError if the port is taken or the server does
        not come up.
    """
    root = Path(tracking.root or ".")
    refuse_empty(root)
    prepare_store(root)
    refuse_taken_port(port)
    address = f"http://127.0.0.1:{port}"
    with log.open("w") as output:
        server = subprocess.Popen(
            _make_command(root, port),
            env=_make_environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait_until_ready(server, address, log)
            yield address
        finally:
            _end_server(server)


def _make_command(root: Path, port: int) -> list[str]:
    hosts = f"127.0.0.1:{port},localhost:{port}"
    store = [
        "--backend-store-uri",
        store_uri(root),
        "--default-artifact-root",
        (root / "artifacts").as_uri(),
    ]
    where = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--allowed-hosts", hosts]
    return [sys.executable, "-m", "mlflow", "server", *store, *where]


def _make_environment() -> dict[str, str]:
    """Return this process's environment with nothing on PATH: the server needs no program but
    Python, and MLflow's assistant, which has no switch, takes without asking whichever coding agent
    is there (Claude Code, Codex), and sends its makers what a person types and what it looks up in
    the runs. Ollama on this machine, and a provider whose key was entered there, are left to it.
    Source: mlflow/assistant/providers."""
    return os.environ | {
        "PATH": "",
        "MLFLOW_ENABLE_REMOTE_ASSISTANT": "false",
        "MLFLOW_ENABLE_ASSISTANT_SANDBOX": "false",
    }


def _wait_until_ready(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    until = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < until and server.poll() is None:
        with (
            suppress(urllib.error.URLError, ConnectionError, TimeoutError),
            urllib.request.urlopen(f"{address}/health", timeout=2),
        ):
            return
        time.sleep(0.3)
    raise MachineError(
        f"MLflow's server did not come up within {READY_WITHIN_S:.0f} s; {log} says why"
    )


def _end_server(server: subprocess.Popen[bytes]) -> None:
    """Its workers are children of their own: the whole group is ended."""
    for number, patience_s in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with suppress(subprocess.TimeoutExpired):
            server.wait(patience_s)
            return
