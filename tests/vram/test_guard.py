"""A card that has less free than its ceiling promises is refused, and on a CPU nothing is metered."""

import pytest

from medexp.errors import MachineError
from medexp.units import bytes_of_gib
from medexp.vram import guard


def test_a_busy_card_is_refused_by_how_much():
    with pytest.raises(MachineError, match=r"is 5\.25 and only 5\.00 GiB are free on the card, 0\.25 too few"):
        guard.refuse_if_busy(bytes_of_gib(5), bytes_of_gib(5.25))


def test_a_free_card_is_not():
    guard.refuse_if_busy(bytes_of_gib(5.25), bytes_of_gib(5.25))


def test_a_cpu_has_no_meter(resolved, no_card):
    meter = guard.cap(resolved(on=no_card).hardware)
    assert (meter.on_card, meter.ceiling_bytes, meter.reserved_bytes(), meter.peak_bytes()) == (False, 0, 0, 0)
