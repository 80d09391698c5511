"""The list of commands, and the console script."""

import re
from importlib import import_module
from pathlib import Path

import pytest
from helpers.commands import command

import medexp
from medexp.__main__ import COMMANDS


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
def test_the_commands_are_listed(tmp_path: Path, words: tuple[str, ...]) -> None:
    status, output = command("-m", "medexp", *words, cwd=tmp_path)
    assert status == 0
    assert all(f"  {name} " in output for name in COMMANDS)


def test_every_command_is_listed_and_none_that_is_not_there() -> None:
    package = Path(medexp.__file__).parent
    names = {
        file.stem
        for file in package.glob("*.py")
        if re.search(r"run_command\(\s*_run\b", file.read_text())
    }
    assert names == COMMANDS.keys()
    for name in COMMANDS:
        import_module(f"medexp.{name}")


def test_a_command_runs_by_its_name_as_it_does_as_a_module(tmp_path: Path) -> None:
    plan = ("hardware=rtx4050_6gb", "plan.format=json")
    by_name = command("-m", "medexp", "plan", *plan, cwd=tmp_path)
    assert by_name == command("-m", "medexp.plan", *plan, cwd=tmp_path)
    assert by_name[0] == 0


def test_bad_input_keeps_its_exit_code(tmp_path: Path) -> None:
    status, output = command("-m", "medexp", "train", "lora.r=0", cwd=tmp_path)
    assert status == 2
    assert output.startswith("medexp: lora.r=0 is out of range")


def test_what_is_no_command_is_said(tmp_path: Path) -> None:
    status, output = command("-m", "medexp", "trian", "lora.r=8", cwd=tmp_path)
    assert (status, output) == (
        2,
        "medexp: trian is no command; did you mean train?; medexp lists them\n",
    )
