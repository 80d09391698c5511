"""A configuration with other values: none is changed in place, each stage returns a new one."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from medexp.config.schema import RunConfig


def change_values(config: RunConfig, values: Mapping[str, object]) -> RunConfig:
    """Return `config` with `values` in it, by their dotted names (`lora.r`); it is still known by
    what was asked for.

    Raises: TypeError for a name that does not exist; ConfigError for a value out of its range.
    """
    changed: RunConfig = _change(config, values)
    return changed


def _change(group: Any, values: Mapping[str, object]) -> Any:
    own: dict[str, object] = {}
    inner: dict[str, dict[str, object]] = {}
    for name, value in values.items():
        first, _, rest = name.partition(".")
        if rest:
            inner.setdefault(first, {})[rest] = value
        else:
            own[first] = value
    own |= {name: _change(getattr(group, name), below) for name, below in inner.items()}
    return replace(group, **own)
