"""Trials as processes: whatever one dies of, its outcome is known and the others go on."""

import json
import sys
import threading
import time

import psutil
import pytest

from medexp.errors import MachineError
from medexp.sweep.study.trial_files import (
    Ending,
    TrialOutcome,
    TrialSpec,
    read_outcome,
    read_trial_spec,
)
from medexp.sweep.workers import worker_pool as processes
from medexp.sweep.workers.worker_pool import WorkerPool, make_worker_environments
from medexp.system.machine import Gpu, Machine
from medexp.system.units import GIB

CPU = Machine(cores=8, system="by hand", gpus=())
TWO_CARDS = Machine(
    cores=8, system="by hand", gpus=(Gpu("A", 6 * GIB, True), Gpu("B", 6 * GIB, True))
)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def run(code: str, folder, timeout_s=None, environments=({},)) -> TrialOutcome:
    return WorkerPool(environments).run(python(code), folder, timeout_s)


@pytest.mark.parametrize(
    ("code", "ending", "why"),
    [
        ("import os; os.abort()", Ending.crashed, "killed by SIGABRT"),
        ("import ctypes; ctypes.string_at(0)", Ending.crashed, "killed by SIGSEGV"),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
            Ending.crashed,
            "killed by SIGKILL",
        ),
        (
            "raise RuntimeError('CUDA error: an illegal memory access')",
            Ending.crashed,
            "exit status 1; RuntimeError: CUDA error",
        ),
        (
            "import sys; sys.exit('medexp: lora.r=0 is out of range')",
            Ending.crashed,
            "exit status 1; lora.r=0 is out of range",
        ),
        ("import sys; print('medexp: no file'); sys.exit(2)", Ending.input, "no file"),
        (
            "import sys; print('medexp: out of GPU memory'); sys.exit(3)",
            Ending.vram,
            "out of GPU memory",
        ),
        ("import sys; sys.exit(4)", Ending.diverged, "it printed nothing"),
        (
            "import os, signal; os.kill(os.getpid(), 9)",
            Ending.crashed,
            "killed by SIGKILL; it printed nothing",
        ),
        ("import sys; sys.exit(5)", Ending.pruned, ""),
        ("import sys; sys.exit(130)", Ending.stopped, ""),
    ],
)
def test_what_a_process_died_of(tmp_path, code, ending, why):
    outcome = run(code, tmp_path)
    assert outcome.ending is ending
    assert why in outcome.why
    assert read_outcome(tmp_path) == outcome


def test_an_outcome_that_was_left_is_believed_whatever_came_after(tmp_path):
    left = json.dumps(
        {"ending": "done", "why": "", "metrics": {"a": 1.0}, "run_id": "x", "elapsed_s": 1.0}
    )
    outcome = run(
        f"open({str(tmp_path / 'outcome.json')!r}, 'w').write({left!r}); import os; os.abort()",
        tmp_path,
    )
    assert (outcome.ending, outcome.metrics) == (Ending.done, {"a": 1.0})


def test_an_outcome_of_an_earlier_attempt_is_not(tmp_path):
    TrialOutcome(Ending.done).write(tmp_path)
    assert run("import os; os.abort()", tmp_path).ending is Ending.crashed


@pytest.mark.skipif(sys.platform == "win32", reason="has no such modes")
def test_what_may_hold_a_password_is_for_this_user_alone(tmp_path):
    trial_spec = TrialSpec("s", "postgresql://me:secret@host/db", 0, 0, "s/0", None, False, {})
    trial_spec.write(tmp_path)
    TrialOutcome(Ending.crashed, "postgresql://me:secret@host/db did not answer").write(tmp_path)
    assert read_trial_spec(tmp_path) == trial_spec
    assert {
        file.name: oct(file.stat().st_mode & 0o777) for file in tmp_path.iterdir()
    } == dict.fromkeys(("trial.json", "outcome.json"), "0o600")


def test_half_an_outcome_is_none(tmp_path):
    (tmp_path / "outcome.json").write_text('{"ending": "do')
    assert read_outcome(tmp_path) is None


def ends(pid: int, within_s: float) -> bool:
    """Does it end soon? The kernel takes its time after SIGKILL; a zombie waits for whoever
    inherits it.
    """
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def test_a_late_process_is_asked_then_stopped_with_what_it_started(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "GRACE_S", 0.5)
    stubborn = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
        f"open({str(tmp_path / 'child')!r}, 'w').write(str(child.pid)); time.sleep(60)"
    )
    began = time.monotonic()
    outcome = run(stubborn, tmp_path, timeout_s=4)
    assert outcome.ending is Ending.timeout
    assert "still running after hydra.sweeper.trial_timeout=4 s" in outcome.why
    assert time.monotonic() - began < 30
    child = int((tmp_path / "child").read_text())
    assert ends(child, within_s=30)


def test_the_first_ctrl_c_reaches_every_process_and_none_starts_after_it(tmp_path):
    both = WorkerPool([{}, {}])
    heard = (
        "import signal, sys, time; signal.signal(signal.SIGINT, lambda *_: sys.exit(130));"
        " print('up', flush=True); time.sleep(60)"
    )
    outcomes: list[TrialOutcome] = []
    threads = [
        threading.Thread(
            target=lambda name=name: outcomes.append(both.run(python(heard), tmp_path / name, None))
        )
        for name in "ab"
    ]
    for thread in threads:
        thread.start()
    while not all(
        (tmp_path / name / "trial.log").exists()
        and "up\n" in (tmp_path / name / "trial.log").read_text()
        for name in "ab"
    ):
        time.sleep(0.05)
    both.interrupt()
    for thread in threads:
        thread.join(60)
    assert [outcome.ending for outcome in outcomes] == [Ending.stopped, Ending.stopped]


def test_each_process_has_a_card_of_its_own_and_no_two_the_same(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    pool = WorkerPool(make_worker_environments(2, TWO_CARDS, on_card=True))
    code = (
        "import os, time; print('card', os.environ['CUDA_VISIBLE_DEVICES'], flush=True);"
        " time.sleep(1)"
    )
    threads = [
        threading.Thread(target=pool.run, args=(python(code), tmp_path / str(index), None))
        for index in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cards = [(tmp_path / str(index) / "trial.log").read_text().split()[-1] for index in range(4)]
    assert sorted(cards) == ["0", "0", "1", "1"]


@pytest.mark.parametrize(
    ("visible", "n_jobs", "cards"),
    [
        (None, 2, ["0", "1"]),
        ("3,5", 2, ["3", "5"]),
        ("3,5", 1, ["3"]),
        ("GPU-a,GPU-b", 2, ["GPU-a", "GPU-b"]),
    ],
)
def test_cards_are_those_this_process_may_see(monkeypatch, visible, n_jobs, cards):
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [
        environment["CUDA_VISIBLE_DEVICES"]
        for environment in make_worker_environments(n_jobs, TWO_CARDS, on_card=True)
    ] == cards


def test_trials_that_run_side_by_side_share_the_host_s_memory(tmp_path):
    """What one pins for streamed layers and activations, the other cannot have."""
    ram = (
        "import psutil; from medexp.system import machine; print(psutil.virtual_memory().total //"
        " machine.read().ram_bytes)"
    )
    pool = WorkerPool(make_worker_environments(2, TWO_CARDS, on_card=True))
    pool.run([sys.executable, "-c", ram], tmp_path, None)
    assert "\n2\n" in (tmp_path / "trial.log").read_text()


def test_more_jobs_than_cards_are_refused(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(
        MachineError, match=r"hydra\.sweeper\.n_jobs=3 asks for a card each and there are 2 cards"
    ):
        make_worker_environments(3, TWO_CARDS, on_card=True)


def test_a_trial_on_several_cards_has_them_alone(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    (both,) = make_worker_environments(1, TWO_CARDS, on_card=True, cards_each=2)
    assert both["CUDA_VISIBLE_DEVICES"] == "3,5"
    with pytest.raises(
        MachineError, match=r"n_jobs=2 asks for hardware\.cards=2 each and there are 2 cards"
    ):
        make_worker_environments(2, TWO_CARDS, on_card=True, cards_each=2)
    (one, _) = make_worker_environments(2, CPU, on_card=False, cards_each=2)
    assert one["OMP_NUM_THREADS"] == str(max(1, CPU.cores // 4))


def test_cores_are_shared_out():
    assert make_worker_environments(1, CPU, on_card=False) == [
        {}
    ]  # as a run of its own, to the same bits
    assert [
        environment["OMP_NUM_THREADS"]
        for environment in make_worker_environments(3, CPU, on_card=False)
    ] == ["2", "2", "2"]


def test_a_log_begins_with_its_command_and_keeps_earlier_attempts(tmp_path):
    for word in ("one", "two"):
        run(f"print('{word}')", tmp_path)
    log = (tmp_path / "trial.log").read_text()
    assert log.splitlines()[0].startswith("$ python -c")
    assert "one\n" in log
    assert log.endswith("two\n")


def test_a_trial_does_not_inherit_that_tracebacks_are_wanted(tmp_path, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    run("import os; print(os.environ.get('HYDRA_FULL_ERROR'))", tmp_path)
    assert (tmp_path / "trial.log").read_text().endswith("None\n")
