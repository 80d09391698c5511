"""The process of another card, as the command's own process sees it: started, written to, and asked
why it has ended.
"""

import multiprocessing
import pickle
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from medexp.config.schema import Hardware
from medexp.errors import MedexpError, RunInterrupted
from medexp.system.logs import read_last_line

# How long a process may take to end by itself, and a collective call to notice that a rank is gone.
GRACE_S = 30.0


@dataclass(frozen=True)
class Opening:
    """The first thing that a rank is told: who it is, of how many, and the hardware of its run."""

    rank: int
    size: int
    hardware: Hardware


def send(pipe: Connection, message: object) -> None:
    """Send `message` by its value. `Connection.send` would send a tensor as shared memory, which
    torch has it do, and which only a child of multiprocessing may open.
    """
    pipe.send_bytes(pickle.dumps(message))


def receive(pipe: Connection) -> Any:
    """Return the next message that was sent into `pipe`, as soon as it is there."""
    return pickle.loads(pipe.recv_bytes())


class Peer:
    """The process of another rank, and the pipe to it."""

    def __init__(self, opening: Opening, folder: Path):
        self._card = f"card {opening.rank + 1}"
        self._log = folder / f"card_{opening.rank + 1}.log"
        self._pipe: Connection
        self._pipe, theirs = multiprocessing.Pipe()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "medexp.models.rank_process", str(theirs.fileno())],
                # Its end tells the other process that this one is gone.
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                # Ctrl-C on the terminal is heard by rank 0 alone.
                start_new_session=True,
            )
        theirs.close()
        self.send(opening)

    @property
    def is_alive(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    def send(self, message: object) -> None:
        """Send `message`.

        Raises: why the process has ended, where it has.
        """
        try:
            send(self._pipe, message)
        except OSError as error:
            raise self._explain_end() from error

    def receive(self) -> Any:
        """Return the result of what was sent, as soon as it is there.

        Raises: the error that it ended with, or how the process was ended.
        """
        try:
            result, error = receive(self._pipe)
        except (EOFError, OSError) as lost:
            raise self._explain_end() from lost
        if type(error) is MedexpError:
            # A defect, of which the log has the traceback.
            raise MedexpError(f"{error}; all it printed is in {self._log}")
        if error is not None:
            raise error
        return result

    def find_end(self) -> MedexpError | None:
        """Return why the process has ended or is about to, None where it goes on."""
        try:
            while self._pipe.poll():
                self.receive()
        except MedexpError as error:
            return error
        return None if self.is_alive else self._explain_end()

    def _explain_end(self) -> MedexpError:
        try:
            status = self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            return MedexpError(f"the process of {self._card} does not answer; see {self._log}")
        if status < 0:
            name = signal.Signals(-status).name
            return RunInterrupted(
                f"the process of {self._card} was ended by {name}, so the whole run was; what was"
                " done until then is kept, the same command continues",
                -status,
            )
        last_line = read_last_line(self._log)
        return MedexpError(
            f"the process of {self._card} ended with exit status {status}: {last_line}; all it"
            f" printed is in {self._log}"
        )

    def dismiss(self) -> None:
        """Tell the process, which waits for a task, to end."""
        with suppress(OSError):
            send(self._pipe, None)

    def end(self, after_s: float) -> None:
        """Wait so long for the end of the process, and end it."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(after_s)
        with suppress(subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait(GRACE_S)
        self._pipe.close()
        if self._process.stdin is not None:
            self._process.stdin.close()
        # What libraries print while all goes well is nothing to keep.
        if self._process.returncode == 0:
            self._log.unlink(missing_ok=True)
