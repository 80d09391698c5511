"""A folder takes its place whole, and what was there is never lost."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from medexp.system.files import atomic_directory


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


@pytest.fixture
def old(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "file").write_text("old")
    return folder


def test_a_new_folder_takes_the_place_of_the_old(old: Path) -> None:
    with atomic_directory(old) as half_done:
        (half_done / "file").write_text("new")
    assert (old / "file").read_text() == "new"
    assert names(old.parent) == ["adapter"]


def test_what_was_there_comes_back_where_the_new_cannot_take_its_place(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def refused(self: Path, target: Path) -> Path:
        if Path(target) == old and (self / "file").read_text() == "new":
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(OSError, match="no"), atomic_directory(old) as half_done:
        (half_done / "file").write_text("new")
    assert (old / "file").read_text() == "old"
    assert names(old.parent) == ["adapter"]


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_directory(tmp_path / "inside" / "adapter"):
        raise ZeroDivisionError
    assert names(tmp_path / "inside") == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_others_may_read_what_the_umask_allows_and_it_is_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(0o027)
    monkeypatch.setattr(os, "umask", lambda _: pytest.fail("the umask is the whole process's"))
    try:
        with atomic_directory(tmp_path / "adapter"):
            pass
    finally:
        monkeypatch.undo()
        os.umask(before)
    assert (tmp_path / "adapter").stat().st_mode & 0o777 == 0o750


HOLD = """
import sys, time
from pathlib import Path
from medexp.system.files import atomic_directory
with atomic_directory(Path(sys.argv[1])) as half_done:
    (half_done / "file").write_text("half")
    print("begun", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot lock a folder")
def test_what_a_killed_process_left_goes_and_what_another_is_writing_stays(old: Path) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", HOLD, str(old)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        assert [process.stdout.readline() for process in processes if process.stdout] == [
            "begun\n"
        ] * 2
        processes[0].kill()
        processes[0].wait()
        assert len(names(old.parent)) == 3
        with atomic_directory(old) as half_done:
            (half_done / "file").write_text("new")
        assert len(names(old.parent)) == 2
        assert (old / "file").read_text() == "new"
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    with atomic_directory(old):
        pass
    assert names(old.parent) == ["adapter"]


MANY = """
import sys
from pathlib import Path
from medexp.system.files import atomic_directory
for _ in range(150):
    with atomic_directory(Path(sys.argv[1])) as half_done:
        (half_done / "file").write_text("whole")
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot lock a folder")
def test_processes_that_write_one_folder_at_once_take_their_turns(tmp_path: Path) -> None:
    words = [sys.executable, "-c", MANY, str(tmp_path / "adapter")]
    processes = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[1] for process in processes] == [""] * 3
    assert names(tmp_path) == ["adapter"]
