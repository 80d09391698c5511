"""What Hydra and OmegaConf say about a mistyped command line, as one sentence that names the
nearest thing that exists.
"""

import re
import shlex
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    OmegaConfBaseException,
    ValidationError,
)

from medexp.config.fields import config_fields
from medexp.config.other_names import translate_name
from medexp.errors import closest, first_line, listing, nearest, suggestion

_OWN = {
    "model": "; weights of your own: model=local model.path=FOLDER; of the Hub: model=hub"
    " model.hub_id=OWNER/NAME",
    "dataset": "; cases of your own: dataset=local dataset.path=FILE",
}
_AS_IN = {list: "[A,B]", dict: "{A: B}"}


def list_keys(schema: type) -> Iterator[tuple[str, Any]]:
    """Every dotted key of a schema dataclass with its type, groups included."""
    for name, kind in get_type_hints(schema).items():
        if name in {key.name for key in config_fields(schema)}:
            yield name, kind
            if is_dataclass(kind) and isinstance(kind, type):
                yield from (
                    (f"{name}.{inner}", inner_kind) for inner, inner_kind in list_keys(kind)
                )


def explain_hydra_error(error: Exception, schema: type) -> str | None:
    """`error` in one sentence, None if it is not about what the user wrote."""
    if (
        isinstance(error, MissingConfigException)
        and error.options is not None
        and error.missing_cfg_file
    ):
        return _explain_missing_option(str(error.missing_cfg_file), error.options)
    if str(error).startswith("Only one of --run, --multirun"):
        return "-m, --cfg, --info and --shell-completion do not go together; give one of them"
    if again := re.match(r"Multiple values for ([\w/]+)\.", str(error)):
        return f"{again[1]} is there already; write {again[1]}=OPTION, once and without a +"
    if str(error).startswith("Config group override must be"):  # Hydra's own, a bare ValueError
        return (
            f"{first_line(error)}: a group is set to the name of one of its options, as in"
            " hardware=cpu"
        )
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override!r} cannot be read: {first_line(error)}. Write key=value, quoted where"
            " it has spaces or commas"
        )
    return (
        _explain_key(error, schema)
        if isinstance(error, HydraException | OmegaConfBaseException)
        else None
    )


def _explain_missing_option(file: str, options: Sequence[str]) -> str:
    """That a group has no such option, and for weights and cases of one's own where these are
    named.
    """
    group, _, option = (
        file.partition("/") if file.partition("/")[0] in _OWN else file.rpartition("/")
    )
    own = _OWN.get(group, "").format(option) if option else ""
    return (
        f"{group}={option} does not exist; there are"
        f" {listing(options)}{nearest(option, options)}{own}"
    )


def explain_before_run(error: Exception) -> str | None:
    """Return `error`, raised by Hydra before the command itself began, in one sentence: flags, its
    own settings or a file of the config are wrong.

    None if medexp had begun, as a sweep has before its trials.
    """
    # Without the caller's frame, which is medexp's own at any time.
    frames = traceback.extract_tb(error.__traceback__)[1:]
    own = Path(__file__).parents[1]
    if any(Path(frame.filename).is_relative_to(own) for frame in frames):
        return None
    # a bare assertion
    at = f" at {frames[-1].line} in {frames[-1].name}" if frames and not str(error) else ""
    return (
        f"Hydra cannot begin with this command line: {first_line(error)}{at}; HYDRA_FULL_ERROR=1"
        " shows more"
    )


def _explain_key(error: Exception, schema: type) -> str:
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if (
        isinstance(cause, OmegaConfBaseException)
        and "does not support deletion" in str(cause)
        and cause.full_key
    ):
        return (
            f"{cause.full_key} cannot be taken away; leave the ~ out and set it:"
            f" {cause.full_key}=VALUE"
        )
    if isinstance(cause, ValidationError):
        return explain_wrong_type(cause, schema)
    if asked := re.search(r"Could not (?:override|append to config)[^']*'([^'=]+)", str(error)):
        return explain_unknown_key(asked[1], schema)
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.full_key:
        return explain_unknown_key(cause.full_key, schema)
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        return f"{cause.full_key}: {first_line(cause)}"
    return first_line(error)


def explain_unknown_key(key: str, schema: type) -> str:
    """That `key` does not exist, what there is, and what was probably meant."""
    known = dict(list_keys(schema))
    if (meant := translate_name(key, None, known)) is not None:
        return f"{key} does not exist; {meant}"
    if (guess := closest(key, known)) is None:
        inner = {name.rpartition(".")[2]: name for name in known}
        last = closest(key.rpartition(".")[2], inner)
        guess = inner[last] if last is not None else None
    parent = key.rpartition(".")[0]
    inside = [
        name.rpartition(".")[2]
        for name in known
        if name.rpartition(".")[0] == (parent if parent in known else "")
    ]
    where = parent if parent in known else "the run"
    return f"{key} does not exist; {where} has {listing(inside)}{suggestion(guess)}"


def explain_wrong_type(cause: ValidationError, schema: type) -> str:
    """Which key has a value of another type than it takes, and what it takes."""
    key = cause.full_key or "a value"
    kinds = list_types(dict(list_keys(schema)).get(key))
    enums = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Enum)]
    if enums:
        allowed = [member.name for kind in enums for member in kind]
        given = re.search(r"Invalid value '([^']*)'", str(cause))
        return (
            f"{key}={given[1] if given else '?'} is not allowed; allowed are {listing(allowed)}"
            + (nearest(given[1], allowed) if given else "")
        )
    wanted = " or ".join("null" if kind is type(None) else _name(kind) for kind in kinds)
    example = next(
        (
            shlex.quote(f"{key}={_AS_IN[each]}")
            for kind in kinds
            if (each := get_origin(kind)) in _AS_IN
        ),
        "",
    )
    return (
        f"{key}: {first_line(cause)}; allowed is"
        f" {wanted or 'another type'}{', as in ' + example if example else ''}"
    )


def list_types(kind: Any) -> tuple[Any, ...]:
    """The types that a value may have whose annotation is `kind`."""
    return get_args(kind) if isinstance(kind, UnionType) else (() if kind is None else (kind,))


def _name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind)
