"""What a run logs, in order, until MLflow's store has taken it: a lock by another program holds up
neither the run nor what comes later.

Where the store stays away to the end, the rest lies in `tracking.root`/unwritten, and the next
command that opens a run writes it.
"""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from medexp.errors import first_line
from medexp.system.files import write_json_atomic
from medexp.tracking.run_writer import FILES, RunWriter
from medexp.tracking.store import get_existing_run
from medexp.tracking.store_lock import is_away, is_locked
from medexp.tracking.store_upkeep import STORE, folder_of_uri

SAYS_AFTER_S = 20.0
_PAUSE_S = 0.2
# Times as long as a write took in vain, until the next: training is not to wait for it.
_REST = 3.0
_LOCKED = "another program has locked it"


class Outbox:
    """Entries of one run, whose store lies under `root`; `say` is told of a store that is away."""

    def __init__(self, writer: RunWriter, root: Path, say: Callable[[str], None]):
        self._writer, self._root, self._say = writer, root, say
        self._waiting: list[tuple[str, Any]] = []
        self._away_since: float | None = None
        self._not_before = 0.0
        self._why = _LOCKED
        self._was_said = False

    def put(self, kind: str, values: Any) -> None:
        """Write plain `values` as `RunWriter` writes this kind, now or once that can be done."""
        self._waiting.append((kind, values))
        self._flush()

    @property
    def artifacts(self) -> Path:
        """The folder of the run's artifacts."""
        return self._writer.artifacts

    def is_empty(self) -> bool:
        """Return whether the store has everything."""
        return not self._waiting

    def drain(self, patience_s: float) -> bool:
        """Write what waits, for `patience_s` at most; False where something is left."""
        until = time.monotonic() + patience_s
        while self._waiting:
            self._not_before = 0.0
            self._flush()
            if time.monotonic() > until:
                break
            if self._waiting:
                time.sleep(_PAUSE_S)
        return not self._waiting

    def close(self, patience_s: float) -> None:
        """Write what waits, for `patience_s` at most; keep what is left then in a file, and
        say so."""
        if self.drain(patience_s):
            return
        file = self._root / "unwritten" / f"{self._writer.run_id}.json"
        entries = "1 entry" if len(self._waiting) == 1 else f"{len(self._waiting)} entries"
        left = f"{entries} of run {self._writer.run_id} could not be written to {self._place}"
        try:
            file.parent.mkdir(exist_ok=True)
            write_json_atomic(file, {"run_id": self._writer.run_id, "entries": self._waiting})
        except OSError as error:
            self._say(f"{left} ({self._why}), nor to {file} ({error.strerror})")
        else:
            self._say(
                f"{left} ({self._why}); {file} keeps what is left, and the next training,"
                " evaluation or sweep there writes it"
            )

    @property
    def _place(self) -> Path:
        return self._root / STORE

    def _flush(self) -> None:
        """Try every entry once; one that the store cannot take holds up those after it."""
        is_held = time.monotonic() < self._not_before
        for entry in list(self._waiting):
            needs_store = entry[0] not in FILES
            if needs_store and not is_held and is_locked(self._place):
                is_held, self._why = True, _LOCKED
            if needs_store and is_held:
                continue
            is_held |= not self._is_written(entry) and needs_store
        self._tell()

    def _is_written(self, entry: tuple[str, Any]) -> bool:
        began = time.monotonic()
        try:
            self._writer.write(*entry)
        except Exception as error:
            if not is_away(error):
                self._waiting.remove(entry)
                raise
            self._why = first_line(error)
            self._not_before = time.monotonic() + _REST * (time.monotonic() - began)
            return False
        self._waiting.remove(entry)
        return True

    def _tell(self) -> None:
        now = time.monotonic()
        if not self._waiting:
            if self._was_said:
                self._say(f"{self._place} can be written again, and has everything")
            self._away_since, self._was_said = None, False
            return
        self._away_since = self._away_since or now
        if now - self._away_since > SAYS_AFTER_S and not self._was_said:
            self._say(f"{self._place} cannot be written ({self._why}): what is logged waits for it")
            self._was_said = True


def write_left(client: Any, root: Path) -> None:
    """Write what earlier runs could not write to the store under `root`."""
    for file in sorted((root / "unwritten").glob("*.json")):
        # They were written in another version, or are to wait still.
        with suppress(Exception):
            kept = json.loads(file.read_text(encoding="utf-8"))
            run = get_existing_run(client, kept["run_id"])
            if run is not None:
                artifacts = folder_of_uri(run.info.artifact_uri)
                writer = RunWriter(client, run.info.run_id, run.info.experiment_id, artifacts)
                for kind, values in kept["entries"]:
                    writer.write(kind, values)
            file.unlink(missing_ok=True)
