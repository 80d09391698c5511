"""MLflow's store: made whole or not at all, opened, and asked whether a run is in it.

Everything goes through `MlflowClient` with an explicit store, so nothing depends on the working
directory or on MLflow's global state.
"""

import os
import time
from pathlib import Path
from typing import Any

from filelock import FileLock

from medexp.config.schema import Tracking
from medexp.errors import OutputError, RunError, first_line
from medexp.system.console import Console
from medexp.system.imports import gc_paused_for_import
from medexp.tracking.store_lock import WAITS_S, wait_while_locked
from medexp.tracking.store_upkeep import STORE, prepare_store, sqlite_uri


def open_store(tracking: Tracking) -> Any:
    """Return MLflow's client over the store of `tracking`, made where there is none.

    Raises: OutputError where it cannot be made, or what lies there cannot be opened.
    """
    import logging

    assert tracking.root is not None
    root = Path(tracking.root)
    # Before MLflow is imported: a refusal is quick.
    prepare_store(root)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    with gc_paused_for_import():
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

    # After the import, which sets its own.
    for name in ("mlflow", "alembic"):
        # What fails is raised, too.
        logging.getLogger(name).setLevel(logging.CRITICAL)

    uri = store_uri(root)
    if not _has_store(root):
        _make_store(root)
    began = time.monotonic()
    while True:
        wait_while_locked(root / STORE, Console().info)
        try:
            # the registry is the same store, whatever the environment says
            return MlflowClient(uri, uri)
        except (MlflowException, SQLAlchemyError) as error:
            is_held = "locked" in str(error)
            if is_held and time.monotonic() - began < WAITS_S:
                # another program took it in between, or holds it so that only MLflow's own check
                # fails
                continue
            remedy = (
                "run the same command again once no other program holds it"
                if is_held
                else "move that file away, and the same command makes a new one"
            )
            raise OutputError(
                f"MLflow cannot open {root / STORE} ({first_line(error)}); {remedy}, or set"
                " tracking.root=FOLDER"
            ) from error


def open_existing_store(tracking: Tracking) -> Any:
    """Return MLflow's client over the store of `tracking`, which must be there.

    Raises: RunError where there is none: a mistyped folder is not made.
    """
    refuse_empty(Path(tracking.root or "."))
    return open_store(tracking)


def refuse_empty(root: Path) -> None:
    """Raises: RunError if there is no store under `root`."""
    if not _has_store(root):
        raise RunError(
            f"tracking.root={root} holds no runs yet; run python -m medexp.train first, or set"
            " tracking.root=FOLDER"
        )


def store_uri(root: Path) -> str:
    """Return the tracking URI of the store under `root`."""
    return sqlite_uri(root / STORE)


def _has_store(root: Path) -> bool:
    file = root / STORE
    # Sqlite makes an empty file before it writes.
    return file.is_file() and file.stat().st_size > 0


def _make_store(root: Path) -> None:
    """A store under `root`, by the first of all processes that want one: MLflow takes a second or
    two for its tables, and one that is stopped or joined by another meanwhile is broken for good.
    So it is made under another name and renamed.

    Raises: OutputError if it cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{STORE}.lock"):
            if not _has_store(root):
                _create_tables(root / f".{STORE}.new").replace(root / STORE)
    except OSError as error:
        raise OutputError(
            f"tracking.root={root} cannot be made ({error.strerror}); set tracking.root=FOLDER"
        ) from error


def _create_tables(file: Path) -> Path:
    """Return `file` with MLflow's tables and its default experiment, and nothing that an earlier
    process left there."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for left in (file, file.with_name(f"{file.name}-journal")):
        left.unlink(missing_ok=True)
    SqlAlchemyStore(sqlite_uri(file), (file.parent / "artifacts").as_uri()).engine.dispose()
    return file


def get_existing_run(client: Any, run_id: str | None) -> Any:
    """Return run `run_id` of the store; None where there is none, or a user has deleted it."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id) if run_id else None
    except MlflowException as error:
        if not is_missing(error):
            raise
        return None
    return run if run is not None and run.info.lifecycle_stage == "active" else None


def is_missing(error: Any) -> bool:
    """Return whether this MlflowException says that something is not there, and not that the store
    failed."""
    return bool(error.error_code == "RESOURCE_DOES_NOT_EXIST")
