"""Keeps this process under its VRAM ceiling: the allocator refuses more, and an out-of-memory error
says what to do.

Outside the allocator lie the CUDA context and loaded kernels (0.2-0.8 GiB); a preset's ceiling
already leaves room for them.
"""

import gc
import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from medexp.config.schema import Device, Hardware
from medexp.errors import MachineError, VramCeilingError
from medexp.planning.memory_terms import Phase
from medexp.system.units import bytes_of_gib, gib

# times the planned step: what a spill costs is more, what an unmeasured card may be off is less
CRAWLS = 4.0
# A laptop that slept or was unplugged has one or two slow ones among them.
JUDGED_STEPS = 5
# What a card has free when it was not the card that had no room: drivers keep some for themselves.
ROOM_LEFT_BYTES = bytes_of_gib(0.25)


class Meter:
    """Reads the allocator of this process's card; everything is 0 bytes on a CPU."""

    def __init__(self, hardware: Hardware):
        self.on_card = hardware.device is Device.cuda
        self._largest = 0
        self.ceiling_bytes = bytes_of_gib(hardware.vram_ceiling_gib or 0) if self.on_card else 0

    def reserved_bytes(self) -> int:
        """Return what the allocator holds now."""
        reserved: int = _cuda().memory_reserved() if self.on_card else 0
        return reserved

    def peak_bytes(self) -> int:
        """Return the most the allocator has held since the process began."""
        return max(self._largest, self.phase_peak_bytes())

    def restart(self) -> None:
        """Hand back what is cached and begin a new peak; the largest of all peaks is kept. A
        trainer that is done with hangs in a cycle of references, and its optimizer's state with it:
        that goes first."""
        if self.on_card:
            gc.collect()
            self._largest = max(self._largest, self.peak_bytes())
            _cuda().empty_cache()
            _cuda().reset_peak_memory_stats()

    def phase_peak_bytes(self) -> int:
        """Return the most the allocator has held since `restart`."""
        peak: int = _cuda().max_memory_reserved() if self.on_card else 0
        return peak

    def spilled_bytes(self) -> int:
        """Return what the allocator holds beyond everything in use on the card: it then lies in
        host memory, as Windows and WSL allow."""
        if not self.on_card:
            return 0
        free, total = map(int, _cuda().mem_get_info())
        return max(0, self.reserved_bytes() - (total - free))

    def peak_allocated_bytes(self) -> int:
        """Return the most that tensors have taken since `restart`."""
        allocated: int = _cuda().max_memory_allocated() if self.on_card else 0
        return allocated

    def retries(self) -> int:
        """Return how often the allocator had to hand back what it cached to find room under the
        ceiling. The card stands still meanwhile: a run in which this grows with its steps is slower
        than its plan."""
        retries: int = _cuda().memory_stats().get("num_alloc_retries", 0) if self.on_card else 0
        return retries


def release_all() -> None:
    """Hand back what this process holds on its card, where nothing refers to it any more."""
    gc.collect()
    if _cuda().is_available():
        _cuda().empty_cache()


def _cuda() -> Any:
    import torch

    return torch.cuda


def cap_allocator(hardware: Hardware, card: int = 0) -> Meter:
    """Make this `card` the one that the process uses, and cap its allocator at
    `hardware.vram_ceiling_gib` for the rest of the process; must come before any tensor.

    With `hardware.expandable_segments` freed memory is handed back in pages instead of being lost
    in fragments.

    Raises: MachineError if less is free on the card than the ceiling promises.
    """
    meter = Meter(hardware)
    # read by torch when it first touches the card
    if meter.on_card and hardware.expandable_segments:
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    if meter.on_card and card:
        _cuda().set_device(card)
    if meter.on_card and meter.ceiling_bytes:
        free, total = _cuda().mem_get_info()
        refuse_if_busy(free, meter.ceiling_bytes)
        _cuda().set_per_process_memory_fraction(min(1.0, meter.ceiling_bytes / total))
    return meter


def refuse_if_busy(free_bytes: int, ceiling_bytes: int) -> None:
    """Is `ceiling_bytes` free on the card, now that CUDA's own context is there?

    Raises: MachineError saying by how much it is not.
    """
    if free_bytes < ceiling_bytes:
        raise MachineError(
            f"hardware.vram_ceiling_gib is {gib(ceiling_bytes):.2f} and only {gib(free_bytes):.2f}"
            f" GiB are free on the card, {gib(ceiling_bytes - free_bytes):.2f} too few; close what"
            " else uses it, or lower hardware.vram_ceiling_gib"
        )


class SpillGuard:
    """Sees whether the card's memory is really on the card: by what is in use there, and where
    drivers spill, by steps that crawl."""

    def __init__(self, meter: Meter, system: str):
        self._meter = meter
        # WSL's kernel names its maker.
        self._may_spill = any(name in system.lower() for name in ("windows", "microsoft"))
        self._is_first = True
        self._recent: deque[tuple[float, float]] = deque(maxlen=JUDGED_STEPS)

    def check_step(self, step_s: float, planned_step_s: float | None) -> None:
        """Judge by the last JUDGED_STEPS steps of this process, once there are so many; not by its
        first, in which kernels are compiled, also where a run is continued.

        Raises: VramCeilingError if it spills: that is a failure to fit, not slowness.
        """
        if planned_step_s is not None and not self._is_first:
            self._recent.append((step_s, planned_step_s))
        self._is_first = False
        spilled, crawling = self._meter.spilled_bytes(), self._find_crawl()
        if spilled:
            self._refuse(f"{gib(spilled):.2f} GiB of it lie in host memory", planned_step_s)
        if self._meter.on_card and self._may_spill and crawling is not None:
            self._refuse(f"a step takes {crawling[0]:.1f} s", crawling[1])

    def _find_crawl(self) -> tuple[float, float] | None:
        """Return the middle one of the last steps by how it kept to its plan, and what was planned;
        None where that one does not crawl."""
        if len(self._recent) < JUDGED_STEPS:
            return None
        by_pace = sorted(self._recent, key=lambda step: step[0] / step[1])
        took_s, planned_s = by_pace[JUDGED_STEPS // 2]
        return (took_s, planned_s) if took_s > CRAWLS * planned_s else None

    def _refuse(self, seen: str, planned_step_s: float | None) -> NoReturn:
        planned = f", {planned_step_s:.1f} s a step were planned" if planned_step_s else ""
        raise VramCeilingError(
            f"the driver has spilled to host memory ({seen}{planned}): the run does not fit in "
            f"{gib(self._meter.ceiling_bytes):.2f} GiB here; "
            "lower hardware.vram_ceiling_gib, or close what else uses the card"
        )


@contextmanager
def explain_out_of_memory(meter: Meter, phase: str) -> Iterator[None]:
    """Turn an out-of-memory error inside into one sentence. CUDA has one error for a full card and
    for host memory that the system does not pin; what is free on the card tells them apart.

    Raises: VramCeilingError naming the phase, the peak and the ceiling; MachineError where host
        memory is not pinned.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise VramCeilingError(
            f"out of GPU memory while {phase}: {gib(meter.peak_bytes()):.2f} GiB were reserved and"
            f" hardware.vram_ceiling_gib is {gib(meter.ceiling_bytes):.2f}. Offload more layers"
            " (hardware.offload_layers), shorten training.max_seq_tokens, or lower"
            " training.micro_batch and raise training.accumulation",
            phase,
        ) from error
    except torch.AcceleratorError as error:
        if "out of memory" not in str(error):
            raise
        free, _ = _cuda().mem_get_info()
        raise _explain_driver_out_of_memory(meter, phase, free) from error


def _explain_driver_out_of_memory(
    meter: Meter, phase: str, free_bytes: int
) -> VramCeilingError | MachineError:
    """Return the error of memory that the driver, and not torch's allocator, could not give."""
    if free_bytes < ROOM_LEFT_BYTES:
        return VramCeilingError(
            f"the card was full while {phase}: {gib(meter.peak_bytes()):.2f} GiB of it were"
            f" reserved here and {gib(free_bytes):.2f} are free. Close what else uses the card, or"
            f" lower hardware.vram_ceiling_gib, which is {gib(meter.ceiling_bytes):.2f}",
            phase,
        )
    return MachineError(
        f"the system cannot pin more host memory while {phase}, and {gib(free_bytes):.2f} GiB of"
        " the card are free: layers, activations or an embedding on the host need pinned memory."
        " Close other programs, raise `memory` in .wslconfig on WSL, or lower"
        " hardware.host_ram_gib so that the plan leaves less on the host"
    )


@contextmanager
def memory_phase(phase: Phase, doing: str, meter: Meter) -> Iterator[None]:
    """Everything inside belongs to `phase`, save what an inner one says otherwise; `doing` says it
    in words.

    Raises: VramCeilingError with that phase where memory runs out inside.
    """
    try:
        with explain_out_of_memory(meter, doing):
            yield
    except VramCeilingError as error:
        error.phase = error.phase or phase.value
        raise
