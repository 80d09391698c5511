"""Terminals that are not UTF-8, and pipes whose reader has gone: nothing ends in a traceback, and
no finished run is lost.
"""

import codecs
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.commands import TinyRuns, command

from medexp.system.console import _replace_unencodable

ROOT = Path(__file__).parents[2]
PLAN = ["-m", "medexp.plan", "hardware=rtx4050_6gb"]
ASCII_LOCALE = {
    "LC_ALL": "C",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONIOENCODING": "",
}


def unread(words: list[str], cwd: Path, with_errors: bool = False) -> tuple[int, str]:
    """Exit status of a command whose standard output (and error) has no reader any more, and what
    is on standard error.
    """
    reader, writer = os.pipe()
    os.close(reader)
    errors = writer if with_errors else subprocess.PIPE
    try:
        done = subprocess.run(
            [sys.executable, *words], cwd=cwd, env=os.environ | {"PYTHONPATH": str(ROOT)},
            text=True, stdout=writer, stderr=errors, timeout=300, check=False,
        )  # fmt: skip
    finally:
        os.close(writer)
    return done.returncode, done.stderr or ""


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["-m", "medexp"], 141),
        ([*PLAN, "--help"], 141),
        ([*PLAN, "plan.format=json"], 141),
        (PLAN, 0),
        (["-m", "medexp.plan", "lora.r=0"], 2),
    ],
    ids=["commands", "help", "json", "plan", "refusal"],
)
def test_a_reader_that_has_gone_is_no_fault(words: list[str], status: int, tmp_path: Path) -> None:
    ended, said = unread(words, tmp_path)
    assert ended == status, said
    assert "Traceback" not in said
    assert "BrokenPipe" not in said
    assert "Error executing job" not in said


@pytest.mark.parametrize(
    "words",
    [["-m", "medexp"], [*PLAN, "--help"], PLAN, [*PLAN, "plan.format=json"]],
    ids=["commands", "help", "plan", "json"],
)
def test_results_that_a_full_disk_does_not_take_are_said_to_be_lost(
    words: list[str], tmp_path: Path
) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, stdout=full,
            env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""},
            stderr=subprocess.PIPE, text=True, timeout=300, check=False,
        )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "standard output" in done.stderr
    assert "free some space" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_log_that_a_full_disk_does_not_take_is_dropped(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, *PLAN], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE, stderr=full, text=True, timeout=300, check=False,
        )  # fmt: skip
    assert done.returncode == 0
    assert "GiB" in done.stdout


def test_a_run_that_nobody_reads_is_finished(tiny_runs: TinyRuns) -> None:
    status, _ = unread(
        ["-m", "medexp.train", *tiny_runs.overrides("evaluation.answers=1")],
        tiny_runs.root,
        with_errors=True,
    )
    assert status == 0
    assert [each.info.status for each in tiny_runs.runs()] == ["FINISHED"]


def test_a_run_in_an_ascii_locale_is_finished_and_keeps_what_it_was_given(
    tiny_runs: TinyRuns, tmp_path: Path
) -> None:
    words = tiny_runs.overrides(
        "evaluation.answers=1", "training.max_steps=2", "training.save_steps=1"
    )
    status, output = command("-m", "medexp.train", *words, cwd=tiny_runs.root, **ASCII_LOCALE)
    assert status == 0, output
    assert output.isascii()
    assert "+ cases: " in output
    (run,) = tiny_runs.runs()
    assert run.info.status == "FINISHED"
    page = next(tiny_runs.root.glob("outputs/*/*/report.html")).read_text(encoding="utf-8")
    assert not page.isascii()  # files are UTF-8 wherever they are written


def test_the_audit_ends_well_on_a_terminal_that_lacks_its_marks(tiny_runs: TinyRuns) -> None:
    encoding = "gbk"
    left_out = ("debug", "evaluation", "tracking.system")
    words = [
        each
        for each in tiny_runs.overrides("dataset.max_cases=24")
        if not each.startswith(left_out)
    ]
    done = subprocess.run(
        [sys.executable, "-m", "medexp.audit", *words], cwd=tiny_runs.root, capture_output=True,
        timeout=300, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding},
    )  # fmt: skip
    output = (done.stdout + done.stderr).decode(encoding)
    assert done.returncode == 0, output
    assert re.search(r"^[+x] ", done.stdout.decode(encoding), re.MULTILINE), output


@pytest.mark.parametrize(
    ("text", "encoding", "shown"),
    [
        ("✓ done · 3 × 4 ≤ 12", "ascii", "+ done . 3 x 4 <= 12"),
        ("Übelkeit, naïve café", "ascii", "Ubelkeit, naive cafe"),
        ("Übelkeit – ✗", "latin-1", "Übelkeit - x"),
        ("胸痛 ✓ é", "gbk", "胸痛 + é"),
        ("胸痛", "ascii", "??"),
        ("a lone \udcff", "utf-8", "a lone ?"),
    ],
)
def test_what_an_encoding_lacks_is_replaced_by_the_nearest(
    text: str, encoding: str, shown: str
) -> None:
    codecs.register_error("medexp.test", _replace_unencodable)
    assert text.encode(encoding, "medexp.test").decode(encoding) == shown
