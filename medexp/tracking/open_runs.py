"""Which runs are open in a process that lives? Each holds a lock under `tracking.root`/open, which
the operating system lets go when the process dies, whatever it died of.

Several processes may hold one run open, as sweepers that share a study do. A run also names the
process that made it (tag PROCESS): one that died before it held the lock is known by it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout

from medexp.system.process_identity import is_dead
from medexp.tracking.store import get_existing_run
from medexp.tracking.store_lock import suppress_away

# The tag that says which process a run belongs to while it is RUNNING.
PROCESS = "medexp.process"


@contextmanager
def mark_open(root: Path, run_id: str) -> Iterator[None]:
    """Have others see that run `run_id` of the store under `root` is open here."""
    with _hold_alone(root):
        lock = FileLock(_folder(root) / f"{run_id}.{uuid4().hex}.lock")
        lock.acquire()
    try:
        yield
    finally:
        _remove(lock)


def mark_dead_runs_killed(client: Any, root: Path) -> None:
    """Set runs that only dead processes have open from RUNNING to KILLED."""
    with _hold_alone(root):
        let_go: dict[str, list[FileLock]] = {}
        alive: set[str] = set()
        for file in sorted(_folder(root).glob("*.*.lock")):
            run_id, lock = file.name.partition(".")[0], FileLock(file)
            try:
                lock.acquire(timeout=0)
                let_go.setdefault(run_id, []).append(lock)
            except Timeout:
                alive.add(run_id)
        dead = {*let_go, *_find_dead_runs(client)}
        mark_runs_killed(client, [run_id for run_id in sorted(dead) if run_id not in alive])
        for lock in (lock_of_run for locks in let_go.values() for lock_of_run in locks):
            _remove(lock)


def _find_dead_runs(client: Any) -> list[str]:
    """Return the runs that are RUNNING although the process that made them is gone."""
    running: list[Any] = []
    with suppress_away():
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        where = "attributes.status = 'RUNNING'"
        running += client.search_runs(experiments, where, max_results=5000) if experiments else []
    return [run.info.run_id for run in running if is_dead(run.data.tags.get(PROCESS, ""))]


def mark_runs_killed(client: Any, run_ids: Sequence[str]) -> None:
    """Set runs whose process is gone from RUNNING to KILLED."""
    # The next command does it.
    with suppress_away():
        for run_id in run_ids:
            run = get_existing_run(client, run_id)
            if run is not None and run.info.status == "RUNNING":
                why = (
                    "the process ended without reporting an error (killed, or the machine stopped)"
                )
                client.set_tag(run_id, "medexp.ended_by", why)
                client.set_tag(run_id, "medexp.reason", "died")
                client.set_terminated(run_id, "KILLED")


def _folder(root: Path) -> Path:
    return root / "open"


def _hold_alone(root: Path) -> FileLock:
    """Return the lock under which nobody else looks at the locks of runs, or makes one."""
    _folder(root).mkdir(parents=True, exist_ok=True)
    return FileLock(_folder(root) / ".lock")


def _remove(lock: FileLock) -> None:
    # Windows keeps an open file.
    with suppress(OSError):
        Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()
