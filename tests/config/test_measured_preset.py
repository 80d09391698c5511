"""What medexp.calibrate measured, as a preset that travels."""

import getpass
from dataclasses import replace
from pathlib import Path

import pytest

from medexp.config.measured_preset import build_measured_preset
from medexp.planning import planner
from medexp.system.machine import Calibration, Gpu, Machine
from medexp.system.units import GIB

CARD = Gpu("NVIDIA GeForce RTX 4050 Laptop GPU", 6141 * 2**20, has_bfloat16=True)
FOUND = Calibration(19.3, 171, 11.4, int(5.1 * GIB))


def write(folder: Path, card: Gpu, found: Calibration, dtype: str = "bfloat16") -> str:
    name, text = build_measured_preset(
        card, found, dtype, "deepseek_r1_distill_llama_8b", "2026-11-29", {"torch": "2.11.0+cu130"}
    )
    file = folder / "conf" / "hardware" / f"{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return name


def test_a_measured_card_is_a_preset_on_any_machine(resolved, tmp_path, monkeypatch):
    name = write(tmp_path, CARD, FOUND)
    monkeypatch.chdir(tmp_path)
    here, shipped = resolved(f"hardware={name}"), resolved("hardware=rtx4050_6gb")
    assert name == here.hardware.name == "nvidia_geforce_rtx_4050_laptop_gpu"
    rates = (
        here.hardware.matmul_tflops,
        here.hardware.memory_gb_per_s,
        here.hardware.host_link_gb_per_s,
    )
    assert rates == (19.3, 171, 11.4)
    # what was free, where that is less than the card without context and desktop
    assert (here.hardware.card_vram_gib, here.hardware.vram_ceiling_gib) == (6.0, 5.1)
    assert replace(here, hardware=shipped.hardware) == shipped
    slower, published = planner.choose_plan(here)[0], planner.choose_plan(shipped)[0]
    assert slower.tokens_per_s < published.tokens_per_s


@pytest.mark.parametrize(
    ("card", "dtype", "base"),
    [
        (Gpu("RTX 2080 Ti", 11 * GIB, has_bfloat16=False), "float16", "rtx5060_8gb"),
        (Gpu("NVIDIA RTX A4000", int(15.7 * GIB), has_bfloat16=True), "bfloat16", "rtx5060ti_16gb"),
    ],
)
def test_its_workload_is_that_of_the_nearest_card(
    resolved, tmp_path, monkeypatch, card, dtype, base
):
    found = Calibration(42, 500, 12, card.total_bytes - GIB // 4)
    name = write(tmp_path, replace(card, calibration=found), found, dtype)
    monkeypatch.chdir(tmp_path)
    made, like = resolved(f"hardware={name}"), resolved(f"hardware={base}")
    assert replace(made, hardware=like.hardware) == like
    assert made.hardware.dtype.value == dtype
    assert made.hardware.vram_ceiling_gib == pytest.approx(made.hardware.card_vram_gib - 0.75)
    assert f"\n  - {base}\n" in (tmp_path / "conf/hardware" / f"{name}.yaml").read_text()


def test_what_steps_took_travels_with_it(resolved, tmp_path, monkeypatch):
    step = {"kind": "llama, unsloth, compiled", "micro_batch": 4, "tokens": 8192}
    step |= {"planned_bytes": 10, "measured_bytes": 12, "date": "2026-12-01"}
    step |= {"versions": {"torch": "2.11.0+cu130"}}
    name = write(tmp_path, replace(CARD, measured_steps=(step,)), FOUND)
    monkeypatch.chdir(tmp_path)
    assert resolved(f"hardware={name}").hardware.measured_steps == [step]


def test_it_names_neither_user_nor_place(tmp_path):
    name = write(tmp_path, CARD, FOUND)
    text = (tmp_path / "conf" / "hardware" / f"{name}.yaml").read_text()
    places = [word for word in text.split() if "/" in word]
    assert places == [f"conf/hardware/{name}.yaml"]
    assert str(Path.home()) not in text
    assert getpass.getuser() not in text.split()
    assert "2026-11-29" in text
    assert "torch 2.11.0+cu130" in text
    assert Machine(1, "", (CARD,)).gpus[0].name in text
