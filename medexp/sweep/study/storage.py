"""Where a study is stored: sqlite in its folder, a journal file, or any database that Optuna knows,
as PostgreSQL.
"""

import logging
import os
import time
import warnings
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from medexp.errors import OutputError

TIMEOUT_S = float(os.environ.get("MEDEXP_STORAGE_WAIT_S", "60"))
STALE_AFTER_BEATS = 4


def default_url(folder: Path) -> str:
    """Return the URL of the storage of a study that names none: a file in its folder."""
    from sqlalchemy.engine import URL

    return URL.create("sqlite", database=str(folder / "study.db")).render_as_string()


def lock_for_asking(url: str) -> AbstractContextManager[Any]:
    """Return the lock under which a trial of the study at `url` is asked for.

    SQLite cannot lock a row: Optuna hands a trial that waits to each of two processes that ask at
    once (9 times in 60). Other databases and the journal need no lock.
    """
    from filelock import FileLock
    from sqlalchemy.engine import make_url

    database = make_url(url).database if url.startswith("sqlite") else None
    if database is None or database.startswith("file:"):
        return nullcontext()
    return FileLock(f"{database}.lock")


def connect(url: str, heartbeat_s: int | None = None) -> Any:
    """Return Optuna's storage at `url`; `*.log` or `*.journal` is a journal file.

    Waits up to TIMEOUT_S for a storage that is locked or away.

    Raises: OutputError if it does not answer until then, or holds what cannot be read.
    """
    _silence_optuna()
    _refuse_in_memory_url(url)
    if url.endswith((".log", ".journal")) and "://" not in url.replace("journal://", ""):
        return _open_journal(url.removeprefix("journal://"))
    from optuna.storages import RDBStorage, get_storage
    from sqlalchemy.exc import ArgumentError, DatabaseError, IntegrityError, OperationalError

    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            if not url.startswith(("sqlite", "postgresql", "mysql", "mariadb")):
                return get_storage(url)
            options = (
                {"connect_args": {"timeout": TIMEOUT_S}}
                if url.startswith("sqlite")
                else {"pool_pre_ping": True}
            )
            return RDBStorage(
                url,
                options,
                heartbeat_interval=heartbeat_s,
                grace_period=heartbeat_s and STALE_AFTER_BEATS * heartbeat_s,
            )
        # IntegrityError: another process made the tables of a new database at the same time.
        except (OperationalError, IntegrityError) as error:
            if time.monotonic() > deadline:
                raise make_unreachable_error(
                    url, error, f", tried for {TIMEOUT_S:.0f} s"
                ) from error
            time.sleep(1)
        except (ArgumentError, ValueError, ImportError, OSError) as error:
            raise make_unreachable_error(url, error) from error
        # A file that is no database or a damaged one; tables of another version of Optuna.
        except (DatabaseError, RuntimeError) as error:
            raise _make_unreadable_error(url, _find_reason(error)) from error


def make_unreachable_error(url: str, error: Exception, tried: str = "") -> OutputError:
    """Return the error of a storage that does not answer, without a password its URL may hold."""
    return OutputError(
        f"the study's storage {hide_password(url)} does not answer ({_find_reason(error)}){tried};"
        " set hydra.sweeper.storage, free what holds it, or leave it out for a file in the study's"
        " folder"
    )


def _make_unreadable_error(url: str, reason: str) -> OutputError:
    """Return the error of a storage whose content cannot be used."""
    shown = hide_password(url)
    said = reason.rstrip(".").replace("$STORAGE_URL", shown)
    return OutputError(
        f"the study's storage {shown} cannot be read ({said}); keep a copy before you mend it, or"
        " take another: hydra.sweeper.storage=URL, or hydra.sweeper.study_name=NAME for a new study"
    )


def _find_reason(error: Exception) -> str:
    # SQLAlchemy's `orig` is the database's own error, whose first line says the reason.
    cause = getattr(error, "orig", None) or error
    return (str(cause).strip().splitlines() or [type(error).__name__])[0]


def hide_password(url: str) -> str:
    """Return `url` with *** in the place of its password."""
    scheme, separator, rest = url.partition("://")
    credentials, at, host = rest.rpartition("@")
    user, colon, _ = credentials.partition(":")
    has_password = separator and at and colon
    return f"{scheme}://{user}:***@{host}" if has_password else url


def _refuse_in_memory_url(url: str) -> None:
    if url == ":memory:" or url.removeprefix("sqlite://").strip("/") in ("", ":memory:"):
        raise OutputError(
            f"hydra.sweeper.storage={url} is memory of this process, and trials are processes of"
            " their own; leave it out for a file in the study's folder, or give FILE.journal or a"
            " database"
        )


def list_study_names(url: str) -> set[str]:
    """Return the names of the studies at `url`.

    Raises: OutputError if it does not answer.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return set(optuna.study.get_all_study_names(connect(url)))
    except SQLAlchemyError as error:
        raise make_unreachable_error(url, error) from error


def _open_journal(path: str) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(path))
    except OSError as error:
        raise make_unreachable_error(path, error) from error
    # Every line is read here; one that is no line of a journal may raise any of these.
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
        raise _make_unreadable_error(path, "not a journal of Optuna") from error


def _silence_optuna() -> None:
    """Send Optuna's log lines to the command's log file, and hide its warnings of new features."""
    import optuna

    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
    logging.getLogger("optuna").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    warnings.filterwarnings("ignore", message="Heartbeat of storage is supposed to be used")
