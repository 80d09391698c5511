"""Which commit a name stands for where the Hub does not answer."""

from pathlib import Path

import pytest
from huggingface_hub import constants

from medexp import hub

COMMIT, OLDER = "a" * 40, "b" * 40


@pytest.fixture
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local cache that holds two commits of a model, as huggingface_hub lays them out; no network."""
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
@pytest.mark.parametrize(("revision", "commit"), [(None, COMMIT), ("main", COMMIT), ("v1", OLDER), (OLDER, OLDER)])
def test_offline_the_commit_is_the_one_in_the_cache(revision: str | None, commit: str) -> None:
    assert hub.commit_of("model", "me/model", revision) == commit


@pytest.mark.usefixtures("_cache")
@pytest.mark.parametrize(
    ("kind", "repo", "revision"), [("model", "me/model", "v2"), ("dataset", "me/model", None), ("model", "me/other", None)]
)
def test_what_is_not_in_the_cache_is_said(kind: str, repo: str, revision: str | None) -> None:
    with pytest.raises(hub.HubError, match="HF_HUB_OFFLINE is set, and it is not in the local cache"):
        hub.commit_of(kind, repo, revision)
