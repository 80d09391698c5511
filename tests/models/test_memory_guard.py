"""A card with less free than its ceiling promises is refused; on a CPU nothing is metered."""

import gc
import weakref

import pytest

from medexp.errors import MachineError, VramCeilingError
from medexp.models import memory_guard
from medexp.system.units import bytes_of_gib


def test_a_busy_card_is_refused_by_how_much():
    with pytest.raises(
        MachineError, match=r"is 5\.25 and only 5\.00 GiB are free on the card, 0\.25 too few"
    ):
        memory_guard.refuse_if_busy(bytes_of_gib(5), bytes_of_gib(5.25))


def test_a_free_card_is_not():
    memory_guard.refuse_if_busy(bytes_of_gib(5.25), bytes_of_gib(5.25))


class Driver:
    """torch.cuda as far as a meter reads it."""

    def __init__(self, reserved: int, free: int, total: int):
        self.memory_reserved, self.mem_get_info = lambda: reserved, lambda: (free, total)
        self.memory_stats = lambda: {"num_alloc_retries": 3}
        self.max_memory_reserved, self.reset_peak_memory_stats = lambda: reserved, lambda: None
        self.empty_cache = lambda: None


@pytest.fixture
def metered(resolved, monkeypatch):
    """metered(reserved, free, total in GiB): a meter of a 6 GB card whose driver says so."""

    def made(*gibs):
        monkeypatch.setattr(memory_guard, "_cuda", lambda: Driver(*map(bytes_of_gib, gibs)))
        return memory_guard.Meter(resolved("hardware=rtx4050_6gb").hardware)

    return made


LINUX, WSL = "Linux-6.8.0-x86_64", "Linux-5.15.167.4-microsoft-standard-WSL2-x86_64"


def test_more_reserved_than_the_card_has_in_use_lies_elsewhere(metered):
    meter = metered(5.2, 1.5, 6)
    assert meter.spilled_bytes() == pytest.approx(bytes_of_gib(0.7), abs=4)
    with pytest.raises(
        VramCeilingError, match=r"\(0\.70 GiB of it lie in host memory\).*does not fit in 5\.25 GiB"
    ):
        memory_guard.SpillGuard(meter, LINUX).check_step(40.0, None)


def run_out(meter, said):
    import torch

    with memory_guard.explain_out_of_memory(meter, "loading the model"):
        raise torch.AcceleratorError(said)


def test_host_memory_that_is_not_pinned_is_no_full_card(metered):
    with pytest.raises(MachineError, match=r"cannot pin more host memory .* 2\.00 GiB of the card"):
        run_out(metered(3.2, 2.0, 6), "CUDA error: out of memory")


def test_a_card_that_others_have_filled_is_said_to_be_full(metered):
    with pytest.raises(VramCeilingError, match=r"the card was full .* 3\.20 GiB .* 0\.10 are free"):
        run_out(metered(3.2, 0.1, 6), "CUDA error: out of memory")


def test_another_fault_of_the_card_stays_what_it_is(metered):
    import torch

    with pytest.raises(torch.AcceleratorError, match="illegal memory access"):
        run_out(metered(3.2, 0.1, 6), "CUDA error: an illegal memory access was encountered")


def take(meter, system, *steps_s, planned_s=40.0):
    """The steps of one process."""
    spill = memory_guard.SpillGuard(meter, system)
    for each in steps_s:
        spill.check_step(each, planned_s)


def test_steps_that_crawl_are_a_spill_where_drivers_spill(metered):
    meter, crawling = metered(5.2, 0.3, 6), [40.0] + 5 * [200.0]
    with pytest.raises(
        VramCeilingError, match=r"a step takes 200\.0 s, 40\.0 s a step were planned"
    ):
        take(meter, WSL, *crawling)
    take(meter, LINUX, *crawling)
    take(meter, WSL, *[120.0] * 20)
    take(meter, WSL, *crawling, planned_s=None)


def test_a_process_s_first_step_and_a_slow_one_among_others_are_no_spill(metered):
    meter = metered(5.2, 0.3, 6)
    take(meter, WSL, 900.0)  # compiles, also where the run is continued
    # It slept, and was unplugged for a while.
    take(meter, WSL, 900.0, 40.0, 7200.0, 41.0, 300.0, 40.0, *[40.0] * 5)
    with pytest.raises(VramCeilingError):
        take(meter, WSL, 900.0, 40.0, 41.0, *[300.0] * 4)
    take(meter, WSL, 900.0, *[300.0] * 4)  # too few to tell


def test_a_cpu_has_no_meter(resolved, no_card):
    meter = memory_guard.cap_allocator(resolved(on=no_card).hardware)
    assert (meter.on_card, meter.ceiling_bytes, meter.reserved_bytes(), meter.peak_bytes()) == (
        False,
        0,
        0,
        0,
    )
    assert meter.retries() == 0


def test_how_often_room_had_to_be_found_is_counted(metered):
    assert metered(5.2, 0.3, 6).retries() == 3


def test_what_hangs_in_a_cycle_is_gone_before_a_new_peak_begins(metered, monkeypatch):
    class Trainer:
        pass

    done_with = Trainer()
    done_with.itself, left, seen = done_with, weakref.ref(done_with), []
    meter, driver = metered(5.2, 0.3, 6), Driver(0, 0, 0)
    driver.empty_cache = lambda: seen.append(left() is None)
    monkeypatch.setattr(memory_guard, "_cuda", lambda: driver)
    gc.disable()
    try:
        del done_with
        meter.restart()
    finally:
        gc.enable()
    assert seen == [True]
