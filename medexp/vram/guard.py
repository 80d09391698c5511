"""Keeps this process under its VRAM ceiling: the allocator refuses more, and an out-of-memory error says what to do.

Outside the allocator lie the CUDA context and loaded kernels (0.2-0.8 GiB); a preset's ceiling already leaves room for them.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from medexp.config.schema import Device, Hardware
from medexp.errors import MachineError, VramCeilingError
from medexp.units import bytes_of_gib, gib


class Meter:
    """Reads the allocator of the first card; everything is 0 bytes on a CPU."""

    def __init__(self, hardware: Hardware):
        self.on_card = hardware.device is Device.cuda
        self.ceiling_bytes = bytes_of_gib(hardware.vram_ceiling_gib or 0) if self.on_card else 0

    def reserved_bytes(self) -> int:
        """What the allocator holds now."""
        return _cuda().memory_reserved() if self.on_card else 0

    def peak_bytes(self) -> int:
        """The most the allocator has held since the process began."""
        return _cuda().max_memory_reserved() if self.on_card else 0

    def peak_allocated_bytes(self) -> int:
        """The most that tensors have taken since the process began."""
        return _cuda().max_memory_allocated() if self.on_card else 0


def _cuda() -> Any:
    import torch

    return torch.cuda


def cap(hardware: Hardware) -> Meter:
    """Cap the allocator of the first card at `hardware.vram_ceiling_gib` for the rest of the process; must come before any tensor.

    With `hardware.expandable_segments` freed memory is handed back in pages instead of being lost in fragments.

    Raises: MachineError if less is free on the card than the ceiling promises.
    """
    meter = Meter(hardware)
    if meter.on_card and hardware.expandable_segments:  # read by torch when it first touches the card
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
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
            f"hardware.vram_ceiling_gib is {gib(ceiling_bytes):.2f} and only {gib(free_bytes):.2f} GiB are free on the card, "
            f"{gib(ceiling_bytes - free_bytes):.2f} too few; close what else uses it, or lower hardware.vram_ceiling_gib"
        )


@contextmanager
def ceiling(meter: Meter, phase: str) -> Iterator[None]:
    """Turn an out-of-memory error inside into one sentence.

    Raises: VramCeilingError naming the phase, the peak and the ceiling.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise VramCeilingError(
            f"out of GPU memory while {phase}: {gib(meter.peak_bytes()):.2f} GiB were reserved and "
            f"hardware.vram_ceiling_gib is {gib(meter.ceiling_bytes):.2f}. Offload more layers (hardware.offload_layers), "
            "shorten training.max_seq_tokens, or lower training.micro_batch and raise training.accumulation"
        ) from error
