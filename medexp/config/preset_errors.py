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
        """The file as a user would name it."""
        return _shown(self.file)

    @property
    def file(self) -> Path:
        """Where it lies."""
        return self.folder / f"{self.name}{self.suffix}"

    def is_there(self) -> bool:
        """Return whether the file exists; a name that no file can have does not."""
        try:
            return self.file.is_file()
        except OSError:
            return False

    @property
    def group(self) -> str:
        """The config group that it is an option of."""
        return self.name.rpartition("/")[0]

    @cached_property
    def text(self) -> str:
        """What it holds, as Hydra would read it."""
        return self.file.read_text(encoding="utf-8")

    @property
    def package(self) -> str | None:
        """What its header says: where in the config its settings are put."""
        found = _PACKAGE.search(self.text[:512])
        return found[1] if found else None

    @cached_property
    def root(self) -> yaml.Node | None:
        """Its YAML with line numbers; None where it is empty."""
        return yaml.compose(self.text.removeprefix("\ufeff"), Loader=yaml.SafeLoader)

    @property
    def top(self) -> list[str]:
        """The names at its top, without the defaults list."""
        named = self.root.value if isinstance(self.root, yaml.MappingNode) else []
        return [str(name.value) for name, _ in named if name.value != "defaults"]

    def line(self, key: str) -> int | None:
        """The line in which `key` of the config, or the last part of it that stands in this file,
        is set.
        """
        found = [
            (len(name), line)
            for name, line in _keys(self.root)
            if key == name or key.endswith(f".{name}")
        ]
        return max(found)[1] if found else None

    def line_of_default(self, group: str) -> int | None:
        """The line in which its defaults list names an option of `group`."""
        named = re.compile(rf"[\s\[{{\"'/]{re.escape(group)}(@[\w.]+)?[\"']?\s*:")
        lines = enumerate(self.text.splitlines(), 1)
        return next(
            (number for number, line in lines if named.search(line) and not line.startswith("#")),
            None,
        )

    def at(self, line: int | None) -> str:
        """Where something is wrong, as the beginning of a sentence."""
        return f"{self}{f', line {line}' if line is not None else ''}: "


def explain_preset(
    error: BaseException, folders: Sequence[Path], words: Sequence[str], schema: type
) -> str | None:
    """`error` in one sentence that names the file in one of `folders`; None where no preset is to
    blame.

    `words` is the command line: what it chose, and what it says itself, is not a preset's fault.
    """
    if isinstance(broken := _caused(error, yaml.YAMLError), yaml.YAMLError):
        return _no_yaml(broken)
    chosen = list(_chosen(words, folders))
    if isinstance(_caused(error, UnicodeDecodeError), UnicodeDecodeError):
        return next(filter(None, map(_no_utf8, chosen)), None)
    if not isinstance(error, HydraException | OmegaConfBaseException | ValueError):
        return None
    if (
        isinstance(error, MissingConfigException)
        and (other := _find(str(error.missing_cfg_file), folders, ".yml")) is not None
    ):
        return (
            f"{other} ends in .yml, which Hydra does not read; call it"
            f" {other.file.with_suffix('.yaml').name}"
        )
    if said := next(filter(None, (_in_defaults(error, preset, words) for preset in chosen)), None):
        return said
    named = re.search(r"(?:In|defaults list in) '([\w/.-]+/[\w.-]+)'", str(error))
    preset = _find(named[1], folders) if named else None
    return None if preset is None else _in_preset(error, preset, folders, schema)


def _caused(error: BaseException | None, kind: type[BaseException]) -> BaseException | None:
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error


def _shown(file: Path) -> str:
    return str(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file)


def _find(name: str, folders: Sequence[Path], suffix: str = ".yaml") -> Preset | None:
    return next(
        (each for folder in folders if (each := Preset(folder, name, suffix)).is_there()), None
    )


def _chosen(words: Sequence[str], folders: Sequence[Path]) -> Iterator[Preset]:
    """The presets that the command line names."""
    for word in words:
        group, _, options = word.lstrip("+").partition("=")
        for option in options.split(","):
            if (
                re.fullmatch(r"[\w./-]+", option)
                and (found := _find(f"{group}/{option}", folders)) is not None
            ):
                yield found


def _no_yaml(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = str(getattr(error, "problem", None) or first_line(error))
    file = _shown(Path(mark.name if mark is not None else str(getattr(error, "name", "a preset"))))
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


def _no_utf8(preset: Preset) -> str | None:
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


def _in_preset(
    error: BaseException, preset: Preset, folders: Sequence[Path], schema: type
) -> str | None:
    """`error`, which came up while `preset` was composed."""
    if missing := re.search(r"Could not load '([\w/.-]+)'", str(error)):
        return _no_default(missing[1], preset, folders)
    if "defaults must be a list" in str(error):
        return (
            f"{preset.at(preset.line('defaults'))}defaults is a list, as in defaults: [OPTION,"
            " _self_]"
        )
    if not isinstance(preset.root, yaml.MappingNode):
        held = "a list" if isinstance(preset.root, yaml.SequenceNode) else "a line of text"
        return f"{preset.at(1)}this is {held}; a preset holds lines of KEY: VALUE"
    return _misplaced(preset, schema) or _in_settings(
        _caused(error, OmegaConfBaseException) or error, preset, schema
    )


def _no_default(name: str, preset: Preset, folders: Sequence[Path]) -> str:
    """That the defaults list of `preset` names an option that is not there."""
    group, _, option = name.rpartition("/")
    known = sorted({file.stem for folder in folders for file in (folder / group).glob("*.yaml")})
    line = next(
        (number for number, text in enumerate(preset.text.splitlines(), 1) if option in text), None
    )
    return (
        f"{preset.at(line)}{name} does not exist; in {group} there are"
        f" {listing(known)}{nearest(option, known)}"
    )


def _in_settings(cause: BaseException, preset: Preset, schema: type) -> str:
    """What OmegaConf has against a key or a value of `preset`."""
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
        return where + explain_wrong_type(cause, schema) + _as_text(cause)
    return where + first_line(cause)


def _as_text(cause: ValidationError) -> str:
    """YAML takes on, off, yes and no for true and false."""
    return (
        "; put on and off in quotes: YAML takes them for true and false"
        if re.search(r"'(True|False)'", str(cause))
        else ""
    )


def _misplaced(preset: Preset, schema: type) -> str | None:
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
    return _no_package(preset)


def _no_package(preset: Preset) -> str:
    package = preset.group.replace("/", ".")
    return (
        f"{preset.at(1)}begin the file with the line {GLOBAL}; without it all of it is put under"
        f" {package}"
    )


_NO_GROUP = re.compile(r"Could not override '([\w/]+)(@[\w.]+)?'|Multiple values for ([\w/]+)")


def _in_defaults(error: BaseException, preset: Preset, words: Sequence[str]) -> str | None:
    """`error` about a group that the defaults list of `preset` names."""
    asked = _NO_GROUP.search(str(error))
    missing = str(getattr(error, "missing_cfg_file", None) or "").rpartition("/")[0]
    group = next(filter(None, [missing, *(asked.group(1, 3) if asked else ())]), None)
    if group is None or any(word.lstrip("+").startswith(f"{group}=") for word in words):
        return None
    if (line := preset.line_of_default(group)) is None:
        return None
    if asked and asked[2]:
        return _no_package(preset)
    if asked and asked[3]:
        return (
            f"{preset.at(line)}{group} is chosen already; write override /{group}: OPTION in the"
            " defaults list"
        )
    if missing:
        option, known = (
            str(getattr(error, "missing_cfg_file", "")).rpartition("/")[2],
            getattr(error, "options", None) or [],
        )
        return (
            f"{preset.at(line)}{group}={option} does not exist; there are"
            f" {listing(known)}{nearest(option, known)}"
        )
    return f"{preset.at(line)}there is no group {group} to override"


def _keys(node: yaml.Node | None, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Every dotted key under `node` with its line."""
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            yield f"{prefix}{name.value}", name.start_mark.line + 1
            yield from _keys(value, f"{prefix}{name.value}.")
