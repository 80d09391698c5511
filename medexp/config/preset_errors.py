"""What is wrong with a preset in one's own conf/: which file, which line, and what to do.

Hydra says in which config an error came up and not where in its file, and lets what PyYAML and
Python say of a file that is none through as it is. The file is read once more here, for the line.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml
from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    OmegaConfBaseException,
    ValidationError,
)

from medexp.config.fields import config_fields
from medexp.config.hydra_errors import explain_unknown_key, explain_wrong_type, list_keys
from medexp.errors import first_line, listing, nearest

GLOBAL = "# @package _global_"
_PACKAGE = re.compile(r"^\ufeff?\s*#\s*@package\s+(\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Preset:
    """A file of presets: the `folder` that is searched, and the file's place in it."""

    folder: Path
    name: str
    suffix: str = ".yaml"

    def __str__(self) -> str:
        """Return the file as a user would name it."""
        return _shorten_path(self.file)

    @property
    def file(self) -> Path:
        """Return where it lies."""
        return self.folder / f"{self.name}{self.suffix}"

    def is_there(self) -> bool:
        """Return whether the file exists; a name that no file can have does not."""
        try:
            return self.file.is_file()
        except OSError:
            return False

    @property
    def group(self) -> str:
        """Return the config group that it is an option of."""
        return self.name.rpartition("/")[0]

    @cached_property
    def text(self) -> str:
        """Return what it holds, as Hydra would read it."""
        return self.file.read_text(encoding="utf-8")

    @property
    def package(self) -> str | None:
        """Return what its header says: where in the config its settings are put."""
        header = _PACKAGE.search(self.text[:512])
        return header[1] if header else None

    @cached_property
    def root(self) -> yaml.Node | None:
        """Return its YAML with line numbers; None where it is empty."""
        return yaml.compose(self.text.removeprefix("\ufeff"), Loader=yaml.SafeLoader)

    @property
    def top(self) -> list[str]:
        """Return the names at its top, without the defaults list."""
        entries = self.root.value if isinstance(self.root, yaml.MappingNode) else []
        return [str(name.value) for name, _ in entries if name.value != "defaults"]

    def line(self, key: str) -> int | None:
        """Return the line that sets `key` of the config, or the longest last part of it that this
        file has.
        """
        lines = [
            (len(name), line)
            for name, line in _walk_keys(self.root)
            if key == name or key.endswith(f".{name}")
        ]
        return max(lines)[1] if lines else None

    def line_of_default(self, group: str) -> int | None:
        """Return the line in which its defaults list names an option of `group`."""
        entry = re.compile(rf"[\s\[{{\"'/]{re.escape(group)}(@[\w.]+)?[\"']?\s*:")
        lines = enumerate(self.text.splitlines(), 1)
        return next(
            (number for number, line in lines if entry.search(line) and not line.startswith("#")),
            None,
        )

    def at(self, line: int | None) -> str:
        """Return where something is wrong, as the beginning of a sentence."""
        return f"{self}{f', line {line}' if line is not None else ''}: "


def explain_preset(
    error: BaseException, folders: Sequence[Path], words: Sequence[str], schema: type
) -> str | None:
    """Return `error` in one sentence that names the file in one of `folders`; None where no preset
    is to blame.

    `words` is the command line: what it chose, and what it says itself, is not a preset's fault.
    """
    if isinstance(broken := _find_cause(error, yaml.YAMLError), yaml.YAMLError):
        return _explain_broken_yaml(broken)
    chosen = list(_list_chosen(words, folders))
    if isinstance(_find_cause(error, UnicodeDecodeError), UnicodeDecodeError):
        return next(filter(None, map(_explain_encoding, chosen)), None)
    if not isinstance(error, HydraException | OmegaConfBaseException | ValueError):
        return None
    if (
        isinstance(error, MissingConfigException)
        and (other := _find_preset(str(error.missing_cfg_file), folders, ".yml")) is not None
    ):
        return (
            f"{other} ends in .yml, which Hydra does not read; call it"
            f" {other.file.with_suffix('.yaml').name}"
        )
    of_defaults = (_explain_defaults_list(error, preset, words) for preset in chosen)
    if (sentence := next(filter(None, of_defaults), None)) is not None:
        return sentence
    place = re.search(r"(?:In|defaults list in) '([\w/.-]+/[\w.-]+)'", str(error))
    preset = _find_preset(place[1], folders) if place else None
    return None if preset is None else _explain_in_preset(error, preset, folders, schema)


def _find_cause(error: BaseException | None, kind: type[BaseException]) -> BaseException | None:
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error


def _shorten_path(file: Path) -> str:
    return str(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file)


def _find_preset(name: str, folders: Sequence[Path], suffix: str = ".yaml") -> Preset | None:
    presets = (Preset(folder, name, suffix) for folder in folders)
    return next((preset for preset in presets if preset.is_there()), None)


def _list_chosen(words: Sequence[str], folders: Sequence[Path]) -> Iterator[Preset]:
    """Yield the presets that the command line names."""
    for word in words:
        group, _, options = word.lstrip("+").partition("=")
        for option in options.split(","):
            if (
                re.fullmatch(r"[\w./-]+", option)
                and (preset := _find_preset(f"{group}/{option}", folders)) is not None
            ):
                yield preset


def _explain_broken_yaml(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = str(getattr(error, "problem", None) or first_line(error))
    file = _shorten_path(
        Path(mark.name if mark is not None else str(getattr(error, "name", "a preset")))
    )
    where = f"{file}, line {mark.line + 1}" if mark is not None else file
    advice = next(
        (what for part, what in _ADVICE.items() if part in problem), "each line is KEY: VALUE"
    )
    return f"{where}: this is no YAML ({problem}); {advice}"


_ADVICE = {
    "'\\t'": "indent with spaces, not with tabs",
    "mapping values are not allowed": "put a value that holds a colon in quotes",
    "duplicate key": "leave one of the two out",
    "but got ':'": "close the bracket before this line",
    "undefined alias": "put a value that begins with * in quotes",
    "could not determine a constructor": "write a plain value, without !",
    "special characters": "take control characters out of it",
}


def _explain_encoding(preset: Preset) -> str | None:
    data = preset.file.read_bytes()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return f"{preset} is UTF-16; save it as UTF-8 (iconv -f UTF-16 -t UTF-8 FILE > NEW)"
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return (
            preset.at(data[: error.start].count(b"\n") + 1)
            + "it is not UTF-8; save the file as UTF-8"
        )
    return None


def _explain_in_preset(
    error: BaseException, preset: Preset, folders: Sequence[Path], schema: type
) -> str | None:
    """Return the sentence for `error`, which came up while `preset` was composed."""
    if missing := re.search(r"Could not load '([\w/.-]+)'", str(error)):
        return _explain_missing_default(missing[1], preset, folders)
    if "defaults must be a list" in str(error):
        return (
            f"{preset.at(preset.line('defaults'))}defaults is a list, as in defaults: [OPTION,"
            " _self_]"
        )
    if not isinstance(preset.root, yaml.MappingNode):
        held = "a list" if isinstance(preset.root, yaml.SequenceNode) else "a line of text"
        return f"{preset.at(1)}this is {held}; a preset holds lines of KEY: VALUE"
    return _explain_misplaced(preset, schema) or _explain_setting(
        _find_cause(error, OmegaConfBaseException) or error, preset, schema
    )


def _explain_missing_default(name: str, preset: Preset, folders: Sequence[Path]) -> str:
    """Return the sentence for a defaults list of `preset` names an option that is not there."""
    group, _, option = name.rpartition("/")
    known = sorted({file.stem for folder in folders for file in (folder / group).glob("*.yaml")})
    line = next(
        (number for number, text in enumerate(preset.text.splitlines(), 1) if option in text), None
    )
    return (
        f"{preset.at(line)}{name} does not exist; in {group} there are"
        f" {listing(known)}{nearest(option, known)}"
    )


def _explain_setting(cause: BaseException, preset: Preset, schema: type) -> str:
    """Return what OmegaConf has against a key or a value of `preset`."""
    key = str(getattr(cause, "full_key", None) or "")
    where = preset.at(preset.line(key))
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and key:
        if any("." in name and key.endswith(name) for name in preset.top):
            outer, _, inner = key.rpartition(".")
            return (
                f"{where}keys are nested in a file: {outer}: in one line, {inner}: indented in the"
                " next"
            )
        return where + explain_unknown_key(key, schema)
    if isinstance(cause, ValidationError):
        return where + explain_wrong_type(cause, schema) + _advise_quotes(cause)
    return where + first_line(cause)


def _advise_quotes(cause: ValidationError) -> str:
    """Return the advice for on, off, yes and no, which YAML takes for true and false."""
    return (
        "; put on and off in quotes: YAML takes them for true and false"
        if re.search(r"'(True|False)'", str(cause))
        else ""
    )


def _explain_misplaced(preset: Preset, schema: type) -> str | None:
    """Return the sentence for a `preset` whose first line puts its settings where none belong."""
    groups = {key.name for key in config_fields(schema)} | {"hydra"}
    of_group = {
        key.rpartition(".")[2]
        for key, _ in list_keys(schema)
        if key.rpartition(".")[0] == preset.group
    }
    if preset.package == "_global_" and not groups & {*preset.top} and of_group & {*preset.top}:
        return (
            f"{preset.at(1)}leave out the line {GLOBAL}, or nest what is in this file under"
            f" {preset.group}:"
        )
    if (
        not preset.top
        or not groups.issuperset(preset.top)
        or (preset.package == "_global_" and preset.text[0] != "\ufeff")
    ):
        return None
    if preset.package == "_global_":
        return (
            f"{preset.at(1)}a byte order mark stands before {GLOBAL}, and hides it; save the file"
            " as UTF-8 without one"
        )
    if preset.top == [preset.group] and "override /" not in preset.text:
        where = preset.at(preset.line(preset.group))
        return (
            f"{where}all of this file is put under {preset.group} already; leave out this line and"
            " the indentation"
        )
    return _explain_missing_package(preset)


def _explain_missing_package(preset: Preset) -> str:
    package = preset.group.replace("/", ".")
    return (
        f"{preset.at(1)}begin the file with the line {GLOBAL}; without it all of it is put under"
        f" {package}"
    )


_NO_GROUP = re.compile(r"Could not override '([\w/]+)(@[\w.]+)?'|Multiple values for ([\w/]+)")


def _explain_defaults_list(
    error: BaseException, preset: Preset, words: Sequence[str]
) -> str | None:
    """Return the sentence for `error` about a group that the defaults list of `preset` names."""
    refused = _NO_GROUP.search(str(error))
    missing = str(getattr(error, "missing_cfg_file", None) or "").rpartition("/")[0]
    group = next(filter(None, [missing, *(refused.group(1, 3) if refused else ())]), None)
    if group is None or any(word.lstrip("+").startswith(f"{group}=") for word in words):
        return None
    if (line := preset.line_of_default(group)) is None:
        return None
    if refused and refused[2]:
        return _explain_missing_package(preset)
    if refused and refused[3]:
        return (
            f"{preset.at(line)}{group} is chosen already; write override /{group}: OPTION in the"
            " defaults list"
        )
    if missing:
        option = str(getattr(error, "missing_cfg_file", "")).rpartition("/")[2]
        known = getattr(error, "options", None) or []
        return (
            f"{preset.at(line)}{group}={option} does not exist; there are"
            f" {listing(known)}{nearest(option, known)}"
        )
    return f"{preset.at(line)}there is no group {group} to override"


def _walk_keys(node: yaml.Node | None, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Yield every dotted key under `node` with its line."""
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            yield f"{prefix}{name.value}", name.start_mark.line + 1
            yield from _walk_keys(value, f"{prefix}{name.value}.")
