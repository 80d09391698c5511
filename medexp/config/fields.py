"""What every config group is: a dataclass whose numbers have ranges, checked when a composed config
becomes an object.
"""

from dataclasses import Field, FrozenInstanceError, dataclass, field, fields
from math import isfinite
from typing import Any, ClassVar, get_origin

from omegaconf import MISSING

from medexp.errors import ConfigError

LARGEST = 2**63 - 1  # of a whole number: what 64 bits hold


class SetOnce:
    """A dataclass whose fields are set when it is made and never again.

    `dataclass(frozen=True)` would say the same, and OmegaConf would then let no preset and no
    override change the composed config either.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if name in self.__dict__:
            raise FrozenInstanceError(
                f"{type(self).__name__}.{name} is not set twice; make another by"
                " dataclasses.replace or medexp.config.changes.change_values"
            )
        super().__setattr__(name, value)


def config_fields(schema: Any) -> list["Field[Any]"]:
    """Return the fields of dataclass `schema` that are keys of a composed config."""
    return [key for key in fields(schema) if not key.metadata.get("omegaconf_ignore")]


def number(
    low: float | None = None, high: float | None = None, *, above: float | None = None
) -> Any:
    """A field that must lie in [low, high], or above `above`; None is allowed where the type is
    optional.
    """
    return field(default=MISSING, metadata={"low": low, "high": high, "above": above})


def describe_range(limits: dict[str, float | None]) -> str:
    """Return the range of a field's metadata in words: "at least 1 and at most 1024"."""
    low, high, above = limits["low"], limits["high"], limits["above"]
    floor = (
        f"above {above:g}" if above is not None else f"at least {low:g}" if low is not None else ""
    )
    ceiling = f"at most {high:g}" if high is not None else ""
    return " and ".join(part for part in (floor, ceiling) if part)


def _format_number(value: float) -> str:
    """The number as it was given; one that no 64 bits hold only by its size."""
    return (
        str(value)
        if abs(value) <= LARGEST or not isinstance(value, int)
        else f"{'-' * (value < 0)}(more than 2^63)"
    )


def _is_outside(value: float, limits: dict[str, float | None]) -> bool:
    low, high, above = limits["low"], limits["high"], limits["above"]
    inside = (
        (low is None or value >= low)
        and (high is None or value <= high)
        and (above is None or value > above)
    )
    # Python's integers know no end, but what computes with them does.
    return not (inside and (abs(value) <= LARGEST if isinstance(value, int) else isfinite(value)))


@dataclass
class Group(SetOnce):
    """A config group. Raises ConfigError from `__post_init__` with every field that is outside its
    range.
    """

    # Where this is part of a group: its name there, and a dot.
    inside: ClassVar[str] = ""

    def __post_init__(self) -> None:
        problems = [
            f"{self.inside}{key.name}={_format_number(value)} is out of range: allowed is"
            f" {describe_range(dict(key.metadata))}"
            for key in fields(self)
            if "low" in key.metadata
            and isinstance(value := getattr(self, key.name), int | float)
            and _is_outside(value, dict(key.metadata))
        ]
        # OmegaConf does not check what ${another.key} puts in the place of a list or a mapping.
        problems += [
            f"{self.inside}{key.name}={value} is not allowed: allowed is a {kind.__name__}"
            for key in fields(self)
            if (kind := get_origin(key.type)) in (list, dict)
            and (value := getattr(self, key.name)) != MISSING
            and not isinstance(value, kind)
        ]
        if problems:
            raise ConfigError(problems)
