"""A command line in words that Hydra reads: what its grammar dislikes but can only mean one thing
is quoted for it, and what it cannot read is said with what to type, quoted for the shell.

Hydra's grammar takes an unquoted value for text only where it is made of ASCII letters, digits and
a few marks; `=`, `~`, `#`, umlauts and Chinese are none of them, parentheses are a call, and commas
a sweep.
Source: hydra/grammar/OverrideLexer.g4 and OverrideParser.g4 of hydra-core 1.3.
"""

import argparse
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, NoReturn, get_args, get_origin

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, QuotedString
from hydra.errors import HydraException

from medexp.config.hydra_errors import explain_unknown_key, list_keys, list_types
from medexp.config.other_names import translate_name
from medexp.errors import ConfigError, nearest
from medexp.system.home import expand_home

_KEY = re.compile(r"(\+{0,2})([A-Za-z_$][\w$.@/-]*)=(.*)", re.ASCII | re.DOTALL)
_CALL = re.compile(
    r"(bool|choice|extend_list|float|glob|int|interval|json_str|range|shuffle|sort|str|tag)\s*",
    re.ASCII,
)
_PIECE = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\$\{[^}]*\}|.", re.DOTALL)
_CLOSING = {"[": "]", "(": ")", "{": "}", ":": "}"}  # ":" is a dict in which the value has begun
_DECIMAL, _THOUSANDS = (
    re.compile(r"-?\d+,\d+(e[+-]?\d+)?", re.IGNORECASE),
    re.compile(r"\d{1,3}(,\d{3})+"),
)


class CutByTheShell(ConfigError):
    """A value whose other parts are the words that follow."""


@dataclass(frozen=True)
class Word:
    """An override as typed: the pluses before its key, the key, and what stands after the `=`."""

    sign: str
    key: str
    value: str

    def __str__(self) -> str:
        return f"{self.sign}{self.key}={self.value}"


class CommandLine:
    """The words of a command whose config is a `schema`, options (which begin with a dash) before
    overrides (key=value).
    """

    def __init__(self, words: Sequence[str], schema: type):
        self.keys, self._schema = dict(list_keys(schema)), schema
        self._has_sweeps, self._is_sweep = "sweep" in self.keys, False
        self.options, self.overrides = self._parted(words)

    def readable(self) -> list[str]:
        """The words as Hydra reads them.

        Raises: ConfigError with a sentence for each that it cannot.
        """
        read, problems = list[str](), list[str]()
        for place, word in enumerate(self.overrides):
            try:
                read.append(self._readable(word, place))
            except ConfigError as error:
                problems += error.problems
                if isinstance(error, CutByTheShell):  # what follows is a part of it
                    break
        if problems:
            raise ConfigError(problems)
        return [*self.options, *read]

    def _parted(self, words: Sequence[str]) -> tuple[list[str], list[str]]:
        """Options and overrides, whatever order they were typed in.

        Raises: ConfigError for options that there are not.
        """
        known, unknown_options = _options_of_hydra().parse_known_intermixed_args(words)
        if unknown_options:
            raise ConfigError([self._no_option(each, words) for each in unknown_options])
        self._is_sweep = known.multirun
        overrides = iter(known.overrides)
        options, awaited = list[str](), next(overrides, None)
        for word in words:
            if word == awaited:
                awaited = next(overrides, None)
            elif word != "--":
                options.append(_at_home(word) if word.startswith("--") else word)
        return options, list(known.overrides)

    def _no_option(self, option: str, words: Sequence[str]) -> str:
        name, equals, value = option.lstrip("-").partition("=")
        after = words[words.index(option) + 1 :] if not equals else []
        if after and not after[0].startswith("--") and "=" not in after[0]:
            value = after[0]
        if name in self.keys:
            override = f"{name}={value or 'VALUE'}"
            meant = f"write {shlex.quote(override)}"
        else:
            meant = (
                translate_name(name, value or None, self.keys)
                or f"--help lists them{self._guess(name)}"
            )
        return f"{option} is no option; settings are written key=value, without dashes: {meant}"

    def _guess(self, name: str) -> str:
        return nearest(name, self.keys)

    def _readable(self, word: str, place: int) -> str:
        if any("\ud800" <= character <= "\udfff" for character in word):
            raise ConfigError(
                f"{word!a} holds bytes that are not UTF-8 text; rename the file, or convert the"
                " text"
            )
        if word.startswith("~"):
            if _parses(word):
                return word
            raise ConfigError(
                f"{word!r} is no key=value; ~ before a key takes it away, and a path stands after"
                " key="
            )
        if (match := _KEY.fullmatch(word)) is None:
            raise self._no_override(word, place)
        asked = Word(*match.groups())
        if _is_of_hydra(asked.key):
            asked = replace(asked, value=_at_home(asked.value))
        # Hydra adds an entry to a dictionary only where it is told to
        elif self._dictionary(asked.key):
            return f"++{self._as_hydra_reads(replace(asked, sign=''), place)}"
        elif asked.key not in self.keys and (
            meant := translate_name(asked.key, asked.value, self.keys)
        ):
            before = self.overrides[place - 1] if place else ""
            cut = (
                f", or {_whole(before, [word])} if it belongs to what is before it"
                if before.endswith(",")
                else ""
            )
            raise ConfigError(f"{asked.key} does not exist; {meant}{cut}")
        elif asked.sign == "+" and asked.key in self.keys:
            raise ConfigError(
                f"{word}: {asked.key} is there already; write {_typed(replace(asked, sign=''))},"
                " without the +"
            )
        return self._as_hydra_reads(asked, place)

    def _as_hydra_reads(self, asked: Word, place: int) -> str:
        """`asked` as it is where Hydra reads it as meant, else with quotes or brackets that can
        only mean the same.
        """
        kinds = list_types(self._kind(asked.key))
        found = _parsed(str(asked))
        if found is None:
            return self._quoted(asked, kinds, place)
        value = found._value
        if found.is_sweep_override() and not self._is_sweep:
            return self._of_several(asked, kinds)
        if (
            getattr(value, "simple_form", False)
            and _is_list(kinds)
            and any(not isinstance(each, list) for each in _choices(value))
        ):
            raise ConfigError(
                f"{asked}: with -m a comma parts trials; write {_typed(_bracketed(asked))} for one"
                " list,"
                f" {_typed(replace(asked, value=','.join(f'[{each.strip()}]' for each in asked.value.split(','))))}"
                " for several"
            )
        if _is_list(kinds) and isinstance(value, str | QuotedString):
            return str(
                replace(
                    asked,
                    value=(
                        f"[{quote(value.text) if isinstance(value, QuotedString) else asked.value}]"
                    ),
                )
            )
        # 1e5 and 007 are text there, as a commit's hash is
        if str in kinds and isinstance(value, int | float):
            return str(replace(asked, value=quote(asked.value.strip())))
        return str(asked)

    def _quoted(self, asked: Word, kinds: tuple[Any, ...], place: int) -> str:
        begins_as_parts = (
            asked.value.startswith(("[", "{"))
            or _CALL.match(asked.value.partition("(")[0]) is not None
        )
        candidates = (
            [_with_parts_quoted(asked.value)]
            if begins_as_parts or self._is_sweep or _is_list(kinds)
            else []
        )
        if _is_list(kinds) and not begins_as_parts:
            candidates = [f"[{each}]" for each in candidates]
        if str in kinds or not begins_as_parts:
            candidates.append(quote(asked.value.strip()))
        for each in candidates:
            if _parses(str(replace(asked, value=each))):
                return str(replace(asked, value=each))
        raise self._unreadable(asked, place)

    def _of_several(self, asked: Word, kinds: tuple[Any, ...]) -> str:
        """A comma where no sweep was asked for: a list or text where the key takes one.

        Raises: ConfigError where it takes one value.
        """
        is_plain = _CALL.match(asked.value.partition("(")[0] if "(" in asked.value else "") is None
        if is_plain and (
            _is_list(kinds) or (Any in kinds and not asked.key.startswith("hardware."))
        ):
            return str(_bracketed(asked))
        if is_plain and str in kinds:
            return str(replace(asked, value=quote(asked.value.strip())))
        meant = ""
        if float in kinds and _DECIMAL.fullmatch(asked.value):
            meant = f"a decimal point is a point: {asked.key}={asked.value.replace(',', '.')}; "
        elif int in kinds and _THOUSANDS.fullmatch(asked.value):
            meant = f"thousands are not parted: {asked.key}={asked.value.replace(',', '')}; "
        if self._has_sweeps:
            raise ConfigError(
                f"{asked}: {asked.key} takes one value; {meant}to try each in a sweep: -m"
                f" {_typed(asked)}"
            )
        raise ConfigError(f"{asked}: {asked.key} takes one value; {meant}give one")

    def _no_override(self, word: str, place: int) -> ConfigError:
        """Why `word` is none, and what was probably meant with the words around it."""
        before, after = self.overrides[:place], self.overrides[place + 1 :]
        key = word.rstrip(":")
        if key in self.keys and after and after[0].startswith("="):
            whole = shlex.quote(key + "".join(after[: 2 if after[0] == "=" else 1]))
            return CutByTheShell(
                f"{word!r} is no key=value; write {whole}, without spaces around the ="
            )
        if key in self.keys and after and "=" not in after[0]:
            return CutByTheShell(
                f"{word!r} is no key=value; write {shlex.quote(f'{key}={after[0]}')}"
            )
        if key in self.keys or key.partition("/")[0] in ("hydra",):
            return ConfigError(f"{word!r} has no value; write {key}=VALUE")
        if before and "=" in before[-1]:
            parts = [word, *takewhile(lambda each: "=" not in each, after)]
            key, _, value = before[-1].partition("=")
            if _is_list(list_types(self._kind(key))) and not value.startswith("["):
                whole = shlex.quote(
                    f"{key}=[{','.join(each.strip(',') for each in [value, *parts])}]"
                )
            else:
                whole = _whole(before[-1], parts)
            return CutByTheShell(
                f"{word!r} is no key=value; if it belongs to what is before it, write {whole}"
            )
        if "=" in word:
            return ConfigError(
                explain_unknown_key(word.partition("=")[0].strip() or word, self._schema)
            )
        return ConfigError(
            f"{word!r} is no key=value{self._guess(word)}; --help lists what can be set"
        )

    def _unreadable(self, asked: Word, place: int) -> ConfigError:
        """A list or a dict that is broken: by the shell, which parts words at spaces, or as it
        stands.
        """
        for count in range(1, len(self.overrides) - place):
            value = " ".join([asked.value, *self.overrides[place + 1 : place + 1 + count]])
            whole = replace(asked, value=value)
            if _parses(str(whole)) or _parses(str(replace(asked, value=_with_parts_quoted(value)))):
                return CutByTheShell(
                    f"{asked} is a part of a value that the shell has cut at a space; write"
                    f" {_typed(whole)}"
                )
        return ConfigError(
            f"{asked} cannot be read: a list is written {shlex.quote(f'{asked.key}=[A,B]')}, a"
            f" dictionary {shlex.quote(f'{asked.key}={{A: 1, B: 2}}')}, text"
            f" {shlex.quote(f'{asked.key}={quote(asked.value)}')}"
        )

    def _kind(self, key: str) -> Any:
        if (dictionary := self._dictionary(key)) and dictionary != key:
            return get_args(self.keys[dictionary])[1]
        return self.keys.get(
            key, str if _is_of_hydra(key) and key.endswith(("dir", "name", "storage")) else None
        )

    def _dictionary(self, key: str) -> str | None:
        """The key of the dictionary that `key` is, or is in."""
        named = (key, key.rpartition(".")[0])
        return next((each for each in named if get_origin(self.keys.get(each)) is dict), None)


def make_readable(words: Sequence[str], schema: type) -> list[str]:
    """`words` of a command whose config is a `schema`, as Hydra's parser and grammar read them.

    Raises: ConfigError with a sentence for each that cannot be read.
    """
    return CommandLine(words, schema).readable()


def quote(value: str) -> str:
    """`value` in quotes that Hydra and OmegaConf read back letter by letter.

    A quote takes a backslash for Hydra, after doubling those before it (and at the end, where our
    quote follows); so does `${` for OmegaConf, which would take it for a reference.
    """
    value = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    escaped = re.sub(
        r"(\\*)('|\Z)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), value
    )
    return f"'{escaped}'"


def _typed(word: Word) -> str:
    """`word` as it is typed in a shell."""
    return shlex.quote(str(word))


def _whole(before: str, parts: Sequence[str]) -> str:
    """`before` with `parts` that the shell has cut off, as it is typed in a shell."""
    return shlex.quote(before + ("" if before.endswith("=") else " ") + " ".join(parts))


def _bracketed(word: Word) -> Word:
    return replace(word, value=f"[{word.value}]")


def _choices(value: Any) -> Sequence[Any]:
    return value.list if isinstance(value, ChoiceSweep) else ()


def _is_list(kinds: tuple[Any, ...]) -> bool:
    return any(get_origin(each) is list for each in kinds)


def _is_of_hydra(key: str) -> bool:
    return key.startswith(("hydra.", "hydra/"))


def _at_home(word: str) -> str:
    """A value, or an --option=value, whose ~/ Hydra would take for the name of a folder."""
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return f"{option}{equals}{expand_home(value)}" if value.startswith("~") else word


def _options_of_hydra() -> argparse.ArgumentParser:
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message}; --hydra-help explains the options")

    parser.error = refuse  # type: ignore[method-assign]
    return parser


def _parsed(word: str) -> Override | None:
    """What Hydra reads in `word`; None where it cannot."""
    try:
        return OverridesParser.create().parse_override(word)
    except (HydraException, ValueError):  # a number of over 4,300 digits
        return None


def _parses(word: str) -> bool:
    return _parsed(word) is not None


def _with_parts_quoted(value: str) -> str:
    """`value` with quotes around those parts of its lists, dicts and calls that Hydra would not
    read as text.
    """
    written, part, inside = list[str](), "", list[str]()

    def end_part() -> None:
        text = part.strip()
        written.append(text if not text or _parses(f"x={text}") else quote(text))

    for piece in _PIECE.findall(value):
        opens = (piece in ("[", "{") and not part.strip()) or (
            piece == "(" and _CALL.fullmatch(part.strip()) is not None
        )
        closes = bool(inside) and piece == _CLOSING[inside[-1]]
        names = piece == ":" and inside[-1:] == ["{"]
        if opens or names:
            written.append(f"{part.strip()}{piece}")
            inside = [*inside, piece] if opens else [*inside[:-1], ":"]
        elif closes or piece == ",":
            end_part()
            written.append(piece)
            if closes:
                inside.pop()
            elif inside[-1:] == [":"]:
                inside[-1] = "{"
        else:
            part += piece
            continue
        part = ""
    end_part()
    return "".join(written)
