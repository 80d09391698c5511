"""A store that was moved or copied, or that another MLflow has written."""

import multiprocessing
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from medexp.config.schema import Tracking
from medexp.errors import OutputError
from medexp.tracking import queries, store_upkeep
from medexp.tracking.registry import find_run_of_model, register_adapter
from medexp.tracking.store import open_store
from medexp.tracking.tracker import open_run

OLDER = "5b0e9adcef9c"  # add_cascade_deletion_to_trace_tables_fk of MLflow 2.15


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose store has a run with an adapter, listed among the models and registered."""
    project = tmp_path_factory.mktemp("made") / "project"
    adapter = project / "adapter"
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text("{}")
    with open_run(tracking(project), None, "first") as run:
        run.log_text("the first", "answers.txt")
        run.log_model("tiny", run.log_folder(adapter, "adapter"), {}, {})
    register_adapter(tracking(project), run.run_id, "clinical", "champion")
    return project


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Path:
    """Such a project at its own place: what `made` is copied to, opened there."""
    shutil.copytree(made, tmp_path / "project")
    open_store(tracking(tmp_path / "project"))
    return tmp_path / "project"


def tracking(project: Path) -> Tracking:
    root = str(project / "mlruns")
    return Tracking(
        root=root,
        experiment="medexp",
        run_name=None,
        system_metrics=False,
        log_adapter=True,
        tags={},
    )


def addresses(project: Path) -> set[str]:
    """Every address in the store."""
    with closing(sqlite3.connect(project / "mlruns" / "mlflow.db")) as store:
        found = [
            store.execute(f"SELECT {column} FROM {table}").fetchall()
            for table, column in store_upkeep._ADDRESSES
        ]
    return {each for rows in found for (each,) in rows if each is not None}


def run_called(project: Path, name: str) -> queries.StoredRun:
    client = open_store(tracking(project))
    (run,) = client.search_runs(["1"], f"attributes.run_name = '{name}'")
    return queries.find_run(tracking(project), run.info.run_id, ("adapter", "answers.txt"))


def write_run(project: Path, name: str) -> Path:
    with open_run(tracking(project), None, name) as run:
        run.log_text(name, "answers.txt")
    return run_called(project, name).artifacts["answers.txt"]


@pytest.mark.parametrize("how", [shutil.move, shutil.copytree])
def test_a_store_finds_its_artifacts_where_it_lies_now(
    project: Path, tmp_path: Path, how: Callable[..., Any]
) -> None:
    now = tmp_path / "now, with a space"
    how(str(project), str(now))
    first = run_called(now, "first")
    assert first.artifacts["answers.txt"].read_text() == "the first"
    assert {each.is_relative_to(now) for each in first.artifacts.values()} == {True}
    assert find_run_of_model(tracking(now), "models:/clinical@champion") == first.run_id
    assert write_run(now, "second").is_relative_to(now)
    here = (now / "mlruns" / "artifacts").as_uri()
    assert all(each.startswith((here, "models:/")) for each in addresses(now)), addresses(now)
    if how is shutil.copytree:  # both go on by themselves
        assert write_run(project, "third").is_relative_to(project)
        assert run_called(project, "first").artifacts["answers.txt"].is_relative_to(project)
    else:
        assert not project.exists()


def test_the_first_place_of_a_run_is_remembered(project: Path, made: Path, tmp_path: Path) -> None:
    shutil.move(project, tmp_path / "again")
    assert (
        run_called(tmp_path / "again", "first").tags[store_upkeep.MOVED_FROM]
        == (made / "mlruns" / "artifacts").as_uri()
    )
    write_run(tmp_path / "again", "second")
    assert store_upkeep.MOVED_FROM not in run_called(tmp_path / "again", "second").tags


def test_a_run_that_was_written_to_the_old_place_is_still_read_there(
    project: Path, tmp_path: Path
) -> None:
    written = write_run(project, "astray")
    now = tmp_path / "now"
    shutil.copytree(project, now)
    shutil.rmtree(now / "mlruns" / "artifacts" / written.parents[1].name)
    assert run_called(now, "astray").artifacts["answers.txt"] == written
    assert run_called(now, "first").artifacts["answers.txt"].is_relative_to(now)


def test_an_experiment_on_another_disk_stays_there(project: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "disk" / "artifacts"
    elsewhere.mkdir(parents=True)
    client = open_store(tracking(project))
    number = client.create_experiment("large", artifact_location=elsewhere.as_uri())
    shutil.move(project, tmp_path / "now")
    assert (
        open_store(tracking(tmp_path / "now")).get_experiment(number).artifact_location
        == elsewhere.as_uri()
    )


def test_two_processes_at_once_leave_one_right_store(project: Path, tmp_path: Path) -> None:
    shutil.move(project, tmp_path / "now")
    at_once = multiprocessing.get_context("fork")
    started = [
        at_once.Process(target=store_upkeep.prepare_store, args=(tmp_path / "now" / "mlruns",))
        for _ in range(4)
    ]
    for each in started:
        each.start()
    for each in started:
        each.join(60)
    assert [each.exitcode for each in started] == [0, 0, 0, 0]
    assert (
        run_called(tmp_path / "now", "first")
        .artifacts["answers.txt"]
        .is_relative_to(tmp_path / "now")
    )


@pytest.mark.parametrize("content", [b"", b"no database" * 100, None])
def test_what_is_no_store_of_mlflow_is_left_to_it(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "mlflow.db"
    if content is None:
        with closing(sqlite3.connect(file)) as other, other:
            other.execute("CREATE TABLE mine (a)")
    else:
        file.write_bytes(content)
    before = file.read_bytes()
    store_upkeep.prepare_store(tmp_path)
    assert file.read_bytes() == before


def store_of(schema: str, root: Path) -> Path:
    """A store as the MLflow of that schema leaves it, with a run."""
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base
    from sqlalchemy import create_engine

    root.mkdir()
    file = root / "mlflow.db"
    engine = create_engine(f"sqlite:///{file}")
    Base.metadata.create_all(engine)
    config = _get_alembic_config(f"sqlite:///{file}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, schema)
    engine.dispose()
    where = (root / "artifacts").as_uri()
    with closing(sqlite3.connect(file)) as store, store:
        store.execute(
            "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage)"
            " VALUES (1, 'medexp', ?, 'active')",
            (where,),
        )
        store.execute(
            "INSERT INTO runs (run_uuid, name, user_id, status, start_time, end_time,"
            " lifecycle_stage, artifact_uri, experiment_id) VALUES ('abc', 'first', 'me',"
            " 'FINISHED', 1, 2, 'active', ?, 1)",
            (f"{where}/abc/artifacts",),
        )
        store.execute("INSERT INTO params (key, value, run_uuid) VALUES ('lora.r', '8', 'abc')")
    return file


def test_a_store_of_an_older_mlflow_is_upgraded_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = store_of(OLDER, tmp_path / "mlruns")
    run = open_store(tracking(tmp_path)).get_run("abc")
    assert (run.info.run_name, run.data.params) == ("first", {"lora.r": "8"})
    assert store_upkeep._is_current(file)
    kept = file.with_name(f"mlflow-{OLDER}.db")
    assert store_upkeep._read_schema(kept) == OLDER
    assert (
        f"was of an older MLflow and has been upgraded; as it was, it is kept as {kept.name}"
        in capsys.readouterr().err
    )
    assert {each.name for each in file.parent.iterdir()} <= {
        "mlflow.db",
        kept.name,
        ".mlflow.db.lock",
    }
    open_store(tracking(tmp_path))
    assert capsys.readouterr().err == ""


def test_a_store_of_a_newer_mlflow_is_refused_and_not_touched(
    tmp_path: Path, empty_store: Path
) -> None:
    (tmp_path / "mlruns").mkdir()
    file = shutil.copy(empty_store, tmp_path / "mlruns" / "mlflow.db")
    with closing(sqlite3.connect(file)) as store, store:
        store.execute("UPDATE alembic_version SET version_num = 'fedcba987654'")
    before = Path(file).read_bytes()
    said = r"written by a newer MLflow \(schema fedcba987654\) than the .* was not touched"
    with pytest.raises(OutputError, match=said) as refused:
        open_store(tracking(tmp_path))
    assert refused.value.exit_code == 2
    assert Path(file).read_bytes() == before
    assert [each.name for each in (tmp_path / "mlruns").iterdir()] == ["mlflow.db"]


def test_an_upgrade_that_fails_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    file = store_of(OLDER, tmp_path / "mlruns")
    with closing(sqlite3.connect(file)) as store, store:
        store.execute("DROP TABLE metrics")  # which a migration wants to change
    before = file.read_bytes()
    with pytest.raises(OutputError, match=r"could not upgrade .* which is as it was"):
        open_store(tracking(tmp_path))
    assert file.read_bytes() == before
