"""TODO: say what this module holds."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from medexp.errors import MachineError

USUAL_PORT = 5000  # a browser keeps what it was told about a page by its port


@contextmanager
def listen_on_port(port: int | None, key: str) -> Iterator[socket.socket]:
    """A socket on `port` of 127.0.0.1, which `key` names, or on a free one.

    Raises: MachineError if it cannot be had.
    """
    with socket.socket() as found:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind(("127.0.0.1", port or 0))
        except OSError as error:
            raise MachineError(
                f"{key}={port} cannot be listened on ({error.strerror}); set another, or {key}=null"
            ) from error
        yield found


def find_free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with listen_on_port(None, "ui.port") as found:
        return int(found.getsockname()[1])


def choose_usual_port() -> int:
    """The same port every time where it is free, so that a browser remembers columns and closed
    panels; else any that is.
    """
    try:
        refuse_taken_port(USUAL_PORT)
    except MachineError:
        return find_free_port()
    return USUAL_PORT


def refuse_taken_port(port: int) -> None:
    with listen_on_port(port, "ui.port"):
        pass
