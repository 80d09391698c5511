"""A storage that is away or locked is waited for, then named in one sentence."""

import multiprocessing
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import nullcontext

import pytest

from medexp.errors import OutputError
from medexp.sweep.study import storage

ROUNDS = 30


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(storage, "TIMEOUT_S", 1.0)


def test_a_server_that_does_not_answer_is_named_without_its_password():
    with pytest.raises(OutputError, match="does not answer") as refused:
        storage.connect("postgresql+psycopg://me:secret@127.0.0.1:1/study")
    assert "secret" not in str(refused.value)
    assert "postgresql+psycopg://me:***@127.0.0.1:1/study" in str(refused.value)


def test_an_unknown_kind_of_storage_is_refused():
    with pytest.raises(OutputError, match="nosuch://x"):
        storage.connect("nosuch://x")


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(OutputError, match="unable to open database file"):
        storage.connect(f"sqlite:///{tmp_path}/none/x.db")


def _set_up_by(file, library: str, revision: str) -> str:
    """The URL of a study's file, as another version of Optuna would have left it."""
    import optuna

    url = f"sqlite:///{file}"
    optuna.create_study(study_name="s", storage=url)
    with sqlite3.connect(file) as connection:
        connection.execute("update version_info set library_version = ?", [library])
        connection.execute("update alembic_version set version_num = ?", [revision])
    connection.close()
    return url


def test_a_study_of_an_older_optuna_is_refused_with_what_upgrades_it(tmp_path):
    url = _set_up_by(tmp_path / "x.db", "3.0.0", "v3.0.0.d")
    with pytest.raises(OutputError, match=f"storage upgrade --storage {url}") as refused:
        storage.connect(url)
    assert "set up by optuna 3.0.0" in str(refused.value)


def test_a_study_of_a_newer_optuna_is_refused(tmp_path):
    with pytest.raises(OutputError, match=r"set up by optuna 9.0.0.*updating optuna"):
        storage.connect(_set_up_by(tmp_path / "x.db", "9.0.0", "v9.0.0.a"))


@pytest.mark.parametrize("name", ["x.db", "x.journal"])
def test_a_file_that_is_no_study_is_refused_and_left_as_it_is(tmp_path, name):
    file = tmp_path / name
    file.write_text("these are my notes\n" * 100)
    with pytest.raises(OutputError, match=r"cannot be read .*not a"):
        storage.connect(str(file) if name == "x.journal" else f"sqlite:///{file}")
    assert file.read_text() == "these are my notes\n" * 100


def test_a_damaged_file_is_refused(tmp_path):
    file = tmp_path / "x.db"
    storage.connect(f"sqlite:///{file}")
    file.write_bytes(file.read_bytes()[:20_000])
    with pytest.raises(OutputError, match=r"cannot be read .*malformed"):
        storage.connect(f"sqlite:///{file}")


def _ask(url: str, together, asked) -> None:
    import optuna

    from medexp.sweep.study.storage import connect, lock_for_asking

    study = optuna.load_study(
        study_name="s", storage=connect(url), sampler=optuna.samplers.RandomSampler()
    )
    for _ in range(ROUNDS):
        together.wait(60)
        with lock_for_asking(url):
            asked.put(study.ask().number)
        together.wait(60)


def test_a_trial_that_waits_is_handed_to_one_of_two_that_ask_at_once(tmp_path):
    import optuna

    url = storage.default_url(tmp_path)
    study = optuna.create_study(study_name="s", storage=storage.connect(url))
    context = multiprocessing.get_context("spawn")
    together, asked = context.Barrier(3), context.Queue()
    others = [context.Process(target=_ask, args=(url, together, asked)) for _ in range(2)]
    for other in others:
        other.start()
    for number in range(ROUNDS):
        study.enqueue_trial({"x": number})
        together.wait(60)
        together.wait(60)
        assert asked.get() != asked.get()
    for other in others:
        other.join(60)


@pytest.mark.parametrize(
    "url", ["postgresql://me@host/db", "x.journal", "sqlite:///file:x?uri=true"]
)
def test_other_storages_need_no_lock(url):
    assert isinstance(storage.lock_for_asking(url), nullcontext)


def _hold(file, seconds: float) -> threading.Thread:
    held = threading.Event()

    def hold() -> None:
        connection = sqlite3.connect(file)
        connection.execute("BEGIN EXCLUSIVE")
        held.set()
        time.sleep(seconds)
        connection.rollback()
        connection.close()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    return thread


def test_a_locked_file_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "TIMEOUT_S", 20.0)
    thread = _hold(tmp_path / "x.db", 1.5)
    storage.connect(f"sqlite:///{tmp_path}/x.db")
    thread.join()


def test_a_file_that_stays_locked_is_named(tmp_path):
    thread = _hold(tmp_path / "x.db", 6)
    with pytest.raises(OutputError, match="database is locked"):
        storage.connect(f"sqlite:///{tmp_path}/x.db")
    thread.join()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
        ("postgresql://me:secret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("postgresql://me:se@cret@host/db", "postgresql://me:***@host/db"),
    ],
)
def test_a_password_is_never_shown(url, shown):
    assert storage.hide_password(url) == shown


CONNECT = """
import sys
from medexp.sweep.study import storage
import optuna.storages
print("ready", flush=True)
sys.stdin.readline()
for file in sys.argv[1:]:
    storage.connect("sqlite:///" + file)
"""


def test_sweepers_that_make_one_new_study_at_once_all_have_it(tmp_path):
    words = [
        sys.executable,
        "-c",
        CONNECT,
        *(str(tmp_path / f"{number}.db") for number in range(6)),
    ]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [subprocess.Popen(words, text=True, **pipes) for _ in range(3)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate()[1] for process in processes] == [""] * 3
