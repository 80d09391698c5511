"""A store that an older MLflow has written, or that lies elsewhere than it did: made fit for here
before it is opened.

MLflow keeps where artifacts lie as absolute addresses. Those of medexp lie beside the store,
wherever that is: a folder that was moved or copied has its addresses rewritten, once, in one
transaction.
"""

import re
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from urllib.parse import quote, urlparse
from urllib.request import url2pathname

from filelock import FileLock

from medexp.errors import OutputError, first_line
from medexp.system.console import Console
from medexp.system.imports import gc_paused_for_import
from medexp.tracking.store_lock import WAITS_S, wait_while_locked

# Below tracking.root.
STORE = "mlflow.db"
# A run's tag: where the artifacts of its store were when it was made.
MOVED_FROM = "medexp.moved_from"
_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
_REVISION = re.compile(r"^revision\b[^=]*=\s*[\"'](\w+)", re.MULTILINE)
_BEFORE = re.compile(r"^down_revision\b[^=]*=(.*)", re.MULTILINE)


def prepare_store(root: Path) -> None:
    """See to it that MLflow can open the store under `root`, where there is one, and finds its
    artifacts beside it.

    Raises: OutputError if a newer MLflow has written it, or it cannot be upgraded or rewritten; it
    is then as it was.
    """
    file = root / STORE
    wait_while_locked(file, Console().info)
    try:
        if not file.is_file() or not file.stat().st_size or _read_schema(file) is None:
            # Not made yet, or no store of MLflow's: it is to say so itself.
            return
        _upgrade(root)
        _rebase_artifacts(root)
    except (sqlite3.OperationalError, OSError) as error:
        raise OutputError(
            f"{file} cannot be used ({error}); free what holds it, or set tracking.root=FOLDER"
        ) from error
    except sqlite3.DatabaseError:
        # No database: MLflow is to say what it is.
        return


def _connect(file: Path) -> "closing[sqlite3.Connection]":
    return closing(sqlite3.connect(file, timeout=WAITS_S, isolation_level=None))


@cache
def _list_schemas() -> tuple[frozenset[str], str] | None:
    """Return every schema that this MLflow can upgrade from, and the one that it reads; None where
    its migrations are not where MLflow 3.17 has them, and it has to say itself what does not fit.

    Read without importing MLflow: a refusal must be quick.
    """
    found = find_spec("mlflow")
    folders = found.submodule_search_locations if found is not None else None
    folder = Path(next(iter(folders or ["."]))) / "store" / "db_migrations" / "versions"
    texts = [file.read_text(encoding="utf-8") for file in folder.glob("*.py")]
    known = {match[1] for text in texts if (match := _REVISION.search(text))}
    before = [match[1] for text in texts if (match := _BEFORE.search(text))]
    newest = known - set(re.findall(r"[\"'](\w+)[\"']", " ".join(before)))
    return (frozenset(known), newest.pop()) if len(newest) == 1 else None


def _read_schema(file: Path) -> str | None:
    with _connect(file) as store:
        try:
            row = store.execute("SELECT version_num FROM alembic_version").fetchone()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return None
            raise
    return None if row is None else str(row[0])


def _upgrade(root: Path) -> None:
    file = root / STORE
    if _is_current(file):
        return
    with FileLock(root / f".{STORE}.lock"):
        # Another process has been here.
        if _is_current(file):
            return
        kept = _find_free_name(file, f"mlflow-{_read_schema(file)}")
        half_done = file.with_name(f".{STORE}.new")
        for left in (half_done, half_done.with_name(f"{half_done.name}-journal")):
            left.unlink(missing_ok=True)
        _copy_database(file, kept)
        _copy_database(file, half_done)
        _migrate(half_done, kept)
        half_done.replace(file)
    said = f"was of an older MLflow and has been upgraded; as it was, it is kept as {kept.name}"
    print(f"medexp: {file} {said}", file=sys.stderr)


def _find_free_name(beside: Path, stem: str) -> Path:
    names = (f"{stem}.db" if number == 1 else f"{stem}-{number}.db" for number in count(1))
    return next(free for name in names if not (free := beside.with_name(name)).exists())


def _is_current(file: Path) -> bool:
    """Return whether the store in `file` is one that this MLflow reads as it is.

    Raises: OutputError if only a newer one can read it.
    """
    schemas, found = _list_schemas(), _read_schema(file)
    if schemas is None or found is None:
        return True
    known, newest = schemas
    if found not in known:
        installed = metadata.version("mlflow")
        raise OutputError(
            f"{file} was written by a newer MLflow (schema {found}) than the {installed} that is "
            "installed here, and was not touched; install that one (pip install --upgrade mlflow), "
            "or set tracking.root=FOLDER for another store"
        )
    return found == newest


def _copy_database(file: Path, to: Path) -> None:
    """A copy of database `file` as of one moment, whoever writes to it."""
    with _connect(file) as source, _connect(to) as copy:
        source.backup(copy)


def _migrate(file: Path, kept: Path) -> None:
    """Upgrade `file` as `mlflow db upgrade` does."""
    with gc_paused_for_import():
        from mlflow.store.db import utils

    engine = utils.create_sqlalchemy_engine_with_retry(sqlite_uri(file))
    try:
        utils._upgrade_db(engine)
    except Exception as error:
        kept.unlink(missing_ok=True)
        raise OutputError(
            f"MLflow could not upgrade {kept.with_name(STORE)} ({first_line(error)}), which is as"
            " it was; set tracking.root=FOLDER for another store, or open it with the MLflow that"
            " wrote it"
        ) from error
    finally:
        engine.dispose()


def _rebase_artifacts(root: Path) -> None:
    """Have every address that leads to where the artifacts of this store were lead to where they
    are."""
    here = (root / "artifacts").as_uri()
    with _connect(root / STORE) as store:
        if not _list_former_addresses(store, here):
            return
        # Of two processes the second finds nothing left to do.
        store.execute("BEGIN IMMEDIATE")
        try:
            for before in _list_former_addresses(store, here):
                _rewrite(store, before, here)
            store.execute("COMMIT")
        except BaseException:
            store.execute("ROLLBACK")
            raise


def _list_former_addresses(store: sqlite3.Connection, here: str) -> list[str]:
    """Return the addresses that this store's own artifacts had before.

    They are those of its experiments that are not `here`, and that the store was made with, that
    another copy of it has, or whose runs lie `here`. An experiment that a user has made for another
    disk is none.
    """
    found: dict[str, bool] = {}
    query = "SELECT experiment_id, artifact_location FROM experiments ORDER BY experiment_id"
    for number, location in store.execute(query):
        base = str(location).removesuffix(f"/{number}")
        if base != here and base.endswith("/artifacts"):
            is_known = found.get(base, False) or number == 0
            found[base] = is_known or _is_of_this_store(store, base, here)
    return [base for base, is_ours in found.items() if is_ours]


def _is_of_this_store(store: sqlite3.Connection, base: str, here: str) -> bool:
    if (folder_of_uri(base).parent / STORE).is_file():
        return True
    runs = (address for (address,) in store.execute("SELECT artifact_uri FROM runs") if address)
    theirs = (address.removeprefix(base) for address in runs if address.startswith(f"{base}/"))
    return any(folder_of_uri(here + address).exists() for address in theirs)


def _rewrite(store: sqlite3.Connection, before: str, here: str) -> None:
    """Have addresses below `before` lead below `here`, save those of what only the place before
    has: a medexp of before 2026-11-29 went on writing there."""
    for table, column in _present(store):
        rows = store.execute(f"SELECT rowid, {column} FROM {table}").fetchall()
        for row, address in rows:
            if address is None or not f"{address}/".startswith(f"{before}/"):
                continue
            now = here + address[len(before) :]
            if (
                table != "experiments"
                and folder_of_uri(address).exists()
                and not folder_of_uri(now).exists()
            ):
                continue
            store.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (now, row))
            # Its config names files of the project that lay beside the store.
            if table == "runs":
                store.execute(
                    "INSERT OR IGNORE INTO tags (key, value, run_uuid) SELECT ?, ?, run_uuid FROM"
                    " runs WHERE rowid = ?",
                    (MOVED_FROM, before, row),
                )


def _present(store: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    for table, column in _ADDRESSES:
        if column in {row[1] for row in store.execute(f"PRAGMA table_info({table})")}:
            yield table, column


def folder_of_uri(uri: str) -> Path:
    """Return the folder that `uri` names: every store of medexp's is on this machine."""
    return Path(url2pathname(urlparse(uri).path))


def sqlite_uri(file: Path) -> str:
    """Return the URI that SQLAlchemy reads as sqlite in `file`: as it is wherever that does it,
    quoted where the path has % or ?.

    The quoted form names its driver: MLflow would make the quoted folder, too.

    Raises: OutputError if none does, as before SQLAlchemy 2.1, which does not unquote.
    """
    from sqlalchemy import make_url

    for uri in (f"sqlite:///{file}", f"sqlite+pysqlite:///{quote(str(file))}"):
        if (read := make_url(uri)).database == str(file) and not read.query:
            return uri
    raise OutputError(
        f"tracking.root={file.parent} has a character that no sqlite address can have; set"
        " tracking.root=FOLDER"
    )
