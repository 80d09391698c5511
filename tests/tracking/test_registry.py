"""Registered adapters: a version a run, aliases that move, and every command finds them by name."""

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.commands import TinyRuns

from medexp.config.schema import Tracking
from medexp.errors import ConfigError, RunError
from medexp.tracking import finished_run, registry


@pytest.fixture
def kept(tiny_runs: TinyRuns) -> Callable[..., str]:
    """kept(**tags): the id of a finished run with adapter and report, made without training."""
    client = tiny_runs.client()
    experiment = client.create_experiment(
        "medexp", artifact_location=(tiny_runs.root / "mlruns" / "artifacts").as_uri()
    )

    def made(status: str = "FINISHED", adapter: bool = True, **tags: str) -> str:
        run = client.create_run(
            experiment,
            run_name="r4",
            tags={"medexp.model": "tiny", "mlflow.note.content": "**loss** fell"} | tags,
        )
        if adapter:
            client.log_text(run.info.run_id, '{"r": 4}', "adapter/adapter_config.json")
        client.log_text(run.info.run_id, "<html>", "report.html")
        client.set_terminated(run.info.run_id, status)
        return str(run.info.run_id)

    return made


@pytest.fixture
def store(tiny_runs: TinyRuns) -> Tracking:
    return tiny_runs.run().tracking


def test_a_run_is_registered_once_and_the_alias_moves(
    tiny_runs: TinyRuns, store: Tracking, kept: Callable[..., str]
) -> None:
    first, second = kept(), kept()
    one = registry.register_adapter(store, first, "clinical", "champion")
    assert (one.version, one.is_new, one.uri) == ("1", True, "models:/clinical@champion")
    two = registry.register_adapter(store, second, "clinical", "champion")
    again = registry.register_adapter(store, first, "clinical", "former")
    assert (two.version, again.version, again.is_new) == ("2", "1", False)
    aliases = tiny_runs.client().get_registered_model("clinical").aliases
    assert {alias: str(version) for alias, version in aliases.items()} == {
        "champion": "2",
        "former": "1",
    }


def test_a_version_leads_to_its_adapter_its_run_and_its_report(
    tiny_runs: TinyRuns, store: Tracking, kept: Callable[..., str]
) -> None:
    run = kept()
    registry.register_adapter(store, run, "clinical", "champion")
    version = tiny_runs.client().get_model_version("clinical", "1")
    assert (version.run_id, version.status) == (run, "READY")
    assert Path(version.source.removeprefix("file://"), "adapter_config.json").is_file()
    assert version.tags["medexp.report"] == f"runs:/{run}/report.html"
    assert version.tags["medexp.model"] == "tiny"
    assert (
        f"/runs/{run}/artifacts/report.html?workflowType=machine_learning)" in version.description
    )
    assert version.description.endswith("**loss** fell")


@pytest.mark.parametrize(
    "asked", ["models:/clinical@champion", "models:/clinical/2", "models:/clinical/latest"]
)
def test_every_door_finds_it(
    tiny_runs: TinyRuns, store: Tracking, kept: Callable[..., str], asked: str
) -> None:
    registry.register_adapter(store, kept(), "clinical", "other")
    run = kept()
    registry.register_adapter(store, run, "clinical", "champion")
    found = finished_run.find_run(asked, str(tiny_runs.root / "mlruns"), tiny_runs.root)
    assert found.kept is not None
    assert (found.kept.run_id, found.asked) == (run, asked)
    assert found.adapter is not None
    assert (found.adapter / "adapter_config.json").is_file()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("models:/clinical@best", "clinical has versions 1 and aliases champion (version 1)"),
        ("models:/clinical/7", "run=models:/clinical/7 is not registered in"),
        ("models:/surgical@champion", "there are clinical"),
        ("models:/clinical", "models:/NAME@ALIAS or models:/NAME/VERSION is"),
    ],
)
def test_what_is_not_registered_is_said(
    tiny_runs: TinyRuns, store: Tracking, kept: Callable[..., str], asked: str, said: str
) -> None:
    registry.register_adapter(store, kept(), "clinical", "champion")
    with pytest.raises(RunError) as refused:
        finished_run.find_run(asked, str(tiny_runs.root / "mlruns"), tiny_runs.root)
    assert said in str(refused.value)


def test_a_version_that_somebody_else_made_is_said(tiny_runs: TinyRuns, store: Tracking) -> None:
    client = tiny_runs.client()
    client.create_registered_model("theirs")
    client.create_model_version("theirs", (tiny_runs.root / "x").as_uri())
    with pytest.raises(RunError, match="run=models:/theirs/1 was not registered by medexp"):
        finished_run.find_run("models:/theirs/1", str(tiny_runs.root / "mlruns"), tiny_runs.root)


@pytest.mark.parametrize(
    ("name", "alias", "said"),
    [
        ("a/b", "champion", "name 'a/b' is not allowed"),
        ("a:b", "champion", "name 'a:b' is not allowed"),
        ("..", "champion", "name '..' is not allowed"),
        ("", "champion", "name '' is not allowed"),
        ("a", "latest", "alias 'latest' is not allowed"),
        ("a", "v2", "alias 'v2' is not allowed"),
        ("a", "the best", "alias 'the best' is not allowed"),
    ],
)
def test_names_that_mlflow_cannot_hold_are_refused(
    store: Tracking, name: str, alias: str, said: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        registry.register_adapter(store, "0" * 32, name, alias)
    assert said in str(refused.value)


def test_runs_without_an_adapter_are_refused(store: Tracking, kept: Callable[..., str]) -> None:
    with pytest.raises(RunError, match=f"run={'0' * 32} is not in "):
        registry.register_adapter(store, "0" * 32, "clinical", "champion")
    with pytest.raises(RunError, match="is KILLED, and only a FINISHED run is registered"):
        registry.register_adapter(store, kept("KILLED"), "clinical", "champion")
    with pytest.raises(RunError, match="kept no adapter in MLflow"):
        registry.register_adapter(store, kept(adapter=False), "clinical", "champion")
