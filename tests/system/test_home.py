"""Paths as others may see them."""

from pathlib import Path

import pytest

from medexp.system.home import expand_home, short, with_tilde


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "dr.ann"
    made.mkdir()
    monkeypatch.setenv("HOME", str(made))
    return made


def test_the_home_folder_is_a_tilde_wherever_it_stands_in_a_text(home: Path) -> None:
    text = f"{home}/a.csv, '{home}' and sqlite:///{home}/mlflow.db; in {home}."
    assert with_tilde(text) == "~/a.csv, '~' and sqlite:///~/mlflow.db; in ~."


@pytest.mark.parametrize("other", ["{}e/a.csv", "{}-2/a.csv", "{}.old/a", "/mnt{}/a.csv"])
def test_another_folder_is_none(home: Path, other: str) -> None:
    assert with_tilde(other.format(home)) == other.format(home)


def test_a_home_that_is_a_link_is_found_under_both_names(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(home)
    monkeypatch.setenv("HOME", str(tmp_path / "link"))
    assert with_tilde(f"{home}/a {tmp_path}/link/b") == "~/a ~/b"


def test_the_root_folder_is_nobody_s_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/")
    assert with_tilde("a / b, /data/c") == "a / b, /data/c"


def test_a_path_is_shown_from_here_or_from_home(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "project").mkdir()
    monkeypatch.chdir(home / "project")
    places = (home / "project/outputs/a", home / "b", Path("/srv/c"))
    assert [str(short(each)) for each in places] == ["outputs/a", "~/b", "/srv/c"]


def test_a_tilde_is_the_home_folder_and_an_unknown_user_s_is_a_name(home: Path) -> None:
    assert expand_home("~/a.csv") == home / "a.csv"
    assert expand_home("~nobody-at-all/a.csv") == Path("~nobody-at-all/a.csv")
