import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from itertools import pairwise

import pytest
from helpers.commands import command as run_command

from medexp.config.registration import _build_nearest_hardware
from medexp.config.schema import Dtype
from medexp.system import machine
from medexp.system.known_cards import KNOWN_CARDS, estimate_tflops
from medexp.system.machine import Calibration, Gpu, Machine, find_nearest_preset
from medexp.system.units import GIB


def with_cards(*gib_and_bfloat16: tuple[float, bool]) -> Machine:
    gpus = tuple(
        Gpu(f"card {number}", int(size * GIB), bf16)
        for number, (size, bf16) in enumerate(gib_and_bfloat16)
    )
    return Machine(cores=8, system="by hand", gpus=gpus)


@pytest.mark.parametrize(
    ("cards", "preset"),
    [
        ([], "cpu"),
        ([(4.0, True)], "rtx4050_6gb"),  # smaller than every preset: the smallest
        ([(6141 / 1024, True)], "rtx4050_6gb"),  # what an RTX 4050 reports
        ([(8188 / 1024, True)], "rtx4060_laptop_8gb"),  # what an RTX 4060 reports
        ([(8.0, False)], "rtx4060_laptop_8gb"),  # an RTX 2070: no preset of its size is in float16
        ([(11.49, True)], "rtx4060_laptop_8gb"),
        ([(11.5, True)], "rtx3060_12gb"),
        ([(15.0, False)], "t4_16gb"),  # what a T4 reports
        # an RTX 4080 has bfloat16, which the T4's preset would waste
        ([(15.99, True)], "rtx5060ti_16gb"),
        ([(23.6, True)], "rtx4090_24gb"),
        ([(79.2, True)], "rtx4090_24gb"),
        ([(31.7, False)], "t4_16gb"),  # a V100: every larger preset is in bfloat16
        ([(139.8, True)], "h200_141gb"),
        ([(6.0, True), (139.8, True)], "rtx4050_6gb"),  # the first card counts
    ],
)
def test_the_nearest_preset(cards, preset):
    assert find_nearest_preset(with_cards(*cards)) == preset


@pytest.mark.parametrize(
    ("processor", "has_it"),
    [
        ("flags\t\t: fpu sse2 avx2 fma", False),  # a laptop of most makes, an EPYC before Genoa
        ("flags\t\t: fpu avx512f avx512_bf16", True),
        ("flags\t\t: fpu amx_tile amx_bf16", True),
        ("Features\t: fp asimd i8mm bf16", True),
        ("", False),
    ],
)
def test_a_processor_that_multiplies_in_bfloat16(processor, has_it):
    assert machine.multiplies_bfloat16(processor) is has_it


# name, GiB, compute capability, multiprocessors, highest clock in GHz, GB/s: what drivers report,
# and the preset that has the workload of that memory and the rates nearest to these
UNKNOWN_CARDS = [
    ("RTX 3070 8 GB", 8.0, (8, 6), 46, 1.725, 448, "rtx5060_8gb"),
    ("RTX 3080 10 GB", 10.0, (8, 6), 68, 1.71, 760, "rtx5060_8gb"),
    ("RTX 3070 laptop", 8.0, (8, 6), 40, 1.62, 448, "rtx5060_8gb"),
    ("RTX 4060 desktop", 8.0, (8, 9), 24, 2.46, 272, "rtx4060_laptop_8gb"),
    ("RTX 4060 Ti 8 GB", 8.0, (8, 9), 34, 2.535, 288, "rtx4070_laptop_8gb"),
    ("RTX 3080 Ti 12 GB", 12.0, (8, 6), 80, 1.665, 912, "rtx5070_12gb"),
    ("RTX 4070 Ti 12 GB", 12.0, (8, 9), 60, 2.61, 504, "rtx4070_12gb"),
    ("RTX A2000 12 GB", 12.0, (8, 6), 26, 1.2, 288, "rtx3060_12gb"),
    ("RTX A4000 16 GB", 16.0, (8, 6), 48, 1.56, 448, "rtx5060ti_16gb"),
    ("RTX 4080 16 GB", 16.0, (8, 9), 76, 2.505, 717, "rtx5070ti_16gb"),
    ("RTX 3090 24 GB", 24.0, (8, 6), 82, 1.695, 936, "rtx4090_24gb"),
    ("A100 80 GB", 79.2, (8, 0), 108, 1.41, 2039, "rtx4090_24gb"),
]


@pytest.mark.parametrize("card", UNKNOWN_CARDS, ids=[name for name, *_ in UNKNOWN_CARDS])
def test_an_unknown_card_is_nearest_by_what_it_has(card):
    name, size, capability, multiprocessors, clock_ghz, memory, preset = card
    tflops = estimate_tflops(capability, multiprocessors, clock_ghz)
    gpu = Gpu(name, int(size * GIB), True, tflops=tflops, memory_gb_per_s=memory)
    assert find_nearest_preset(Machine(8, "by hand", (gpu,))) == preset


@pytest.mark.parametrize(
    ("capability", "multiprocessors", "clock_ghz", "published"),
    [
        ((8, 6), 28, 1.777, 25),  # RTX 3060
        ((8, 9), 128, 2.52, 165),  # RTX 4090
        ((12, 0), 170, 2.407, 209),  # RTX 5090
        ((8, 0), 108, 1.41, 312),  # A100
        ((9, 0), 132, 1.83, 989),  # H100
        ((7, 0), 80, 1.53, 125),  # V100
    ],
)
def test_a_card_s_speed_is_told_from_its_multiprocessors(
    capability, multiprocessors, clock_ghz, published
):
    found = estimate_tflops(capability, multiprocessors, clock_ghz)
    assert found == pytest.approx(published, rel=0.02)


def test_a_measured_card_is_nearest_by_what_was_measured():
    said = {"tflops": 29, "memory_gb_per_s": 256}
    slow = Gpu("laptop", 8 * GIB, True, **said)
    fast = replace(slow, calibration=replace(FIGURES, matmul_tflops=41, memory_gb_per_s=370))
    found = [find_nearest_preset(Machine(8, "by hand", (card,))) for card in (slow, fast)]
    assert found == ["rtx4060_laptop_8gb", "rtx5070_laptop_8gb"]


def test_the_slowest_card_of_a_memory_comes_first():
    for one, other in pairwise(KNOWN_CARDS):
        assert one.vram_gib <= other.vram_gib
    for card in KNOWN_CARDS:
        alike = [each for each in KNOWN_CARDS if each.vram_gib == card.vram_gib]
        assert min(alike, key=lambda each: each.tflops) is alike[0]


def test_a_driver_s_card_says_how_fast_it_is():
    for card in machine.read().gpus:
        assert 1 < card.tflops < 1e4
        assert 50 < card.memory_gb_per_s < 2e4


def test_this_machine_has_the_cores_this_process_may_use():
    here = machine.read()
    assert here.cores == len(os.sched_getaffinity(0))
    assert sys.platform in here.system.lower()


def test_this_machine_has_the_cards_its_driver_lists():
    listed = []
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        listed = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split(
            "\n"
        )
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        pytest.skip("the driver hides cards and nvidia-smi does not")
    assert {card.name for card in machine.read().gpus} == set(filter(None, listed))


def test_a_hidden_card_does_not_count():
    ask = "from medexp.system import machine; print(len(machine.read().gpus))"
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    assert (
        subprocess.run(
            [sys.executable, "-c", ask], env=hidden, capture_output=True, text=True, check=True
        ).stdout
        == "0\n"
    )


def test_reading_the_machine_needs_no_torch():
    ask = (
        "import sys; from medexp.system import machine; machine.read(); print('torch' in"
        " sys.modules)"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", ask], capture_output=True, text=True, check=True
        ).stdout
        == "False\n"
    )


FIGURES = Calibration(
    matmul_tflops=24.5, memory_gb_per_s=180, host_link_gb_per_s=11.2, free_bytes=int(5.1 * GIB)
)


def test_a_calibration_is_found_again_by_the_card_s_name(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDEXP_CACHE", str(tmp_path))
    card = Gpu("NVIDIA GeForce RTX 4050 Laptop GPU", 6 * GIB, has_bfloat16=True)
    file = machine.save_calibration(card, FIGURES)
    assert machine._read_calibration(card.name) == FIGURES
    assert machine._read_calibration("another") is None
    for spoilt in (
        '{"free_bytes": null}',
        json.dumps(asdict(FIGURES) | {"free_bytes": "5"}),
        json.dumps(asdict(FIGURES) | {"free_bytes": 0}),
    ):
        file.write_text(spoilt)
        assert machine._read_calibration(card.name) is None
    file.write_text('{"of": "another version"}')
    assert machine._read_calibration(card.name) is None


def test_measured_steps_are_kept_by_the_card_s_name_the_last_of_each(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDEXP_CACHE", str(tmp_path))
    assert machine.read_measured_steps("a card") == ()
    step = {"kind": "llama", "tokens": 1, "measured_bytes": 5, "date": "2026-12-01"}
    machine.save_measured_steps("a card", [step, {**step, "tokens": 2}])
    again = {**step, "measured_bytes": 6, "date": "2026-12-02"}
    file = machine.save_measured_steps("a card", [again])
    assert machine.read_measured_steps("a card") == ({**step, "tokens": 2}, again)
    assert machine.read_measured_steps("another") == ()
    many = [{**step, "tokens": 10 + count} for count in range(machine.KEPT_STEPS)]
    machine.save_measured_steps("a card", many)
    assert machine.read_measured_steps("a card") == tuple(many)
    for spoilt in ("[1]", "{}", "no JSON"):
        file.write_text(spoilt)
        assert machine.read_measured_steps("a card") == ()


def test_auto_takes_the_figures_and_leaves_room_for_what_the_context_took():
    card = Gpu("NVIDIA GeForce RTX 4050 Laptop GPU", 6 * GIB, True, FIGURES)
    node = _build_nearest_hardware(Machine(8, "by hand", (card,)))
    assert node["defaults"] == ["rtx4050_6gb", "_self_"]
    assert node["hardware"] == {
        "matmul_tflops": 24.5,
        "memory_gb_per_s": 180,
        "host_link_gb_per_s": 11.2,
    }


def test_auto_computes_in_a_format_that_the_card_has(resolved, monkeypatch):
    here = Machine(
        8, "by hand", (Gpu("NVIDIA GeForce RTX 2080 Ti", 11 * GIB, has_bfloat16=False),), 64 * GIB
    )
    monkeypatch.setattr(machine, "read", lambda: here)
    assert resolved("hardware=auto", on=here).hardware.dtype is Dtype.float16
    assert _build_nearest_hardware(here)["defaults"] == ["rtx4060_laptop_8gb", "_self_"]


def test_auto_counts_on_the_memory_that_this_machine_has(resolved, monkeypatch):
    here = Machine(8, "by hand", (Gpu("card", 6 * GIB, True),), 64 * GIB)
    monkeypatch.setattr(machine, "read", lambda: here)
    assert resolved("hardware=auto", on=here).hardware.host_ram_gib == 64


@pytest.mark.parametrize(("free_gib", "ceiling"), [(5.1, 5.1), (5.9, 5.25)])
def test_the_ceiling_of_auto_is_what_was_seen_free(resolved, free_gib, ceiling):
    card = Gpu("card", 6 * GIB, True, replace(FIGURES, free_bytes=int(free_gib * GIB)))
    run = resolved(
        "hardware=rtx4050_6gb",
        "hardware.vram_ceiling_gib=null",
        on=Machine(8, "by hand", (card,), 12 * GIB),
    )
    assert run.hardware.vram_ceiling_gib == pytest.approx(ceiling)
    assert run.hardware.host_ram_gib == 12


def test_calibrating_needs_a_card(tmp_path):
    status, output = run_command("-m", "medexp.calibrate", "hardware=cpu", cwd=tmp_path)
    assert status == 2
    assert "measures a CUDA card and this machine has none" in output
