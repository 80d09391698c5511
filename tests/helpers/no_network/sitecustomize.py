"""On PYTHONPATH, it refuses this process and its children every address but this machine's, and
writes down who asked for it.

A line of JSON an attempt goes to the file that REACHED_OUT names. Python alone is watched, as
whatever medexp starts is Python.
"""

import ipaddress
import json
import os
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

HERE = {"localhost", "localhost.localdomain", "ip6-localhost", "", "None", socket.gethostname()}


def _is_here(host: object) -> bool:
    name = host.decode() if isinstance(host, bytes) else str(host)
    if name.lower() in HERE or name == str(None):
        return True
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _refused(doing: str, host: object, error: OSError) -> OSError:
    who = [f"{each.filename}:{each.lineno}" for each in traceback.extract_stack()[:-2]][-12:]
    line = {"asked": str(host), "by": doing, "command": sys.argv[:6], "stack": who}
    with Path(os.environ["REACHED_OUT"]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    return error


def _watch_addresses(name: str, of: int) -> None:
    """Have socket.socket's method `name`, whose argument number `of` (or the last one) is an
    address, refuse those elsewhere.
    """
    plain = getattr(socket.socket, name)

    def method(self: socket.socket, *given: Any) -> Any:
        address = given[of] if len(given) > abs(of) or of == 0 else None
        if (
            self.family in (socket.AF_INET, socket.AF_INET6)
            and address is not None
            and not _is_here(address[0])
        ):
            raise _refused(name, address[0], ConnectionRefusedError(111, "no network in this test"))
        return plain(self, *given)

    setattr(socket.socket, name, method)


def _watch_names(name: str) -> None:
    plain = getattr(socket, name)

    def function(host: Any, *given: Any, **named: Any) -> Any:
        asked = host[0] if isinstance(host, tuple) else host
        if not _is_here(asked):
            raise _refused(name, asked, socket.gaierror(-2, "no network in this test"))
        return plain(host, *given, **named)

    setattr(socket, name, function)


if "REACHED_OUT" in os.environ:
    _watch_addresses("connect", 0)
    _watch_addresses("connect_ex", 0)
    _watch_addresses("sendto", -1)
    for each in (
        "getaddrinfo",
        "gethostbyname",
        "gethostbyname_ex",
        "gethostbyaddr",
        "getnameinfo",
    ):
        _watch_names(each)
