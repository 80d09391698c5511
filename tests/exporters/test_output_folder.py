"""Where an export goes: refused while nothing is written, there whole or not at all."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from medexp.errors import OutputError
from medexp.exporters import output_folder
from medexp.system.units import GIB


def _export(place: Path, content: str) -> None:
    with output_folder.open_output_folder(place) as half_done:
        (half_done / "weights").write_text(content)
        output_folder.write_manifest(half_done, {"export": "merged"})


def test_a_folder_with_something_else_in_it_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="is not empty and holds no export"):
            output_folder.check_folder(tmp_path, overwrite, 1)
    file = tmp_path / "thesis.tex"
    with pytest.raises(OutputError, match="is not empty and holds no export"):
        output_folder.check_folder(file, True, 1)


def test_an_export_is_replaced_when_asked(tmp_path: Path) -> None:
    place = tmp_path / "out"
    output_folder.check_folder(place, False, 1)
    _export(place, "first")
    with pytest.raises(OutputError, match="already holds an export; set overwrite=true"):
        output_folder.check_folder(place, False, 1)
    output_folder.check_folder(place, True, 1)
    _export(place, "second")
    assert (place / "weights").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    output_folder.check_folder(tmp_path / "out", False, 1)
    _export(tmp_path / "out", "first")
    assert output_folder.list_files(tmp_path / "out")[1] == ("weights", "0.0 KiB")


def test_a_disk_that_is_too_small_is_said_with_both_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 3 * GIB))
    with pytest.raises(
        OutputError, match=r"needs 15.50 GiB on the disk of .* and 3.00 GiB are free"
    ):
        output_folder.check_folder(tmp_path / "not/there/yet", False, int(15.5 * GIB))
    output_folder.check_folder(tmp_path / "not/there/yet", False, 3 * GIB)


def test_what_is_stopped_leaves_nothing_and_an_earlier_export_stays(tmp_path: Path) -> None:
    place = tmp_path / "out"
    _export(place, "first")

    def stopped() -> None:
        with output_folder.open_output_folder(place) as half_done:
            (half_done / "weights").write_text("half of the sec")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert (place / "weights").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_disk_that_fills_up_meanwhile_is_one_sentence(tmp_path: Path) -> None:
    def filled() -> None:
        with (
            output_folder.open_output_folder(tmp_path / "out"),
            Path("/dev/full").open("w") as device,
        ):
            device.write("weights")

    with pytest.raises(
        OutputError,
        match=r"out cannot be written: .*No space left on device.*; nothing of it was left",
    ):
        filled()
    assert not list(tmp_path.iterdir())
