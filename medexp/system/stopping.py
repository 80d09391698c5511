"""Ctrl-C and SIGTERM: they end what is under way, or are noted where that is to be finished first.

The second of a kind ends it at once. A SIGTERM right after another is that one again: Linux sends
one for every thread of a parent that dies (PR_SET_PDEATHSIG).
"""

import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

SAME_AGAIN_S = 2.0
_NUMBERS = (signal.SIGINT, signal.SIGTERM)
_heard_at: dict[int, float] = {}


class Terminated(SystemExit):
    """SIGTERM, as KeyboardInterrupt is Ctrl-C: no Exception, which libraries catch to go on."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)

    def __str__(self) -> str:
        return "stopped by SIGTERM"


class StopRequest:
    """Has somebody asked for the end? `by` is the number of the signal that did."""

    def __init__(self) -> None:
        self.by: int | None = None


def end_on_sigterm() -> None:
    """From here on SIGTERM raises Terminated in the main thread."""
    if _in_main_thread():
        signal.signal(signal.SIGTERM, _raise_terminated)


def hear_ctrl_c() -> None:
    """Have SIGINT raise KeyboardInterrupt, also where the parent ignores it (a shell's `&`)."""
    if _in_main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


def is_same_again(number: int) -> bool:
    """Is this SIGTERM the one that was just heard? Of a Ctrl-C each is one of its own."""
    now = time.monotonic()
    if number == signal.SIGTERM and now - _heard_at.get(number, -math.inf) < SAME_AGAIN_S:
        return True
    _heard_at[number] = now
    return False


@contextmanager
def catch_first_signal(what_is_finished: str) -> Iterator[StopRequest]:
    """Note the first signal of a kind, and say `what_is_finished`; the second ends it at once."""
    asked = StopRequest()
    kinds: set[int] = set()

    def note(number: int, _frame: FrameType | None) -> None:
        if is_same_again(number):
            return
        if number in kinds:
            _end(number)
        kinds.add(number)
        asked.by = asked.by or number
        # Not print: the signal may have come in the middle of one.
        with suppress(OSError):
            os.write(2, f"\n{name(number)}: {what_is_finished} (once more ends it now)\n".encode())

    _heard_at.clear()
    with _handle_signals(note):
        yield asked


@contextmanager
def delay_signals() -> Iterator[None]:
    """Hear a signal that comes meanwhile afterwards: for moments that must not be broken off."""
    came: list[int] = []
    try:
        with _handle_signals(lambda number, _: came.append(number)):
            yield
    finally:
        for number in came:
            signal.raise_signal(number)


def name(number: int) -> str:
    """What people call the signal."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


@contextmanager
def _handle_signals(handler: "signal._HANDLER") -> Iterator[None]:
    # Python lets no other thread set a handler of signals.
    if not _in_main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in _NUMBERS}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _raise_terminated(number: int, _frame: FrameType | None) -> None:
    if not is_same_again(number):
        _end(number)


def _end(number: int) -> NoReturn:
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
