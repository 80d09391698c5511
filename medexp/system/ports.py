"""Ports of 127.0.0.1 for the pages that a command serves."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from medexp.errors import MachineError

# A browser keeps what it was told about a page by its port.
USUAL_PORT = 5000


@contextmanager
def listen_on_port(port: int | None, key: str) -> Iterator[socket.socket]:
    """Yield a socket bound to `port` of 127.0.0.1, which option `key` names; None is a free port.

    Raises: MachineError if it cannot be had.
    """
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port or 0))
        except OSError as error:
            raise MachineError(
                f"{key}={port} cannot be listened on ({error.strerror}); set another, or {key}=null"
            ) from error
        yield listener


def find_free_port() -> int:
    """Return a port of 127.0.0.1 that no program listens on."""
    with listen_on_port(None, "ui.port") as listener:
        return int(listener.getsockname()[1])


def choose_usual_port() -> int:
    """Return USUAL_PORT where it is free, so that a browser remembers columns and closed panels;
    else any port that is free.
    """
    try:
        refuse_taken_port(USUAL_PORT)
    except MachineError:
        return find_free_port()
    return USUAL_PORT


def refuse_taken_port(port: int) -> None:
    """Raise MachineError if another program listens on `port`."""
    with listen_on_port(port, "ui.port"):
        pass
