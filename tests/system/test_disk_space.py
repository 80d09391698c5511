"""A full disk, a file that is too large and a folder that may not be written are told apart,
whoever says it.
"""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from medexp.errors import OutputError
from medexp.system import disk_space

FULL = {
    "system": OSError(errno.ENOSPC, "No space left on device"),
    "quota": OSError(errno.EDQUOT, "Disk quota exceeded"),
    "safetensors": Exception(
        "Error while serializing: I/O error: No space left on device (os error 28)"
    ),
    "sqlite": Exception("(sqlite3.OperationalError) database or disk is full"),
}


def failing(work: Callable[[], object]) -> BaseException:
    """What `work` raises."""
    try:
        work()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.fixture
def shut(tmp_path: Path) -> Iterator[Path]:
    """A folder in which this process may make no file, whoever started it: root becomes nobody
    meanwhile.
    """
    folder = tmp_path / "shut"
    folder.mkdir()
    for each in (tmp_path, *tmp_path.parents[:2]):
        each.chmod(0o755)
    folder.chmod(0o555)
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    yield folder
    os.seteuid(was)


@pytest.mark.parametrize("error", FULL.values(), ids=FULL)
def test_no_room_is_said_with_what_is_left(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = disk_space.explain_write_error(error, [tmp_path])
    assert found is not None
    assert found.until == "there is room"
    assert "MiB left: too little for what was to be written, or a quota is used up" in found.what
    monkeypatch.setattr(disk_space, "FULL_BELOW", 2**60)
    found = disk_space.explain_write_error(error, [tmp_path])
    assert found is not None
    assert f"the disk of {tmp_path} is full (" in found.what


def test_no_room_is_seen_behind_what_it_led_to(tmp_path: Path) -> None:
    outer = RuntimeError("the checkpoint was not saved")
    outer.__context__ = FULL["system"]
    assert disk_space.find_disk_full_error(outer) is FULL["system"]
    assert disk_space.explain_write_error(RuntimeError("something else"), [tmp_path]) is None


def test_a_folder_that_may_not_be_written_is_not_called_full(shut: Path) -> None:
    system = failing(lambda: (shut / "file").write_text("x"))
    assert disk_space.explain_write_error(system, [shut]) == (
        f"{shut}/file cannot be used (Permission denied)",
        "it can be written",
    )
    # Torch's and safetensors' words do not say which file it was.
    for error in (
        RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"),
        Exception("I/O error: Permission denied (os error 13)"),
    ):
        assert disk_space.explain_write_error(error, [shut]) == (
            f"{shut} cannot be written (Permission denied)",
            "it can be written",
        )


def test_what_torch_does_not_explain_is_not_explained(tmp_path: Path) -> None:
    error = failing(lambda: torch.save({"a": torch.zeros(100_000)}, "/dev/full"))
    found = disk_space.explain_write_error(error, [tmp_path])
    assert found is not None
    assert "torch does not say why" in found.what
    assert "is full" not in found.what


def test_something_forbidden_that_was_seen_to_is_no_reason(tmp_path: Path) -> None:
    error = ValueError("of no consequence")
    error.__context__ = PermissionError(errno.EACCES, "Permission denied")
    assert disk_space.explain_write_error(error, [tmp_path]) is None


def test_too_little_room_to_go_on_is_refused(tmp_path: Path) -> None:
    disk_space.refuse_full_disk([tmp_path, tmp_path / "none"], 1)
    with pytest.raises(OutputError, match=f"the disk of {tmp_path} is full"):
        disk_space.refuse_full_disk([tmp_path], 2**60)
