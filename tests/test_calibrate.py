"""What `medexp.calibrate` says of the memory that it measured, and where it could not."""

import pytest

from medexp import calibrate
from medexp.config.measured_steps import MeasuredStep
from medexp.errors import RunInterrupted, VramCeilingError
from medexp.system import machine
from medexp.system.console import Console

STEPS = [
    MeasuredStep("qwen3, unsloth, compiled", 4, 8192, 2**30, 2**30 + 2**28, "2026-12-01", {}),
    MeasuredStep("qwen3, unsloth, compiled", 1, 2048, 2**28, 2**28, "2026-12-01", {}),
]


@pytest.fixture
def laptop(resolved, tmp_path, monkeypatch, large_card):
    monkeypatch.setenv("MEDEXP_CACHE", str(tmp_path))
    monkeypatch.setattr(machine, "read", lambda: large_card)
    return resolved("hardware=rtx4050_6gb")


def test_steps_are_shown_beside_their_formula_and_kept(laptop, monkeypatch, capsys):
    monkeypatch.setattr(calibrate, "measure_steps", lambda _config, _advance: STEPS)
    calibrate._measure_memory(laptop, Console())
    printed = capsys.readouterr()
    for part in ("qwen3, unsloth, compiled", "8,192 tokens", "1.250", "1.000", "-20.0 %", "+0.0 %"):
        assert part in printed.out
    assert "every later plan here uses it" in printed.err
    kept = machine.read_measured_steps("H200")
    assert [step["tokens"] for step in kept] == [8192, 2048]


def test_what_cannot_be_measured_is_said_and_rates_are_measured_all_the_same(
    laptop, monkeypatch, capsys
):
    def refuse(_config, _advance):
        raise VramCeilingError("out of GPU memory while a step is tried", "a step is tried", None)

    monkeypatch.setattr(calibrate, "measure_steps", refuse)
    calibrate._measure_memory(laptop, Console())
    said = " ".join(capsys.readouterr().err.split())
    assert "what training steps take was not measured: out of GPU memory" in said
    assert machine.read_measured_steps("H200") == ()


def test_ctrl_c_ends_it(laptop, monkeypatch):
    def stop(_config, _advance):
        raise RunInterrupted("stopped by SIGINT", 2)

    monkeypatch.setattr(calibrate, "measure_steps", stop)
    with pytest.raises(RunInterrupted):
        calibrate._measure_memory(laptop, Console())
