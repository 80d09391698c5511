"""What this computer has, read without torch: the CUDA driver is asked through ctypes, in
milliseconds, calibrations are read back.

Refuses to guess: where the driver does not answer there is no card.
"""

import ctypes
import json
import os
import platform
import sys
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import psutil

from medexp.system.files import write_json_atomic
from medexp.system.home import expand_home
from medexp.system.units import GIB

# in the environment of a trial: how many run beside each other on this machine
RAM_SHARED_BY = "MEDEXP_RAM_SHARED_BY"
PRESETS_BY_VRAM = (  # card memory in GiB that a preset needs, largest first
    (135.0, "h200_141gb"),
    (23.0, "rtx4090_24gb"),
    (14.5, "t4_16gb"),
    (11.5, "rtx3060_12gb"),
    (5.5, "rtx4050_6gb"),
)


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
    """A CUDA device: its name, its whole memory in bytes, and its calibration, if there was one."""

    name: str
    total_bytes: int
    has_bfloat16: bool
    calibration: Calibration | None = None


@dataclass(frozen=True)
class Machine:
    """Processor cores this process may use, the operating system, the CUDA devices, host memory in
    bytes (0: not known), and whether the processor multiplies in bfloat16 itself: where it does
    not, products take seven times as long as in float32."""

    cores: int
    system: str
    gpus: tuple[Gpu, ...]
    ram_bytes: int = 0
    has_bfloat16: bool = True


def cache_dir() -> Path:
    """Where is kept what is costly to make again: MEDEXP_CACHE, else ~/.cache/medexp."""
    return expand_home(os.environ.get("MEDEXP_CACHE") or "~/.cache/medexp").resolve()


def save_calibration(gpu: Gpu, calibration: Calibration) -> Path:
    """Write down the calibration of `gpu`, for every later run on cards of its name; the file."""
    file = _calibration_file(gpu.name)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomic(file, asdict(calibration), indent=2)
    return file


def _calibration_file(name: str) -> Path:
    return (
        cache_dir()
        / "calibration"
        / f"{''.join(letter if letter.isalnum() else '_' for letter in name)}.json"
    )


def _read_calibration(name: str) -> Calibration | None:
    try:
        calibration = Calibration(**json.loads(_calibration_file(name).read_text()))
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
    major = ctypes.c_int()
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(total), device)
    # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR is 75.
    driver.cuDeviceGetAttribute(ctypes.byref(major), 75, device)
    called = name.value.decode()
    return Gpu(
        called, total.value, has_bfloat16=major.value >= 8, calibration=_read_calibration(called)
    )


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
    )
    return share_machine(here, int(os.environ.get(RAM_SHARED_BY, "1")))


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
    """The largest hardware preset whose card is no larger than the first card here, and computes in
    a format that it has (t4_16gb is the one in float16); `cpu` without a card."""
    if not machine.gpus:
        return "cpu"
    card = machine.gpus[0]
    for needed_gib, name in PRESETS_BY_VRAM:
        if card.total_bytes >= needed_gib * GIB and card.has_bfloat16 == (name != "t4_16gb"):
            return name
    return "rtx4050_6gb"
