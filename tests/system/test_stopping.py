"""Which signal ends what, and when: of a command in a process of its own, as a user's is."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from medexp.system import stopping
from medexp.system.files import atomic_directory

COMMAND = """
import time
from medexp.cli.app import run_command
from medexp.cli.composition import CommandSpec
from medexp.config.command_options import TrainOptions

def command(config, invocation):
    try:
        try:
            print("ready", flush=True)
            time.sleep(60)
        except Exception:  # as libraries do that go on without
            time.sleep(60)
    finally:
        print("keeping", flush=True)
        time.sleep({keeping_s})
        print("kept", flush=True)

run_command(command, CommandSpec("train", TrainOptions))
"""


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[[float], "subprocess.Popen[str]"]]:
    """started(seconds): a command that takes so long to keep what it has."""
    processes = []

    def command(keeping_s: float) -> "subprocess.Popen[str]":
        words = [sys.executable, "-c", COMMAND.format(keeping_s=keeping_s)]
        out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        processes.append(subprocess.Popen(words, cwd=tmp_path, text=True, **out))
        assert said(processes[-1]) == "ready"
        return processes[-1]

    yield command
    for each in processes:
        each.kill()
        each.communicate()


def said(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize(
    ("numbers", "name"),
    [([signal.SIGINT], "Ctrl-C"), ([signal.SIGTERM], "SIGTERM"), ([signal.SIGTERM] * 3, "SIGTERM")],
)
def test_the_first_signal_ends_a_command(started, numbers: list[int], name: str) -> None:
    process = started(0.5)
    process.send_signal(numbers[0])
    assert said(process) == "keeping"
    for number in numbers[1:]:  # as a dying parent sends it, once for every thread
        process.send_signal(number)
    output, _ = process.communicate(timeout=20)
    assert output == f"kept\nmedexp: stopped by {name}; the same command continues\n"
    assert process.returncode == 128 + numbers[0]


@pytest.mark.parametrize(
    ("number", "pause_s"),
    [(signal.SIGINT, 0.0), (signal.SIGTERM, stopping.SAME_AGAIN_S + 0.2)],
)
def test_the_second_ends_it_at_once(started, number: int, pause_s: float) -> None:
    process = started(30)
    process.send_signal(number)
    assert said(process) == "keeping"
    time.sleep(pause_s)
    began = time.monotonic()
    process.send_signal(number)
    output, _ = process.communicate(timeout=20)
    assert time.monotonic() - began < 10
    assert ("kept" in output, process.returncode) == (False, 128 + number)


def test_a_folder_that_takes_anothers_place_has_its_name_however_often_one_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, folder = Path.rename, tmp_path / "export"

    def stopped(self: Path, target: Path) -> Path:
        os.kill(os.getpid(), signal.SIGINT)
        return rename(self, target)

    def write(text: str) -> None:
        with atomic_directory(folder) as half_done:
            (half_done / "file").write_text(text)

    write("old")
    monkeypatch.setattr(Path, "rename", stopped)
    with pytest.raises(KeyboardInterrupt):
        write("new")
    assert (folder / "file").read_text() == "new"
