"""MLflow's pages over the project's store: a server on 127.0.0.1 while it is open, and the links worth following.

Refuses to be reached from elsewhere: it listens on 127.0.0.1 and answers to that name alone.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from medexp.config.schema import Tracking
from medexp.errors import MachineError, RunError
from medexp.tracking import open_store, store_uri

READY_WITHIN_S = 120.0
COMPARED = 12  # runs that MLflow's comparison still shows well


@dataclass(frozen=True)
class Link:
    """A page and what it shows."""

    title: str
    url: str


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(tracking: Tracking, port: int, log: Path) -> Iterator[str]:
    """The address of an MLflow server over the store of `tracking`, ready to answer; it and its workers end with the block.

    Raises: RunError if there is no store yet; MachineError if the port is taken or the server does not come up.
    """
    root = Path(tracking.root or ".")
    if not (root / "mlflow.db").is_file():
        raise RunError(f"tracking.root={root} holds no runs yet; run python -m medexp.train first, or set tracking.root=FOLDER")
    _refuse_taken(port)
    address = f"http://127.0.0.1:{port}"
    with log.open("w") as output:
        server = subprocess.Popen(_command(root, port), stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            _wait_until_ready(server, address, log)
            yield address
        finally:
            _end(server)


def links(tracking: Tracking, address: str) -> Sequence[Link]:
    """The experiment, the newest sweep's comparison, and the last run, where there are such."""
    client = open_store(tracking)
    experiment = client.get_experiment_by_name(tracking.experiment)
    if experiment is None:
        return [Link("all experiments", address)]
    base = f"{address}/#/experiments/{experiment.experiment_id}"
    found = [Link(f"experiment {experiment.name}", f"{base}/runs")]
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    parents = {run.data.tags.get("mlflow.parentRunId") for run in runs}
    study = next((run for run in runs if run.info.run_id in parents and "medexp.study" in run.data.tags), None)
    if study is not None:
        trials = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == study.info.run_id]
        done = [run for run in trials if run.info.status == "FINISHED"]
        found += _comparison(study.info.run_name, done[:COMPARED], address, experiment.experiment_id)
    last = next((run for run in runs if run.info.run_id not in parents), None)
    if last is not None:
        found.append(Link(f"last run, {last.info.run_name}", f"{base}/runs/{last.info.run_id}"))
        found.append(Link("its report", f"{base}/runs/{last.info.run_id}/artifacts/report.html"))
    return found


def _comparison(study: str, trials: Sequence[Any], address: str, experiment_id: str) -> list[Link]:
    if len(trials) < 2:
        return []
    runs, experiments = (quote(json.dumps(each)) for each in ([run.info.run_id for run in trials], [experiment_id]))
    return [
        Link(f"sweep {study}, {len(trials)} trials compared", f"{address}/#/compare-runs?runs={runs}&experiments={experiments}")
    ]


def _command(root: Path, port: int) -> list[str]:
    hosts = f"127.0.0.1:{port},localhost:{port}"
    store = ["--backend-store-uri", store_uri(root), "--default-artifact-root", (root / "artifacts").as_uri()]
    where = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--allowed-hosts", hosts]
    return [sys.executable, "-m", "mlflow", "server", *store, *where]


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise MachineError(f"ui.port={port} cannot be listened on ({error.strerror}); set another, or ui.port=null") from error


def _wait_until_ready(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    until = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < until and server.poll() is None:
        with suppress(urllib.error.URLError, ConnectionError, TimeoutError), urllib.request.urlopen(f"{address}/health", timeout=2):
            return
        time.sleep(0.3)
    raise MachineError(f"MLflow's server did not come up within {READY_WITHIN_S:.0f} s; {log} says why")


def _end(server: subprocess.Popen[bytes]) -> None:
    """Its workers are children of their own: the whole group is ended."""
    for number, patience_s in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with suppress(subprocess.TimeoutExpired):
            server.wait(patience_s)
            return
