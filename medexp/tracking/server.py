"""MLflow's pages over the project's store: a server on 127.0.0.1 while it is open, and the links
worth following.

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
from medexp.errors import MachineError
from medexp.system.private_names import VIEWS, is_untested
from medexp.tracking import views
from medexp.tracking.store import open_store, refuse_empty, store_uri
from medexp.tracking.store_upkeep import prepare
from medexp.tracking.views import TRAINING_PAGES

READY_WITHIN_S = 120.0
COMPARED = 12  # runs that MLflow's comparison still shows well
USUAL_PORT = 5000  # a browser keeps what it was told about a page by its port


@dataclass(frozen=True)
class Link:
    """A page and what it shows."""

    title: str
    url: str


@contextmanager
def listening(port: int | None, key: str) -> Iterator[socket.socket]:
    """A socket on `port` of 127.0.0.1, which `key` names, or on a free one.

    Raises: MachineError if it cannot be had.
    """
    with socket.socket() as found:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind(("127.0.0.1", port or 0))
        except OSError as error:
            raise MachineError(
                f"{key}={port} cannot be listened on ({error.strerror}); set another, or {key}=null"
            ) from error
        yield found


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with listening(None, "ui.port") as found:
        return int(found.getsockname()[1])


def usual_port() -> int:
    """The same port every time where it is free, so that a browser remembers columns and closed
    panels; else any that is.
    """
    try:
        _refuse_taken(USUAL_PORT)
    except MachineError:
        return free_port()
    return USUAL_PORT


@contextmanager
def serving(tracking: Tracking, port: int, log: Path) -> Iterator[str]:
    """The address of an MLflow server over the store of `tracking`, ready to answer; it and its
    workers end with the block.

    Raises: RunError if there is no store yet; MachineError if the port is taken or the server does
        not come up.
    """
    root = Path(tracking.root or ".")
    refuse_empty(root)
    prepare(root)
    _refuse_taken(port)
    address = f"http://127.0.0.1:{port}"
    with log.open("w") as output:
        server = subprocess.Popen(
            _command(root, port),
            env=_environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait_until_ready(server, address, log)
            yield address
        finally:
            _end(server)


def links(tracking: Tracking, address: str) -> Sequence[Link]:
    """The experiment, the newest sweep's comparison, and the last run, where there are such; their
    views are kept with the experiment."""
    client = open_store(tracking)
    experiment = client.get_experiment_by_name(tracking.experiment)
    if experiment is None:
        return [Link("all experiments", address)]
    number = experiment.experiment_id
    runs = client.search_runs([number], max_results=1000)
    found = [
        _viewed(
            client,
            views.all_runs(_peak(runs)),
            f"experiment {experiment.name}",
            address,
            number,
            charts=False,
        )
    ]
    parents = {run.data.tags.get("mlflow.parentRunId") for run in runs}
    studies = [
        run for run in runs if run.info.run_id in parents and "medexp.study" in run.data.tags
    ]
    for newest in studies[:1]:
        trials = [
            run for run in runs if run.data.tags.get("mlflow.parentRunId") == newest.info.run_id
        ]
        found += _comparison(
            client, newest, [run for run in trials if run.info.status == "FINISHED"], address
        )
    if last := next((run for run in runs if run not in studies), None):
        page = f"{address}/#/experiments/{number}/runs/{last.info.run_id}"
        found.append(Link(f"last run, {last.info.run_name}", f"{page}?{TRAINING_PAGES}"))
        found.append(Link("its report", f"{page}/artifacts/report.html?{TRAINING_PAGES}"))
    return found


def _comparison(client: Any, study: Any, trials: Sequence[Any], address: str) -> list[Link]:
    """The trials in the charts of their experiment, and in MLflow's page for comparing runs."""
    if len(trials) < 2:
        return []
    name, number = study.data.tags["medexp.study"], study.info.experiment_id
    view = views.sweep(name, [run.data.params for run in trials], _peak(trials))
    shown = trials[:COMPARED]
    runs, experiments = (
        quote(json.dumps(each)) for each in ([run.info.run_id for run in shown], [number])
    )
    side_by_side = (
        f"{address}/#/compare-runs?runs={runs}&experiments={experiments}&{TRAINING_PAGES}"
    )
    return [
        _viewed(
            client,
            view,
            f"sweep {name}, {len(trials)} trials in charts",
            address,
            number,
            charts=True,
        ),
        Link(f"sweep {name}, {len(shown)} trials side by side", side_by_side),
    ]


def _viewed(
    client: Any, view: views.View, title: str, address: str, experiment_id: str, charts: bool
) -> Link:
    """The page in this view; without it where the version of MLflow is one whose views were not
    tried.
    """
    if is_untested(VIEWS.library):
        return Link(title, f"{address}/#/experiments/{experiment_id}/runs?{TRAINING_PAGES}")
    client.set_experiment_tag(experiment_id, *view.tag(int(time.time() * 1000)))
    return Link(title, view.url(address, experiment_id, charts))


def _peak(runs: Sequence[Any]) -> str:
    """The metric of peak memory that the newest of `runs` to have one has."""
    return next(
        (peak for run in runs for peak in views.PEAKS if peak in run.data.metrics), views.PEAKS[0]
    )


def _command(root: Path, port: int) -> list[str]:
    hosts = f"127.0.0.1:{port},localhost:{port}"
    store = [
        "--backend-store-uri",
        store_uri(root),
        "--default-artifact-root",
        (root / "artifacts").as_uri(),
    ]
    where = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--allowed-hosts", hosts]
    return [sys.executable, "-m", "mlflow", "server", *store, *where]


def _environment() -> dict[str, str]:
    """This process's, with nothing on PATH: the server needs no program but Python, and MLflow's
    assistant, which has no switch, takes without asking whichever coding agent is there (Claude
    Code, Codex), and sends its makers what a person types and what it looks up in the runs. Ollama
    on this machine, and a provider whose key was entered there, are left to it. Source:
    mlflow/assistant/providers."""
    return os.environ | {
        "PATH": "",
        "MLFLOW_ENABLE_REMOTE_ASSISTANT": "false",
        "MLFLOW_ENABLE_ASSISTANT_SANDBOX": "false",
    }


def _refuse_taken(port: int) -> None:
    with listening(port, "ui.port"):
        pass


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


def _end(server: subprocess.Popen[bytes]) -> None:
    """Its workers are children of their own: the whole group is ended."""
    for number, patience_s in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with suppress(subprocess.TimeoutExpired):
            server.wait(patience_s)
            return
