"""python -m medexp lists every command there is."""

from importlib import import_module
from pathlib import Path

from helpers.commands import command

import medexp
from medexp.__main__ import COMMANDS


def test_the_commands_are_listed(tmp_path: Path) -> None:
    status, output = command("-m", "medexp", cwd=tmp_path)
    assert status == 0
    assert all(f"  medexp.{name}" in output for name in COMMANDS)


def test_every_command_is_listed_and_none_that_is_not_there() -> None:
    doors = {file.stem for file in Path(medexp.__file__).parent.glob("*.py") if "run_door(_door" in file.read_text()}
    assert doors <= COMMANDS.keys()
    for name in COMMANDS:
        import_module(f"medexp.{name}")
