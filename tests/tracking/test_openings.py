"""How often a test part was opened is counted, once a run."""

from pathlib import Path

from medexp.tracking.openings import FILE, describe_openings, record_opening


def test_a_run_opens_a_test_part_once_however_often_it_is_taken_up(tmp_path: Path) -> None:
    root = str(tmp_path)
    assert record_opening(root, ["a", "b"], "run 1") == 1
    assert record_opening(root, ["b", "a"], "run 1") == 1
    assert record_opening(root, ["a", "b"], "run 2") == 2
    assert record_opening(root, ["a", "c"], "run 2") == 1
    assert len((tmp_path / FILE).read_text().splitlines()) == 3


def test_a_line_that_was_cut_off_is_passed_over(tmp_path: Path) -> None:
    record_opening(str(tmp_path), ["a"], "run 1")
    with (tmp_path / FILE).open("a") as file:
        file.write('{"test_part": "cut\n[1]\n')
    assert record_opening(str(tmp_path), ["a"], "run 2") == 2


def test_many_openings_are_a_reason_for_doubt() -> None:
    assert describe_openings(1) == "opened for the first time in this store"
    assert describe_openings(5) == "opened 5 times in this store"
    assert "no longer judged by it" in describe_openings(6)
