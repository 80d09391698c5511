"""Trials as processes of their own: a crash, a leak or a CUDA fault ends one trial and nothing
else.

Each gets a slot: a card (CUDA_VISIBLE_DEVICES) or its share of the processor cores. Its screen goes
to `trial.log` in its folder.
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
from medexp.system.files import write_json
from medexp.system.machine import RAM_SHARED_BY, Machine
from medexp.system.process_identity import owner_of

GRACE_S = 30.0  # between asking a trial to stop and stopping it
_ENDINGS_BY_EXIT = {
    2: Ending.input,
    3: Ending.vram,
    4: Ending.diverged,
    5: Ending.pruned,
    130: Ending.stopped,
    143: Ending.stopped,
}


def make_worker_environments(n_jobs: int, machine: Machine, on_card: bool) -> list[dict[str, str]]:
    """The environment of each of `n_jobs` processes at once: a card each and a part of the host's
    memory, or cores shared out.

    Raises: MachineError with more jobs than cards.
    """
    if on_card:
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        cards = given.split(",") if given else [str(index) for index in range(len(machine.gpus))]
        if n_jobs > len(cards):
            raise MachineError(
                f"hydra.sweeper.n_jobs={n_jobs} asks for a card each and there {_describe_card_count(len(cards))};"
                " lower it"
            )
        return [
            {"CUDA_VISIBLE_DEVICES": card, RAM_SHARED_BY: str(n_jobs)} for card in cards[:n_jobs]
        ]
    if n_jobs == 1:
        return [{}]
    threads = str(max(1, machine.cores // n_jobs))
    return [{"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads} for _ in range(n_jobs)]


def _describe_card_count(count: int) -> str:
    return "is one card" if count == 1 else f"are {count} cards"


class WorkerPool:
    """At most one process a slot at a time. May be called from several threads."""

    def __init__(self, environments: Sequence[Mapping[str, str]]):
        self._free: queue.Queue[Mapping[str, str]] = queue.Queue()
        for environment in environments:
            self._free.put(environment)
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.RLock()  # a second signal may come while the first is passed on
        self._stopping = self._killed = False

    def run(self, command: Sequence[str], folder: Path, timeout_s: float | None) -> TrialOutcome:
        """Run `command` with `folder` for its log and its outcome, and return that outcome, or what
        its exit status says.
        """
        environment = self._free.get()
        began = time.perf_counter()
        try:
            with self._started(command, folder, environment) as process:
                is_late = self._wait(process, timeout_s)
        finally:
            self._free.put(environment)
        found = read_outcome(folder)
        if found is None or is_late:
            elapsed_s = time.perf_counter() - began
            if self._killed:
                found = TrialOutcome(
                    Ending.stopped, "ended at once by a second Ctrl-C", elapsed_s=elapsed_s
                )
            else:
                found = _make_outcome_from_exit(
                    process.returncode, folder, elapsed_s, timeout_s if is_late else None
                )
            with suppress(OSError):  # a full disk: whoever waits has it all the same
                found.write(folder)
        return found

    def _started(
        self, command: Sequence[str], folder: Path, environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "outcome.json").unlink(missing_ok=True)
        with (folder / "trial.log").open("ab") as log:
            log.write(f"$ {shlex.join(['python', *command[1:]])}\n".encode())
            log.flush()
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                env={**_inherited_environment(), **environment},
            )  # fmt: skip
        with self._lock:
            self._running.add(process)
        write_json(folder / "process.json", owner_of(process.pid), private=True)
        if self._stopping:
            _send_signal(process, signal.SIGINT)
        return process

    def _wait(self, process: subprocess.Popen[bytes], timeout_s: float | None) -> bool:
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
        self._stopping = True
        self._send(signal.SIGINT)

    def kill(self) -> None:
        """End every process now."""
        self._stopping = self._killed = True
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        with self._lock:
            for process in self._running:
                _send_signal(process, number)


def _inherited_environment() -> dict[str, str]:
    """This process's, without what medexp.cli.app sets for itself: a trial's error is one sentence,
    too.
    """
    return {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"}


def _send_signal(process: subprocess.Popen[bytes], number: int) -> None:
    """To the whole session of the process: workers of its data loader go with it."""
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return


def _make_outcome_from_exit(
    status: int, folder: Path, elapsed_s: float, timeout_s: float | None
) -> TrialOutcome:
    """What a process that left no outcome of its own died of."""
    if timeout_s is not None:
        return TrialOutcome(
            Ending.timeout,
            f"still running after hydra.sweeper.trial_timeout={timeout_s:g} s",
            elapsed_s=elapsed_s,
        )
    said = read_last_line(folder / "trial.log")
    if status < 0:
        ending = Ending.stopped if -status in (signal.SIGINT, signal.SIGTERM) else Ending.crashed
        return TrialOutcome(
            ending, f"killed by {signal.Signals(-status).name}; {said}", elapsed_s=elapsed_s
        )
    ending = _ENDINGS_BY_EXIT.get(status, Ending.crashed)
    return TrialOutcome(
        ending,
        said if ending is not Ending.crashed else f"exit status {status}; {said}",
        elapsed_s=elapsed_s,
    )


def read_last_line(log: Path) -> str:
    """The last line of `log` that says something."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return ""
    said = [line for line in lines if not line.startswith("$ ")]  # the commands that began it
    return said[-1].removeprefix("medexp: ")[:400] if said else "it printed nothing"


def make_module_command(name: str) -> list[str]:
    """The command that runs `name` with this interpreter."""
    return [sys.executable, "-m", name]
