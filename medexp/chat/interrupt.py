"""Ctrl-C while an answer is made: it ends at the next token, with the model in order; a second one
ends it at once.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Has somebody asked for the end of the answer?"""

    def __init__(self) -> None:
        self.is_requested = False


@contextmanager
def intercept_ctrl_c() -> Iterator[StopRequest]:
    """What Ctrl-C inside sets; KeyboardInterrupt at the second."""
    stop = StopRequest()

    def ask_to_stop(_number: int, _frame: FrameType | None) -> None:
        if stop.is_requested:
            raise KeyboardInterrupt
        stop.is_requested = True

    before = signal.signal(signal.SIGINT, ask_to_stop)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
