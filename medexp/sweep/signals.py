"""Ctrl-C and SIGTERM in a sweep: passed on to its trials instead of ending the process."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from medexp.system.stopping import is_same_again


class SignalHandlers:
    """While open, Ctrl-C and SIGTERM call `on_signal` with their number instead of ending the
    process.
    """

    def __init__(self, on_signal: Callable[[int], None]):
        self._on_signal = on_signal
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> None:
        # Python lets only the main thread set a handler.
        if threading.current_thread() is threading.main_thread():
            self._previous = {
                number: signal.signal(number, self._handle)
                for number in (signal.SIGINT, signal.SIGTERM)
            }

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        # Linux sends SIGTERM once for every thread of a parent that dies.
        if not is_same_again(number):
            self._on_signal(number)
