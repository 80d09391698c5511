"""The nets of benchmarks/torture catch what they are made for, and a seed draws the same lines
again.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.torture.fuzz import LineResult, as_typed
from benchmarks.torture.kills import AttackResult
from benchmarks.torture.lines import Line, draw
from benchmarks.torture.rig import differences, half_files, steady

TRACEBACK = """Traceback (most recent call last):
  File "/home/a/medexp/config/resolve.py", line 7, in _steps
    raise
KeyError: 'x'
"""


@pytest.mark.parametrize(
    ("status", "output", "fault"),
    [
        (0, "done\n", None),
        (2, "medexp: lora.r=0 is out of range\n", None),
        (2, "", "exit code 2 without a word"),
        (1, "medexp: no\n", "exit code 1: medexp: no"),
        (2, TRACEBACK, "KeyError in medexp/config/resolve.py:_steps"),
        (-11, "", "ended by SIGSEGV"),
        (-14, "", "hangs"),
    ],
)
def test_what_the_fuzzer_calls_a_fault(status: int, output: str, fault: str | None) -> None:
    assert LineResult(status, output, 0.1).fault == fault


def test_a_seed_and_a_number_draw_the_same_line_again() -> None:
    drawn = [draw(1, number) for number in range(30)]
    assert drawn == [draw(1, number) for number in range(30)]
    assert drawn != [draw(2, number) for number in range(30)]


def test_a_line_is_printed_as_a_shell_reads_it() -> None:
    line = Line("plan", ["lora.r=${x}", "a\x1bb"], {"cases/c.json": b"[\xff]"}, {"TERM": "x y"})
    made = r"mkdir -p cases; printf %b '[\0377]' > cases/c.json; "
    assert as_typed(line) == made + r"TERM='x y' python -m medexp.plan 'lora.r=${x}' $'a\x1bb'"


def test_half_written_files_are_found(tmp_path: Path) -> None:
    adapter = tmp_path / "outputs" / "adapter"
    adapter.mkdir(parents=True)
    save_file({"a": torch.ones(4)}, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text("{}")
    (tmp_path / "report.html").write_text("<html></html>\n")
    (tmp_path / "answers.jsonl").write_text('{"a": 1}\n{"a"')  # the end of a log may be cut off
    assert half_files(tmp_path) == []
    (adapter / "adapter_config.json").write_text('{"r": ')
    (tmp_path / "report.html").write_text("<html>")
    whole = (adapter / "adapter_model.safetensors").read_bytes()
    (adapter / "adapter_model.safetensors").write_bytes(whole[:-1])
    found = [each.partition(":")[0] for each in half_files(tmp_path)]
    assert found == [
        "outputs/adapter/adapter_config.json",
        "outputs/adapter/adapter_model.safetensors",
        "report.html",
    ]
    (adapter / "adapter_model.safetensors").unlink()
    assert "outputs/adapter: lacks adapter_model.safetensors" in half_files(tmp_path)


def test_a_step_that_is_missing_or_has_two_values_is_a_difference() -> None:
    wanted = steady(
        {("train/loss", 1): {2.0}, ("train/loss", 2): {1.0}, ("speed/step_s", 1): {9.0}}
    )
    assert list(differences({("train/loss", 1): {2.0}, ("train/loss", 2): {1.0}}, wanted)) == []
    assert len(list(differences({("train/loss", 1): {2.0, 2.1}}, wanted))) == 2


def test_a_fault_is_kept_once() -> None:
    found = AttackResult(0)
    for _ in range(2):
        found.claim(False, "no")
    found.claim(True, "yes")
    assert json.dumps(found.faults) == '["no"]'
