"""MLflow's own server over a store, as a user starts it: the links lead somewhere, and nothing is
left running.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
from helpers.commands import TinyRuns, command

from medexp.system import ports
from medexp.system.ports import choose_usual_port, find_free_port
from medexp.system.process_identity import as_tag
from medexp.tracking.links import list_links

ROOT = Path(__file__).parents[1]


@pytest.fixture
def swept(tiny_runs: TinyRuns) -> TinyRuns:
    """A store with a study of three trials, two of them finished, and a lone run before it."""
    client = tiny_runs.client()
    experiment = client.create_experiment("medexp")
    lone = client.create_run(experiment, run_name="lone")
    client.set_terminated(lone.info.run_id)
    study = client.create_run(experiment, run_name="rank-cpu", tags={"medexp.study": "rank-cpu"})
    for number, status in enumerate(["FINISHED", "FINISHED", "KILLED"]):
        tags = {"medexp.study": "rank-cpu", "mlflow.parentRunId": study.info.run_id}
        trial = client.create_run(experiment, run_name=f"trial {number}", tags=tags)
        client.set_terminated(trial.info.run_id, status)
        time.sleep(0.01)  # runs are ordered by the millisecond that they began in
    client.set_terminated(study.info.run_id)
    return tiny_runs


def test_the_links_are_the_experiment_the_sweep_and_the_last_run(swept: TinyRuns) -> None:
    found = list_links(swept.run("tracking.experiment=medexp").tracking, "http://127.0.0.1:1")
    assert [each.title for each in found] == [
        "experiment medexp", "sweep rank-cpu, 2 trials in charts",
        "sweep rank-cpu, 2 trials side by side", "last run, trial 2", "its report",
    ]  # fmt: skip
    assert "/#/compare-runs?runs=%5B%22" in found[2].url
    tags = swept.client().get_experiment_by_name("medexp").tags
    kept = {
        json.loads(value)["name"]
        for key, value in tags.items()
        if key.startswith("mlflow.sharedViewState.")
    }
    assert kept == {"medexp: runs", "medexp: sweep rank-cpu"}
    assert all(
        f"viewStateShareKey={key.removeprefix('mlflow.sharedViewState.')}"
        in found[0].url + found[1].url
        for key in tags
        if "View" in key
    )


def test_a_sweep_that_is_under_way_comes_before_those_that_have_ended(swept: TinyRuns) -> None:
    client = swept.client()
    experiment = client.get_experiment_by_name("medexp").experiment_id
    tags = {"medexp.study": "seq-cpu", "medexp.progress": "2 of 8 trials, 5 min 00 s to go"}
    study = client.create_run(experiment, run_name="seq-cpu", tags=tags)
    trial_tags = {"medexp.study": "seq-cpu", "medexp.trial": "2"}
    trial_tags |= {"mlflow.parentRunId": study.info.run_id}
    client.create_run(experiment, run_name="trial 2", tags=trial_tags)
    found = list_links(swept.run("tracking.experiment=medexp").tracking, "http://127.0.0.1:1")
    assert [each.title for each in found][:3] == [
        "experiment medexp",
        "sweep seq-cpu is under way, 2 of 8 trials, 5 min 00 s to go",
        "sweep seq-cpu, losses of its trials",
    ]
    assert f"/runs/{study.info.run_id}?" in found[1].url
    # Its sweeper was killed.
    killed = json.loads(as_tag()) | {"began": 0}
    client.set_tag(study.info.run_id, "medexp.process", json.dumps(killed))
    again = list_links(swept.run("tracking.experiment=medexp").tracking, "http://127.0.0.1:1")
    assert not any("under way" in each.title for each in again)


def test_the_usual_port_is_the_same_until_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "USUAL_PORT", find_free_port())
    assert choose_usual_port() == ports.USUAL_PORT == choose_usual_port()
    with socket.socket() as other:
        other.bind(("127.0.0.1", ports.USUAL_PORT))
        other.listen()
        assert choose_usual_port() != ports.USUAL_PORT


def test_the_server_answers_and_ends_with_ctrl_c(swept: TinyRuns, tmp_path: Path) -> None:
    port = find_free_port()
    words = [
        "-m",
        "medexp.ui",
        f"tracking.root={swept.root / 'mlruns'}",
        f"ui.port={port}",
        "ui.open=false",
    ]
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, *words], cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(6)]
        assert f"http://127.0.0.1:{port}/#/experiments/1/runs?compareRunsMode=CHART&" in lines[3]
        assert f"http://127.0.0.1:{port}/#/compare-runs" in lines[5]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as answer:
            assert answer.status == 200
        servers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    until = time.monotonic() + 30
    while left := [
        each for each in servers if each.is_running() and each.status() != psutil.STATUS_ZOMBIE
    ]:
        assert time.monotonic() < until, left
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tracking.root=nowhere"], "nowhere holds no runs yet; run python -m medexp.train first"),
        (
            ["ui.port=70000"],
            "ui.port=70000 is out of range: allowed is at least 1 and at most 65535",
        ),
    ],
)
def test_bad_input_ends_with_2(tmp_path: Path, words: list[str], said: str) -> None:
    status, output = command("-m", "medexp.ui", *words, cwd=tmp_path)
    assert status == 2
    assert said in output


def test_a_port_that_is_taken_is_said(swept: TinyRuns, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        words = [
            "-m",
            "medexp.ui",
            f"tracking.root={swept.root / 'mlruns'}",
            f"ui.port={port}",
            "ui.open=false",
        ]
        status, output = command(*words, cwd=tmp_path)
    assert status == 2
    assert f"ui.port={port} cannot be listened on" in output
