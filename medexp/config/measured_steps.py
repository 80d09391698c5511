"""A training step whose memory was measured, as `hardware.measured_steps` holds it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

NUMBERS = ("micro_batch", "tokens", "planned_bytes", "measured_bytes")


@dataclass(frozen=True)
class MeasuredStep:
    """A step of `kind` (`planning.step_correction.describe_kind`) with so many cases a micro-batch,
    of so many tokens together: the bytes that the formulas said it takes beside what is always
    held, and those it took; when, and with which versions of which libraries."""

    kind: str
    micro_batch: int
    tokens: int
    planned_bytes: int
    measured_bytes: int
    date: str
    versions: Mapping[str, str]


def find_problem(entry: object) -> str | None:
    """Return why `entry` is no measured step, in words; None where it is one."""
    names = [key.name for key in fields(MeasuredStep)]
    if not isinstance(entry, Mapping) or set(entry) != set(names):
        return f"its keys are not {', '.join(names)}"
    numbers = [entry[name] for name in NUMBERS]
    if not all(type(number) is int and number > 0 for number in numbers):
        return f"{', '.join(NUMBERS)} are not whole numbers above 0"
    if not (isinstance(entry["kind"], str) and isinstance(entry["date"], str)):
        return "kind and date are not text"
    versions = entry["versions"]
    if not isinstance(versions, Mapping) or not all(isinstance(v, str) for v in versions.values()):
        return "versions are not text, by library"
    return None
