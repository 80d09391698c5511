"""Is MLflow's store, an sqlite file, held by another program, as by a backup or a virus scanner?"""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from medexp.errors import OutputError
from medexp.system import disk_space

WAITS_S = float(os.environ.get("MEDEXP_STORAGE_WAIT_S", "60"))
_SAYS_AFTER_S = 2.0


def is_locked(file: Path, to_read: bool = False) -> bool:
    """Return whether nobody else may write to `file` (read it, with `to_read`) right now. Asks
    without waiting: MLflow's own connections wait for 20 s."""
    try:
        uri = f"{file.absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None)) as opened:
            if to_read:
                opened.execute("SELECT name FROM sqlite_master LIMIT 1").fetchone()
            else:
                opened.execute("BEGIN EXCLUSIVE")
                opened.execute("ROLLBACK")
    # Any other fault of the store is reported by the code that opens it to use it.
    except sqlite3.Error as error:
        return "locked" in str(error) or "busy" in str(error)
    return False


def wait_while_locked(file: Path, say: Callable[[str], None], to_read: bool = True) -> None:
    """Wait until `file` can be read (without `to_read`: written).

    Raises: OutputError after WAITS_S.
    """
    began, told = time.monotonic(), False
    while is_locked(file, to_read):
        waited_s = time.monotonic() - began
        if waited_s > WAITS_S:
            raise OutputError(
                f"{file} has been locked by another program (a backup, a virus scanner) for "
                f"{WAITS_S:.0f} s; run the same command again once that lets it go, "
                "or set tracking.root=FOLDER"
            )
        if waited_s > _SAYS_AFTER_S and not told:
            say(f"{file} is locked by another program: waiting up to {WAITS_S:.0f} s for it")
            told = True
        time.sleep(0.2)


def is_away(error: BaseException) -> bool:
    """Return whether `error` says that the store, or a file beside it, cannot be written just now:
    a lock, a permission. A full disk is another matter: nothing else could be written either."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import OperationalError

    if disk_space.find_disk_full_error(error) is not None:
        return False
    if isinstance(error, MlflowException):
        return bool(error.error_code == "TEMPORARILY_UNAVAILABLE")
    return isinstance(error, OperationalError | OSError)


@contextmanager
def suppress_away() -> Iterator[None]:
    """Go on without what is inside where the store `is_away`."""
    try:
        yield
    except Exception as error:
        if not is_away(error):
            raise
