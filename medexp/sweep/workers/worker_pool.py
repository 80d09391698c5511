"""Trials as processes of their own: a crash, a leak or a CUDA fault ends one trial and nothing
else.

Each process gets a card (CUDA_VISIBLE_DEVICES) or its share of the processor cores. On a CPU it is
forked with the training stack imported. What it prints goes to `trial.log` in its folder.
"""

import os
import queue
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from medexp.errors import MachineError
from medexp.sweep.study.trial_files import Ending, TrialOutcome, read_outcome
from medexp.sweep.workers.warm_process import WarmProcess
from medexp.system.files import write_json_atomic
from medexp.system.logs import read_last_line
from medexp.system.machine import RAM_SHARED_BY, Machine
from medexp.system.process_identity import owner_of

Process = subprocess.Popen[bytes] | WarmProcess

# Between asking a trial to stop and killing it.
GRACE_S = 30.0
_ENDINGS_BY_EXIT_STATUS = {
    2: Ending.input,
    3: Ending.vram,
    4: Ending.diverged,
    5: Ending.pruned,
    7: Ending.paused,
    130: Ending.stopped,
    143: Ending.stopped,
}


def make_worker_environments(
    n_jobs: int, machine: Machine, on_card: bool, cards_each: int = 1
) -> list[dict[str, str]]:
    """Return the environment variables of each of `n_jobs` trials that run at once.

    On cards each trial has `cards_each` of its own, and its part of the host's memory. On a CPU the
    cores are shared out among the processes of all.

    Raises: MachineError with more asked for than there are cards.
    """
    if on_card:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        cards = visible.split(",") if visible else [str(i) for i in range(len(machine.gpus))]
        if n_jobs * cards_each > len(cards):
            count = "is one card" if len(cards) == 1 else f"are {len(cards)} cards"
            asked = "a card" if cards_each == 1 else f"hardware.cards={cards_each}"
            lower = "it" if cards_each == 1 else "one of them"
            raise MachineError(
                f"hydra.sweeper.n_jobs={n_jobs} asks for {asked} each and there {count}; lower"
                f" {lower}"
            )
        return [
            {
                "CUDA_VISIBLE_DEVICES": ",".join(cards[job * cards_each : (job + 1) * cards_each]),
                RAM_SHARED_BY: str(n_jobs),
            }
            for job in range(n_jobs)
        ]
    if n_jobs == 1:
        return [{}]
    threads = str(max(1, machine.cores // (n_jobs * cards_each)))
    return [{"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads} for _ in range(n_jobs)]


class WorkerPool:
    """Runs one process at a time in each of `environments`. Several threads may use it at once.

    `is_warm`: commands of the form `python -m MODULE ...` begin with the training stack imported.
    """

    def __init__(self, environments: Sequence[Mapping[str, str]], *, is_warm: bool = False):
        self._is_warm = is_warm
        self._free_environments: queue.Queue[Mapping[str, str]] = queue.Queue()
        for environment in environments:
            self._free_environments.put(environment)
        self._running: set[Process] = set()
        # Reentrant: a second signal may come while the first is passed on.
        self._lock = threading.RLock()
        self._is_stopping = False
        self._is_killed = False

    def run(self, command: Sequence[str], folder: Path, timeout_s: float | None) -> TrialOutcome:
        """Run `command` with `folder` for its log; returns the outcome that it leaves there, or
        what its exit status means.
        """
        environment = self._free_environments.get()
        started_at = time.perf_counter()
        try:
            with self._start(command, folder, environment) as process:
                is_late = self._wait(process, timeout_s)
        finally:
            self._free_environments.put(environment)
        outcome = read_outcome(folder)
        if outcome is not None and not is_late:
            return outcome
        elapsed_s = time.perf_counter() - started_at
        if self._is_killed:
            why = "ended at once by a second Ctrl-C"
            outcome = TrialOutcome(Ending.stopped, why, elapsed_s=elapsed_s)
        elif is_late:
            why = f"still running after hydra.sweeper.trial_timeout={timeout_s:g} s"
            outcome = TrialOutcome(Ending.timeout, why, elapsed_s=elapsed_s)
        else:
            assert process.returncode is not None
            outcome = _make_outcome_from_exit(process.returncode, folder, elapsed_s)
        # On a full disk the caller has the outcome nevertheless.
        with suppress(OSError):
            outcome.write(folder)
        return outcome

    def _start(
        self, command: Sequence[str], folder: Path, environment: Mapping[str, str]
    ) -> Process:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "outcome.json").unlink(missing_ok=True)
        with (folder / "trial.log").open("ab") as log:
            log.write(f"$ {shlex.join(['python', *command[1:]])}\n".encode())
            log.flush()
            process = self._start_process(
                command, log.fileno(), {**_inherited_environment(), **environment}
            )
        with self._lock:
            self._running.add(process)
        write_json_atomic(folder / "process.json", owner_of(process.pid), private=True)
        # A signal that came before the process was in `_running` has not reached it.
        if self._is_stopping:
            _send_signal(process, signal.SIGINT)
        return process

    def _start_process(
        self, command: Sequence[str], output: int, environment: Mapping[str, str]
    ) -> Process:
        """Start `command` in a session of its own: Ctrl-C on the terminal then reaches the sweep
        alone, which passes it on.
        """
        match command:
            case [_, "-m", module, *arguments] if self._is_warm:
                return WarmProcess(module, arguments, output, environment, Path.cwd())
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )

    def _wait(self, process: Process, timeout_s: float | None) -> bool:
        """Wait for the end of `process`; returns whether it had to be ended after `timeout_s`."""
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            _send_signal(process, signal.SIGTERM)
            try:
                process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                _send_signal(process, signal.SIGKILL)
                process.wait()
            return True
        finally:
            with self._lock:
                self._running.discard(process)
        return False

    def interrupt(self) -> None:
        """Ask every process to finish its step, keep it and end."""
        self._is_stopping = True
        self._send_to_all(signal.SIGINT)

    def kill(self) -> None:
        """End every process now."""
        self._is_stopping = self._is_killed = True
        self._send_to_all(signal.SIGKILL)

    def _send_to_all(self, number: int) -> None:
        with self._lock:
            for process in self._running:
                _send_signal(process, number)


def _inherited_environment() -> dict[str, str]:
    """Return this process's environment without what medexp.cli.app sets in it for itself.

    With HYDRA_FULL_ERROR a trial's error would be a traceback instead of one sentence.
    """
    return {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"}


def _send_signal(process: Process, number: int) -> None:
    """Send a signal to the whole session of `process`, its data loader's workers included."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _make_outcome_from_exit(status: int, folder: Path, elapsed_s: float) -> TrialOutcome:
    """Return the outcome of a process that left none, from its exit status and its last line."""
    last_line = read_last_line(folder / "trial.log")
    if status < 0:
        signal_number = signal.Signals(-status)
        is_stop = signal_number in (signal.SIGINT, signal.SIGTERM)
        return TrialOutcome(
            Ending.stopped if is_stop else Ending.crashed,
            f"killed by {signal_number.name}; {last_line}",
            elapsed_s=elapsed_s,
        )
    ending = _ENDINGS_BY_EXIT_STATUS.get(status, Ending.crashed)
    why = last_line if ending is not Ending.crashed else f"exit status {status}; {last_line}"
    return TrialOutcome(ending, why, elapsed_s=elapsed_s)


def make_module_command(name: str) -> list[str]:
    """Return the command that runs module `name` with this interpreter."""
    return [sys.executable, "-m", name]
