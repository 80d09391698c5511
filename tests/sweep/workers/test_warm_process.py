"""Commands that are forked with the training stack imported are processes like others."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from helpers.commands import WarmCommand, started

from medexp.sweep.workers.warm_process import WarmProcess, can_fork

pytestmark = pytest.mark.skipif(not can_fork(), reason="forks on Linux alone")

SHOW = """
import atexit, os, sys, torch
atexit.register(print, "at the end")
print(sys.argv[1:], os.getcwd(), os.environ.get("GIVEN"), sorted({"PATH", "HOME"} & {*os.environ}))
print("trl" in sys.modules, torch.get_num_threads(), os.getsid(0) == os.getpid(), __name__)
print("to the other stream", file=sys.stderr)
"""


@pytest.fixture
def run(tmp_path: Path):
    """run(code, *arguments, **environment): exit status and output of a module with this code."""

    def ran(code: str, *arguments: str, timeout: float = 60, **environment: str) -> tuple[int, str]:
        (tmp_path / "module_of_mine.py").write_text(code)
        environment = {"PATH": os.environ["PATH"], **environment}
        log = tmp_path / "log"
        with (
            log.open("wb") as output,
            WarmProcess(
                "module_of_mine", arguments, output.fileno(), environment, tmp_path
            ) as process,
        ):
            status = process.wait(timeout)
        return status, log.read_text()

    return ran


def test_it_has_its_own_arguments_folder_environment_streams_threads_and_session(run, tmp_path):
    status, output = run(SHOW, "a=1", "b c", GIVEN="this", OMP_NUM_THREADS="3")
    assert status == 0
    assert sorted(output.splitlines()) == sorted(
        [
            f"['a=1', 'b c'] {tmp_path} this ['PATH']",
            "True 3 True __main__",
            "to the other stream",
            "at the end",
        ]
    )


@pytest.mark.parametrize(
    ("code", "status", "printed"),
    [
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('a sentence')", 1, "a sentence"),
        ("import os; os._exit(7)", 7, ""),
        ("raise ValueError('of mine')", 1, "ValueError: of mine"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9, ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -15, ""),
    ],
)
def test_its_end_is_that_of_any_process(run, code, status, printed):
    ended, output = run(code)
    assert ended == status
    assert printed in output


def test_a_late_one_can_be_ended_and_one_crash_ends_no_other(run, tmp_path):
    (tmp_path / "sleeper.py").write_text("import time; time.sleep(600)")
    with (tmp_path / "log").open("wb") as output:
        sleeper = WarmProcess("sleeper", (), output.fileno(), dict(os.environ), tmp_path)
    assert run("import os; os.abort()")[0] == -signal.SIGABRT
    with pytest.raises(subprocess.TimeoutExpired):
        sleeper.wait(0.01)
    assert sleeper.returncode is None
    os.killpg(sleeper.pid, signal.SIGINT)
    assert sleeper.wait(30) == 1  # KeyboardInterrupt, which commands of medexp make 130 of


def test_these_tests_commands_are_warm_unless_their_environment_is_another(tmp_path):
    with started(["-m", "medexp.train", "lora.r=0"], tmp_path) as process:
        assert isinstance(process, WarmCommand)
        output, _ = process.communicate(60)
    assert process.returncode == 2
    assert output.startswith("medexp: lora.r=0 is out of range")
    with started(["-m", "medexp.train", "lora.r=0"], tmp_path, HF_HOME=str(tmp_path)) as process:
        assert isinstance(process, subprocess.Popen)
        assert process.wait(60) == 2
