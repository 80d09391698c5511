"""Large libraries are imported once and stay: the garbage collector need not look at what they
bring.
"""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def gc_paused_for_import() -> Iterator[None]:
    """Import here what stays until the process ends: nothing is collected meanwhile, and the
    million objects it brings are left out of every later collection (a quick run of the tiny model:
    11.8 s instead of 16.3 s, tests/helpers/commands.py, 2026-11-23)."""
    known, was_on = len(sys.modules), gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
    if len(sys.modules) > known:
        gc.freeze()
