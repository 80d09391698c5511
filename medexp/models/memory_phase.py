"""What a run is doing on the card: in words for people, and as the phase of its memory plan for
what goes on from there.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from medexp.errors import VramCeilingError
from medexp.models import memory_guard as guard
from medexp.models.memory_guard import Meter
from medexp.planning.memory_terms import Phase


@contextmanager
def memory_phase(phase: Phase, doing: str, meter: Meter) -> Iterator[None]:
    """Everything inside belongs to `phase`, save what an inner one says otherwise; `doing` says it
    in words.

    Raises: VramCeilingError with that phase where memory runs out inside.
    """
    try:
        with guard.ceiling(meter, doing):
            yield
    except VramCeilingError as error:
        error.phase = error.phase or phase.value
        raise
