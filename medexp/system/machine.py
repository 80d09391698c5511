"""What this computer has, read without torch: the CUDA driver is asked through ctypes, in
milliseconds, calibrations are read back.

Refuses to guess: where the driver does not answer there is no card.
"""

import ctypes
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from medexp.system.files import write_json_atomic
from medexp.system.home import expand_home
from medexp.system.known_cards import estimate_tflops, find_most_alike

# of CUdevice_attribute in cuda.h
_ATTRIBUTES = {
    "clock_khz": 13,
    "multiprocessors": 16,
    "memory_clock_khz": 36,
    "memory_bus_bits": 37,
    "capability_major": 75,
    "capability_minor": 76,
}
# The first compute capability that multiplies 8-bit floating point: the RTX 40 series.
FIRST_WITH_FP8 = (8, 9)
# Measured steps of a card that are kept, and what of them is not told apart.
KEPT_STEPS, _OF_ONE_MEASUREMENT = 100, ("measured_bytes", "date")
# in the environment of a process that torchrun has started: how many there are
WORLD_SIZE = "WORLD_SIZE"
# in the environment of a trial: how many run beside each other on this machine
RAM_SHARED_BY = "MEDEXP_RAM_SHARED_BY"


@dataclass(frozen=True)
class Calibration:
    """What `medexp.calibrate` measured on a card: TFLOP/s of a layer's matrix products, GB/s on the
    card and to it from pinned memory, bytes that are free once CUDA's context and kernels are
    there."""

    matmul_tflops: float
    memory_gb_per_s: float
    host_link_gb_per_s: float
    free_bytes: int


@dataclass(frozen=True)
class Gpu:
    """A CUDA device: its name, its whole memory in bytes, its calibration, if there was one, and
    what its driver says of its speed: TFLOP/s and GB/s at the highest clocks (0: not known);
    whether it multiplies 8-bit floating point, and what training steps were measured to take on it
    (`hardware.measured_steps`)."""

    name: str
    total_bytes: int
    has_bfloat16: bool
    calibration: Calibration | None = None
    tflops: float = 0.0
    memory_gb_per_s: float = 0.0
    has_fp8: bool = True
    measured_steps: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Machine:
    """Processor cores this process may use, the operating system, the CUDA devices, host memory in
    bytes (0: not known), whether the processor multiplies in bfloat16 itself (where it does not,
    products take seven times as long as in float32), and how many processes of this command a
    launcher such as torchrun has started."""

    cores: int
    system: str
    gpus: tuple[Gpu, ...]
    ram_bytes: int = 0
    has_bfloat16: bool = True
    launched: int = 1


def cache_dir() -> Path:
    """Where is kept what is costly to make again: MEDEXP_CACHE, else ~/.cache/medexp."""
    return expand_home(os.environ.get("MEDEXP_CACHE") or "~/.cache/medexp").resolve()


def save_calibration(gpu: Gpu, calibration: Calibration) -> Path:
    """Write down the calibration of `gpu`, for every later run on cards of its name; the file."""
    file = _card_file(gpu.name)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomic(file, asdict(calibration), indent=2)
    return file


def save_measured_steps(card: str, steps: Sequence[Mapping[str, Any]]) -> Path:
    """Write down what `steps` took on cards of this name; return the file.

    Of steps that differ in nothing but what they took the last one counts, of all others the last
    KEPT_STEPS are kept.
    """

    def key(step: Mapping[str, Any]) -> str:
        same = {name: value for name, value in step.items() if name not in _OF_ONE_MEASUREMENT}
        return json.dumps(same, sort_keys=True)

    kept: dict[str, Mapping[str, Any]] = {}
    for step in (*read_measured_steps(card), *steps):
        kept.pop(key(step), None)  # the last one counts as the newest
        kept[key(step)] = step
    file = _card_file(card, "-steps")
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomic(file, [*kept.values()][-KEPT_STEPS:], indent=1)
    return file


def read_measured_steps(card: str) -> tuple[Mapping[str, Any], ...]:
    """Return what steps were measured to take on cards of this name, the latest last."""
    try:
        found = json.loads(_card_file(card, "-steps").read_text())
    # There are none yet, or the file is spoilt.
    except (OSError, ValueError):
        return ()
    return tuple(step for step in found if isinstance(step, dict))


def _card_file(card: str, suffix: str = "") -> Path:
    """Return the file of what was measured of cards of this name."""
    letters = "".join(letter if letter.isalnum() else "_" for letter in card)
    return cache_dir() / "calibration" / f"{letters}{suffix}.json"


def _read_calibration(name: str) -> Calibration | None:
    try:
        calibration = Calibration(**json.loads(_card_file(name).read_text()))
        return calibration if all(value > 0 for value in vars(calibration).values()) else None
    # There is none yet, it is of another version of medexp, or it is spoilt.
    except (OSError, ValueError, TypeError):
        return None


def _read_driver() -> ctypes.CDLL | None:
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError:
        return None
    return driver if driver.cuInit(0) == 0 else None


def _read_gpu(driver: ctypes.CDLL, index: int) -> Gpu:
    device, total, name = ctypes.c_int(), ctypes.c_size_t(), ctypes.create_string_buffer(128)
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(total), device)
    attributes = {key: _read_attribute(driver, device, key) for key in _ATTRIBUTES}
    capability = attributes["capability_major"], attributes["capability_minor"]
    called = name.value.decode()
    return Gpu(
        called,
        total.value,
        has_bfloat16=capability[0] >= 8,
        calibration=_read_calibration(called),
        tflops=estimate_tflops(
            capability, attributes["multiprocessors"], attributes["clock_khz"] / 1e6
        ),
        # Bits of a clock's two transfers, in bytes: 10.5 GHz and 384 bits are 1,008 GB/s.
        memory_gb_per_s=2 * attributes["memory_clock_khz"] * attributes["memory_bus_bits"] / 8e6,
        has_fp8=capability >= FIRST_WITH_FP8,
        measured_steps=read_measured_steps(called),
    )


def _read_attribute(driver: ctypes.CDLL, device: ctypes.c_int, key: str) -> int:
    """Return an attribute of `device`; 0 where the driver does not know it."""
    value = ctypes.c_int()
    status = driver.cuDeviceGetAttribute(ctypes.byref(value), _ATTRIBUTES[key], device)
    return value.value if status == 0 else 0


@cache
def read() -> Machine:
    """This machine; a card hidden by CUDA_VISIBLE_DEVICES does not count, as for torch."""
    driver, count = _read_driver(), ctypes.c_int()
    if driver is not None:
        driver.cuDeviceGetCount(ctypes.byref(count))
    gpus = tuple(_read_gpu(driver, index) for index in range(count.value)) if driver else ()
    available = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    here = Machine(
        available,
        platform.platform(),
        gpus,
        psutil.virtual_memory().total,
        multiplies_bfloat16(_read_processor()),
        _read_count(WORLD_SIZE),
    )
    return share_machine(here, int(os.environ.get(RAM_SHARED_BY, "1")))


def _read_count(variable: str) -> int:
    """Return the number in an environment variable; 1 where it holds none."""
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() else 1


def _read_processor() -> str:
    """What the system says of the first processor; "" where it says nothing."""
    try:
        return Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return ""


def multiplies_bfloat16(processor: str) -> bool:
    """Has a processor with this entry in /proc/cpuinfo the instructions for it (AVX-512 or AMX on
    x86, BF16 on Arm)?
    """
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(processor.split())


def share_machine(machine: Machine, count: int) -> Machine:
    """`machine` as one of `count` processes may use it that run side by side, a card each: its part
    of the memory.
    """
    return replace(machine, ram_bytes=machine.ram_bytes // count)


def measure_peak_bytes() -> int:
    """The most host memory that this process has held at once; 0 where the system does not say."""
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # elsewhere in KiB


def find_nearest_preset(machine: Machine) -> str:
    """Return the hardware preset that is most like the first card here (`known_cards`), as it was
    measured, else as its driver describes it; `cpu` without a card."""
    if not machine.gpus:
        return "cpu"
    card = machine.gpus[0]
    measured = card.calibration
    return find_most_alike(
        card.total_bytes,
        card.has_bfloat16,
        measured.matmul_tflops if measured else card.tflops,
        measured.memory_gb_per_s if measured else card.memory_gb_per_s,
    )
