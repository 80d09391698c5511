"""Ctrl-C while an answer is generated: it ends at the next token, which leaves the model in order;
a second one ends it at once.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether the user has asked for the end of the answer."""

    def __init__(self) -> None:
        self.is_requested = False


@contextmanager
def intercept_ctrl_c() -> Iterator[StopRequest]:
    """Have Ctrl-C set the request that is yielded; a second one raises KeyboardInterrupt."""
    stop = StopRequest()

    def request_stop(_number: int, _frame: FrameType | None) -> None:
        if stop.is_requested:
            raise KeyboardInterrupt
        stop.is_requested = True

    previous_handler = signal.signal(signal.SIGINT, request_stop)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous_handler)
