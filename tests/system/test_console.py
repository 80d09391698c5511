"""Text is shown as it is: nothing in square brackets is taken for markup."""

import pytest

from medexp.system.console import DONE, NOTE, WRONG, Console

NAME = "r16 target_modules=[q_proj,v_proj] [bold]x[/bold] :smile: \\[y]"


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def test_what_is_said_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.info(NAME)
    console.info(f": {NAME}", title=NAME)
    console.info(NAME, NOTE)
    assert capsys.readouterr().err.splitlines() == [NAME, f"{NAME}: {NAME}", f"! {NAME}"]


def test_results_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.result(NAME)
    console.result(NAME, style="italic")
    for mark in (DONE, WRONG):
        console.result(NAME, mark)
    assert capsys.readouterr().out.splitlines() == [NAME, NAME, f"✓ {NAME}", f"✗ {NAME}"]


def test_stages_and_bars_are_named_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    with console.status(NAME):
        pass
    with console.progress(NAME, 1) as advance:
        advance(1)
    assert [line.startswith(f"✓ {NAME} 0") for line in capsys.readouterr().err.splitlines()] == [
        True,
        True,
    ]


def test_tables_hold_titles_heads_and_cells_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    Console().table(NAME, (NAME, "b"), [(NAME, "c")])
    assert capsys.readouterr().out.count(NAME) == 3


def test_on_a_terminal_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    console = Console()
    assert console.log.is_terminal
    with console.status(NAME), console.progress(NAME, 1) as advance:
        advance(1)
    assert NAME in capsys.readouterr().err
