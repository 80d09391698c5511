"""Which commit a name stands for where the Hub does not answer."""

import errno
from pathlib import Path

import datasets
import httpx
import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from medexp.errors import OutputError
from medexp.system import hub

COMMIT, OLDER = "a" * 40, "b" * 40


@pytest.fixture
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local cache that holds two commits of a model, as huggingface_hub lays them out; no
    network.
    """
    repo = tmp_path / "models--me--model"
    for commit in (COMMIT, OLDER):
        (repo / "snapshots" / commit).mkdir(parents=True)
        (repo / "snapshots" / commit / "config.json").write_text("{}")
    for name, commit in (("main", COMMIT), ("v1", OLDER)):
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / name).write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("_cache")
@pytest.mark.parametrize(
    ("revision", "commit"), [(None, COMMIT), ("main", COMMIT), ("v1", OLDER), (OLDER, OLDER)]
)
def test_offline_the_commit_is_the_one_in_the_cache(revision: str | None, commit: str) -> None:
    assert hub.find_commit("model", "me/model", revision) == commit


@pytest.mark.usefixtures("_cache")
@pytest.mark.parametrize(
    ("kind", "repo", "revision"),
    [("model", "me/model", "v2"), ("dataset", "me/model", None), ("model", "me/other", None)],
)
def test_what_is_not_in_the_cache_is_said(kind: str, repo: str, revision: str | None) -> None:
    with pytest.raises(
        hub.HubError, match="HF_HUB_OFFLINE is set, and it is not in the local cache"
    ):
        hub.find_commit(kind, repo, revision)


REFUSALS = {
    "no connection": httpx.ConnectError("all connection attempts failed"),
    "not there": errors.RepositoryNotFoundError(
        "404", response=httpx.Response(404, request=httpx.Request("GET", "http://hub"))
    ),
    "no such file": errors.LocalEntryNotFoundError("cannot find it"),
    "offline": errors.OfflineModeIsEnabled("offline"),
    "a name that is not one": errors.HFValidationError("repo id must"),
    "another size": OSError("consistency check failed"),
    "xet": RuntimeError("CAS service error"),
}
DEFECTS = (
    TypeError("a bug"),
    KeyError("a bug"),
    PermissionError(errno.EACCES, "Permission denied", "/cache"),
)


def raising(error: Exception):
    def call(*_args: object, **_options: object) -> None:
        raise error

    return call


@pytest.mark.parametrize("error", REFUSALS.values(), ids=REFUSALS)
def test_what_the_client_says_of_the_hub_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", raising(error))
    with pytest.raises(hub.HubError):
        hub.fetch("me/model", "config.json", None)


@pytest.mark.parametrize("error", DEFECTS)
def test_what_is_not_the_hub_s_stays_what_it_is(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", raising(error))
    with pytest.raises(type(error)) as said:
        hub.download("me/model", None)
    assert said.value is error


def test_a_full_disk_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    generating = datasets.exceptions.DatasetGenerationError(
        "an error occurred while generating the dataset"
    )
    generating.__cause__ = full
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", raising(full))
    monkeypatch.setattr(datasets, "load_dataset", raising(generating))
    for ask in (
        lambda: hub.fetch("me/model", "config.json", None),
        lambda: hub.load_table("me/cases", "en", None),
    ):
        with pytest.raises(
            OutputError,
            match=r"cache in .* cannot be written .*No space left on device.*; make room",
        ):
            ask()


def test_a_config_that_a_dataset_does_not_have_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        datasets, "load_dataset", raising(ValueError("BuilderConfig 'xx' not found."))
    )
    with pytest.raises(hub.HubError, match="BuilderConfig 'xx' not found"):
        hub.load_table("me/cases", "xx", None)


def test_a_name_that_is_not_one_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(hub.HubError, match="Repo id must"):
        hub.find_commit("model", "a/b/c", None)
