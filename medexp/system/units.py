"""Bytes, GiB, durations, figures: conversions at the edge, for people. Inside, memory is an int in
bytes, time a float in seconds."""

import re

GIB = 2**30
MIB = 2**20
_SECONDS = {"d": 86400, "h": 3600, "min": 60, "s": 1}


def gib(num_bytes: int) -> float:
    """`num_bytes` in GiB."""
    return num_bytes / GIB


def bytes_of_gib(value: float) -> int:
    """`value` GiB in whole bytes, rounded down."""
    return int(value * GIB)


def format_duration(elapsed_s: float) -> str:
    """`elapsed_s` seconds as people say it: 0.4 s, 12 s, 3 min 05 s, 2 h 07 min."""
    if elapsed_s < 9.95:
        return f"{elapsed_s:.1f} s"
    seconds = round(elapsed_s)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def parse_duration(text: str) -> float:
    """Return the seconds of 8h, 90min, 1h30min, 1.5d, 45s or 3600.

    Raises: ValueError for other text.
    """
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    if not re.fullmatch(r"(\d+(\.\d+)?\s*(d|h|min|s)\s*)+", text):
        raise ValueError(
            f"{text!r} is no duration; write it as 8h, 90min, 1h30min or 3600 (seconds)"
        )
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(d|h|min|s)", text)
    return sum(float(count) * _SECONDS[unit] for count, unit in parts)


def format_figure(value: float | None) -> str:
    """`value` in a table: four significant digits, a dash where there is none."""
    return "–" if value is None else f"{value:.4g}"
