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
# ":" is a dict in which the value has begun.
_CLOSING = {"[": "]", "(": ")", "{": "}", ":": "}"}
_DECIMAL = re.compile(r"-?\d+,\d+(e[+-]?\d+)?", re.IGNORECASE)
_THOUSANDS = re.compile(r"\d{1,3}(,\d{3})+")


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
        self.options, self.overrides = self._part_options(words)

    def list_readable_words(self) -> list[str]:
        """Return the words as Hydra reads them.

        Raises: ConfigError with a sentence for each that it cannot.
        """
        readable_words, problems = list[str](), list[str]()
        for place, word in enumerate(self.overrides):
            try:
                readable_words.append(self._make_readable(word, place))
            except ConfigError as error:
                problems += error.problems
                # The words after it are its parts, and would only be refused one by one.
                if isinstance(error, CutByTheShell):
                    break
        if problems:
            raise ConfigError(problems)
        return [*self.options, *readable_words]

    def _part_options(self, words: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return options and overrides, in whatever order they were typed.

        Raises: ConfigError for options that do not exist.
        """
        known, unknown_options = _make_hydra_parser().parse_known_intermixed_args(words)
        if unknown_options:
            raise ConfigError([self._explain_option(option, words) for option in unknown_options])
        self._is_sweep = known.multirun
        overrides = iter(known.overrides)
        options, awaited = list[str](), next(overrides, None)
        for word in words:
            if word == awaited:
                awaited = next(overrides, None)
            elif word != "--":
                options.append(_expand_home(word) if word.startswith("--") else word)
        return options, list(known.overrides)

    def _explain_option(self, option: str, words: Sequence[str]) -> str:
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
                or f"--help lists them{self._suggest(name)}"
            )
        return f"{option} is no option; settings are written key=value, without dashes: {meant}"

    def _suggest(self, name: str) -> str:
        return nearest(name, self.keys)

    def _make_readable(self, word: str, place: int) -> str:
        if any("\ud800" <= character <= "\udfff" for character in word):
            raise ConfigError(
                f"{word!a} holds bytes that are not UTF-8 text; rename the file, or convert the"
                " text"
            )
        if word.startswith("~"):
            if _can_parse(word):
                return word
            raise ConfigError(
                f"{word!r} is no key=value; ~ before a key takes it away, and a path stands after"
                " key="
            )
        if (match := _KEY.fullmatch(word)) is None:
            raise self._explain_no_override(word, place)
        override = Word(*match.groups())
        if _is_of_hydra(override.key):
            override = replace(override, value=_expand_home(override.value))
        # Hydra adds an entry to a dictionary only with ++ before its key.
        elif self._find_dictionary(override.key):
            return f"++{self._spell_for_hydra(replace(override, sign=''), place)}"
        elif override.key not in self.keys and (
            meant := translate_name(override.key, override.value, self.keys)
        ):
            before = self.overrides[place - 1] if place else ""
            cut = (
                f", or {_join_cut_word(before, [word])} if it belongs to what is before it"
                if before.endswith(",")
                else ""
            )
            raise ConfigError(f"{override.key} does not exist; {meant}{cut}")
        elif override.sign == "+" and override.key in self.keys:
            raise ConfigError(
                f"{word}: {override.key} is there already; write"
                f" {_spell_for_shell(replace(override, sign=''))}, without the +"
            )
        return self._spell_for_hydra(override, place)

    def _spell_for_hydra(self, override: Word, place: int) -> str:
        """Return `override` as it is where Hydra reads it as meant, else with quotes or brackets
        that can only mean the same.

        Raises: ConfigError where it can mean nothing, or more than one thing.
        """
        kinds = list_types(self._find_type(override.key))
        parsed = _parse(str(override))
        if parsed is None:
            return self._add_quotes(override, kinds, place)
        value = parsed._value
        if parsed.is_sweep_override() and not self._is_sweep:
            return self._read_comma(override, kinds)
        if (
            getattr(value, "simple_form", False)
            and _is_list(kinds)
            and any(not isinstance(choice, list) for choice in _list_choices(value))
        ):
            one_list = _spell_for_shell(_add_brackets(override))
            lists = ",".join(f"[{part.strip()}]" for part in override.value.split(","))
            several_lists = _spell_for_shell(replace(override, value=lists))
            raise ConfigError(
                f"{override}: with -m a comma parts trials; write {one_list} for one list,"
                f" {several_lists} for several"
            )
        if _is_list(kinds) and isinstance(value, str | QuotedString):
            entry = quote(value.text) if isinstance(value, QuotedString) else override.value
            return str(replace(override, value=f"[{entry}]"))
        # Where text is due, 1e5 and 007 are text: a commit's hash may look like a number.
        if str in kinds and isinstance(value, int | float):
            return str(replace(override, value=quote(override.value.strip())))
        return str(override)

    def _add_quotes(self, override: Word, kinds: tuple[Any, ...], place: int) -> str:
        begins_as_parts = (
            override.value.startswith(("[", "{"))
            or _CALL.match(override.value.partition("(")[0]) is not None
        )
        candidates = (
            [_quote_parts(override.value)]
            if begins_as_parts or self._is_sweep or _is_list(kinds)
            else []
        )
        if _is_list(kinds) and not begins_as_parts:
            candidates = [f"[{candidate}]" for candidate in candidates]
        if str in kinds or not begins_as_parts:
            candidates.append(quote(override.value.strip()))
        for candidate in candidates:
            quoted = str(replace(override, value=candidate))
            if _can_parse(quoted):
                return quoted
        raise self._explain_unreadable(override, place)

    def _read_comma(self, override: Word, kinds: tuple[Any, ...]) -> str:
        """Return `override`, whose comma begins no sweep here, as a list or as text.

        Raises: ConfigError where the key takes neither.
        """
        is_plain = (
            _CALL.match(override.value.partition("(")[0] if "(" in override.value else "") is None
        )
        if is_plain and (
            _is_list(kinds) or (Any in kinds and not override.key.startswith("hardware."))
        ):
            return str(_add_brackets(override))
        if is_plain and str in kinds:
            return str(replace(override, value=quote(override.value.strip())))
        meant = ""
        if float in kinds and _DECIMAL.fullmatch(override.value):
            meant = (
                f"a decimal point is a point: {override.key}={override.value.replace(',', '.')}; "
            )
        elif int in kinds and _THOUSANDS.fullmatch(override.value):
            meant = f"thousands are not parted: {override.key}={override.value.replace(',', '')}; "
        if self._has_sweeps:
            raise ConfigError(
                f"{override}: {override.key} takes one value; {meant}to try each in a sweep: -m"
                f" {_spell_for_shell(override)}"
            )
        raise ConfigError(f"{override}: {override.key} takes one value; {meant}give one")

    def _explain_no_override(self, word: str, place: int) -> ConfigError:
        """Return why `word` is no override, and what it probably meant with those around it."""
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
            parts = [word, *takewhile(lambda following: "=" not in following, after)]
            key, _, value = before[-1].partition("=")
            if _is_list(list_types(self._find_type(key))) and not value.startswith("["):
                whole = shlex.quote(
                    f"{key}=[{','.join(part.strip(',') for part in [value, *parts])}]"
                )
            else:
                whole = _join_cut_word(before[-1], parts)
            return CutByTheShell(
                f"{word!r} is no key=value; if it belongs to what is before it, write {whole}"
            )
        if "=" in word:
            return ConfigError(
                explain_unknown_key(word.partition("=")[0].strip() or word, self._schema)
            )
        return ConfigError(
            f"{word!r} is no key=value{self._suggest(word)}; --help lists what can be set"
        )

    def _explain_unreadable(self, override: Word, place: int) -> ConfigError:
        """Return what is wrong with a list or a dict: the shell has parted it at a space, or it
        is broken as it stands.
        """
        for count in range(1, len(self.overrides) - place):
            value = " ".join([override.value, *self.overrides[place + 1 : place + 1 + count]])
            whole = replace(override, value=value)
            if _can_parse(str(whole)) or _can_parse(
                str(replace(override, value=_quote_parts(value)))
            ):
                return CutByTheShell(
                    f"{override} is a part of a value that the shell has cut at a space; write"
                    f" {_spell_for_shell(whole)}"
                )
        return ConfigError(
            f"{override} cannot be read: a list is written {shlex.quote(f'{override.key}=[A,B]')},"
            f" a dictionary {shlex.quote(f'{override.key}={{A: 1, B: 2}}')}, text"
            f" {shlex.quote(f'{override.key}={quote(override.value)}')}"
        )

    def _find_type(self, key: str) -> Any:
        if (dictionary := self._find_dictionary(key)) and dictionary != key:
            return get_args(self.keys[dictionary])[1]
        return self.keys.get(
            key, str if _is_of_hydra(key) and key.endswith(("dir", "name", "storage")) else None
        )

    def _find_dictionary(self, key: str) -> str | None:
        """Return the key of the dictionary that `key` is, or is in."""
        names = (key, key.rpartition(".")[0])
        return next((name for name in names if get_origin(self.keys.get(name)) is dict), None)


def make_readable(words: Sequence[str], schema: type) -> list[str]:
    """Return `words` of a command whose config is a `schema`, as Hydra's grammar reads them.

    Raises: ConfigError with a sentence for each that cannot be read.
    """
    return CommandLine(words, schema).list_readable_words()


def quote(value: str) -> str:
    """Return `value` in quotes that Hydra and OmegaConf read back letter by letter.

    A quote takes a backslash for Hydra, after doubling those before it (and at the end, where our
    quote follows); so does `${` for OmegaConf, which would take it for a reference.
    """
    value = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    escaped = re.sub(
        r"(\\*)('|\Z)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), value
    )
    return f"'{escaped}'"


def _spell_for_shell(word: Word) -> str:
    """Return `word` as it is typed in a shell."""
    return shlex.quote(str(word))


def _join_cut_word(before: str, parts: Sequence[str]) -> str:
    """Return `before` with `parts` that the shell has cut off, as it is typed in a shell."""
    return shlex.quote(before + ("" if before.endswith("=") else " ") + " ".join(parts))


def _add_brackets(word: Word) -> Word:
    return replace(word, value=f"[{word.value}]")


def _list_choices(value: Any) -> Sequence[Any]:
    return value.list if isinstance(value, ChoiceSweep) else ()


def _is_list(kinds: tuple[Any, ...]) -> bool:
    return any(get_origin(kind) is list for kind in kinds)


def _is_of_hydra(key: str) -> bool:
    return key.startswith(("hydra.", "hydra/"))


def _expand_home(word: str) -> str:
    """Return a value, or an --option=value, with ~/ spelt out: Hydra would make a folder ~."""
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return f"{option}{equals}{expand_home(value)}" if value.startswith("~") else word


def _make_hydra_parser() -> argparse.ArgumentParser:
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message}; --hydra-help explains the options")

    parser.error = refuse  # type: ignore[method-assign]
    return parser


def _parse(word: str) -> Override | None:
    """Return what Hydra reads in `word`; None where it cannot."""
    try:
        return OverridesParser.create().parse_override(word)
    # ValueError: a number of over 4,300 digits, which Python does not convert.
    except (HydraException, ValueError):
        return None


def _can_parse(word: str) -> bool:
    return _parse(word) is not None


def _quote_parts(value: str) -> str:
    """Return `value` with quotes around those parts of its lists, dicts and calls that Hydra would
    not read as text.
    """
    pieces, part, inside = list[str](), "", list[str]()

    def end_part() -> None:
        text = part.strip()
        pieces.append(text if not text or _can_parse(f"x={text}") else quote(text))

    for piece in _PIECE.findall(value):
        opens = (piece in ("[", "{") and not part.strip()) or (
            piece == "(" and _CALL.fullmatch(part.strip()) is not None
        )
        closes = bool(inside) and piece == _CLOSING[inside[-1]]
        names = piece == ":" and inside[-1:] == ["{"]
        if opens or names:
            pieces.append(f"{part.strip()}{piece}")
            inside = [*inside, piece] if opens else [*inside[:-1], ":"]
        elif closes or piece == ",":
            end_part()
            pieces.append(piece)
            if closes:
                inside.pop()
            elif inside[-1:] == [":"]:
                inside[-1] = "{"
        else:
            part += piece
            continue
        part = ""
    end_part()
    return "".join(pieces)
