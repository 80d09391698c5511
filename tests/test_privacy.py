"""Nothing leaves this machine: every command as a user starts it, in processes that can reach
nothing else and say who tried.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers import browser
from helpers.commands import TinyRuns

from medexp.system import environment
from medexp.system.ports import find_free_port

ROOT = Path(__file__).parents[1]
WATCH = ROOT / "tests/helpers/no_network"
# Where one of these is set, TRL and MLflow send nothing of their own accord: a user's machine has
# none.
SPARED = (
    "CI",
    "PYTEST_CURRENT_TEST",
    "GITHUB_ACTIONS",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    *environment.NO_USAGE_REPORTS,
)


class Watched:
    """Commands over one store, and what they reached for."""

    def __init__(self, tiny_runs: TinyRuns):
        self.tiny_runs, self.store = tiny_runs, f"tracking.root={tiny_runs.root / 'mlruns'}"

    def start(self, name: str, *words: str, **variables: str) -> subprocess.Popen[str]:
        """`python words...`, whose attempts to reach out are written to the file `name`."""
        kept = {key: value for key, value in os.environ.items() if key not in SPARED}
        paths = os.pathsep.join(map(str, (WATCH, ROOT)))
        env = (
            kept
            | {
                "PYTHONPATH": paths,
                "PYTHONUNBUFFERED": "1",
                "REACHED_OUT": str(self.tiny_runs.root / name),
            }
            | variables
        )
        return subprocess.Popen(
            [sys.executable, *words], cwd=self.tiny_runs.root, env=env, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, command: str, *words: str) -> None:
        """`python -m medexp.COMMAND words...` to its end, which must be a good one."""
        with self.start(command, "-m", f"medexp.{command.partition(' ')[0]}", *words) as process:
            output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output

    def asked(self, name: str) -> list[str]:
        """Every address that was reached for under this name, with what did it."""
        file = self.tiny_runs.root / name
        if not file.exists():
            return []
        attempts = map(json.loads, file.read_text(encoding="utf-8").splitlines())
        return [
            f"{each['asked']} by {each['command']} at {each['stack'][-4:]}" for each in attempts
        ]

    def words(self, name: str) -> list[str]:
        """The words of a quick command of this name."""
        quick = self.tiny_runs.overrides("training.max_steps=1", "evaluation.answers=0")
        of_last = ["run=last", self.store]
        return {
            "train": self.tiny_runs.overrides(
                "training.max_steps=2", "evaluation.answers=1", "tracking.experiment=medexp"
            ),
            "train -m": [
                "-m",
                *quick,
                "lora.r=choice(4,8)",
                "sweep.n_trials=1",
                "hydra/sweeper/sampler=random",
            ],
            "plan": ["hardware=rtx4050_6gb"],
            "audit": [
                each
                for each in quick
                if not each.startswith(("debug", "evaluation", "tracking.system"))
            ],
            "evaluate": of_last,
            "ask": [
                *of_last,
                'question="A 54-year-old man has crushing chest pain."',
                "ask.max_new_tokens=4",
            ],
            "compare": [
                f"run=[{','.join(run.info.run_id for run in self.tiny_runs.runs()[-2:])}]",
                self.store,
            ],
            "export": [*of_last, "to=merged"],
        }[name]


@pytest.fixture(scope="module")
def trained(
    tiny_runs_in: Callable[..., TinyRuns], tmp_path_factory: pytest.TempPathFactory
) -> Watched:
    """A run of the tiny model, trained as a user does it, and another one to hold it against."""
    watched = Watched(tiny_runs_in(tmp_path_factory.mktemp("quiet")))
    watched.tiny_runs.train("training.max_steps=2", "evaluation.answers=1", name="another")
    watched.run("train", *watched.words("train"))
    return watched


@pytest.mark.parametrize(
    "name", ["train", "train -m", "plan", "audit", "evaluate", "ask", "compare", "export"]
)
def test_a_command_reaches_for_nothing_beyond_this_machine(trained: Watched, name: str) -> None:
    if name != "train":
        trained.run(name, *trained.words(name))
    assert not trained.asked(name)


WITHOUT_THE_SWITCHES = """
import os, runpy, sys
from medexp.system import environment
for name in environment.NO_USAGE_REPORTS:
    os.environ.pop(name, None)
runpy.run_module("medexp.train", run_name="__main__", alter_sys=True)
"""


def test_without_the_switches_the_same_run_reports_to_the_makers_of_its_libraries(
    trained: Watched,
) -> None:
    with trained.start("planted", "-c", WITHOUT_THE_SWITCHES, *trained.words("train")) as process:
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    hosts = {each.partition(" ")[0] for each in trained.asked("planted")}
    assert {"huggingface.co", "config.mlflow-telemetry.io"} <= hosts


@pytest.mark.browser
def test_mlflow_s_pages_reach_for_nothing_beyond_this_machine(
    trained: Watched, tmp_path: Path
) -> None:
    chromium = browser.chromium()
    agent = tmp_path / "claude"  # MLflow's assistant would take it without asking
    agent.write_text("#!/bin/sh\n", encoding="utf-8")
    agent.chmod(0o755)
    words = ["-m", "medexp.ui", trained.store, f"ui.port={find_free_port()}", "ui.open=false"]
    with (
        trained.start("ui", *words, PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}") as process,
        _ended(process),
    ):
        assert process.stdout is not None
        addresses = [
            line.strip()
            for line in _until(process, "Ctrl-C ends it")
            if line.strip().startswith("http")
        ]
        with browser.window(chromium) as (page, elsewhere):
            for address in addresses:
                page.goto(address)
                page.get_by_role("button", name="Close", exact=True).or_(
                    page.get_by_text("Experiments")
                ).first.wait_for()
                page.wait_for_timeout(2000)  # reports go out once a page has settled
            page.goto(addresses[0])
            providers = page.evaluate(
                "fetch('/ajax-api/3.0/mlflow/assistant/providers').then(found => found.json())"
            )
            assert not elsewhere
    # which answers on this machine, where it is installed
    assert providers["resolved"]["name"] == "ollama"
    assert [each["name"] for each in providers["providers"] if each["available"]] == ["ollama"]
    assert not trained.asked("ui")


@pytest.mark.browser
def test_the_page_that_asks_a_model_reaches_for_nothing_beyond_this_machine(
    trained: Watched,
) -> None:
    pytest.importorskip("gradio", reason="the ui extra is not installed")
    chromium = browser.chromium()
    words = ["-m", "medexp.ask", "run=last", trained.store, "ui=true", "ask.open=false"]
    with trained.start("page", *words) as process, _ended(process):
        address = next(
            line.strip() for line in _until(process, "http") if line.strip().startswith("http")
        )
        with browser.window(chromium) as (page, elsewhere):
            page.goto(address)
            page.get_by_label("Question").wait_for()
            assert not elsewhere
    assert not trained.asked("page")


@contextmanager
def _ended(process: "subprocess.Popen[str]") -> Iterator[None]:
    """Ctrl-C at the end of the block, whatever has happened in it."""
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def _until(process: "subprocess.Popen[str]", part: str) -> list[str]:
    """What it has printed when a line with `part` comes, that line included."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if part in line:
            break
    return lines
