"""What Hydra and OmegaConf say about a mistyped command line, as one sentence that names the nearest thing that exists."""

import re
import traceback
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_type_hints

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError

from medexp.errors import closest, first_line, listing, nearest, suggestion


def keys_of(schema: type) -> Iterator[tuple[str, Any]]:
    """Every dotted key of a schema dataclass with its type, groups included."""
    for name, kind in get_type_hints(schema).items():
        if name in {each.name for each in fields(schema)}:
            yield name, kind
            if is_dataclass(kind) and isinstance(kind, type):
                yield from ((f"{name}.{inner}", inner_kind) for inner, inner_kind in keys_of(kind))


def explain(error: Exception, schema: type) -> str | None:
    """`error` in one sentence, None if it is not about what the user wrote."""
    if isinstance(error, MissingConfigException) and error.options is not None and error.missing_cfg_file:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={option} does not exist; there are {listing(error.options)}{nearest(option, error.options)}"
    if str(error).startswith("Config group override must be"):  # Hydra's own, a bare ValueError
        return f"{first_line(error)}: a group is set to the name of one of its options, as in hardware=cpu"
    if isinstance(error, OverrideParseException):
        return f"{error.override!r} cannot be read: {first_line(error)}. Write key=value, quoted where it has spaces or commas"
    return _about_a_key(error, schema) if isinstance(error, HydraException | OmegaConfBaseException) else None


def before_the_run(error: Exception) -> str | None:
    """`error`, raised by Hydra before the command itself began, in one sentence: flags, its own settings or a file of the config
    are wrong. None if medexp had begun, as a sweep has before its trials."""
    frames = traceback.extract_tb(error.__traceback__)[1:]  # without the caller's
    own = Path(__file__).parents[1]
    if any(Path(each.filename).is_relative_to(own) for each in frames):
        return None
    at = f" at {frames[-1].line} in {frames[-1].name}" if frames and not str(error) else ""  # a bare assertion
    return f"Hydra cannot begin with this command line: {first_line(error)}{at}; HYDRA_FULL_ERROR=1 shows more"


def _about_a_key(error: Exception, schema: type) -> str:
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if isinstance(cause, ValidationError):
        return _wrong_type(cause, schema)
    if asked := re.search(r"Could not (?:override|append to config)[^']*'([^'=]+)", str(error)):
        return _unknown(asked[1], schema)
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.full_key:
        return _unknown(cause.full_key, schema)
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        return f"{cause.full_key}: {first_line(cause)}"
    return first_line(error)


def _unknown(key: str, schema: type) -> str:
    known = dict(keys_of(schema))
    if (guess := closest(key, known)) is None:
        inner = {name.rpartition(".")[2]: name for name in known}
        last = closest(key.rpartition(".")[2], inner)
        guess = inner[last] if last is not None else None
    parent = key.rpartition(".")[0]
    inside = [name.rpartition(".")[2] for name in known if name.rpartition(".")[0] == (parent if parent in known else "")]
    where = parent if parent in known else "the run"
    return f"{key} does not exist; {where} has {listing(inside)}{suggestion(guess)}"


def _wrong_type(cause: ValidationError, schema: type) -> str:
    key = cause.full_key or "a value"
    kinds = _kinds(dict(keys_of(schema)).get(key))
    enums = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Enum)]
    if enums:
        allowed = [member.name for kind in enums for member in kind]
        given = re.search(r"Invalid value '([^']*)'", str(cause))
        return f"{key}={given[1] if given else '?'} is not allowed; allowed are {listing(allowed)}" + (
            nearest(given[1], allowed) if given else ""
        )
    wanted = " or ".join("null" if kind is type(None) else _name(kind) for kind in kinds)
    return f"{key}: {first_line(cause)}; allowed is {wanted or 'another type'}"


def _kinds(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if isinstance(kind, UnionType) else (() if kind is None else (kind,))


def _name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind)
