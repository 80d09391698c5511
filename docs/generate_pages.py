"""Write the documentation pages that are made of other files: conf/, the schema, benchmarks/,
CONTRIBUTING, the changelog.

Run by mkdocs (plugin gen-files) on every build, so that none of them can grow old.
"""

import re
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_type_hints

import mkdocs_gen_files
import yaml

from medexp.config import command_options, schema
from medexp.config.fields import describe_range

ROOT = Path(__file__).resolve().parents[1]
RUN_GROUPS = (
    "model",
    "lora",
    "hardware",
    "dataset",
    "prompt",
    "training",
    "evaluation",
    "tracking",
)
COMMANDS = ("train", "plan", "audit", "evaluate", "compare", "ask", "export", "ui", "clean")
_COMMENT = re.compile(r"^\s*(?P<key>[\w.]+):[^#]*?\s#\s(?P<text>.+)$")


def main() -> None:
    """Write every generated page."""
    with mkdocs_gen_files.open("reference/configuration.md", "w") as page:
        page.write(configuration_reference())
    for folder in sorted((ROOT / "benchmarks").iterdir()):
        if (folder / "README.md").is_file():
            _copy_result(folder)
    for source, page_name in (
        ("CHANGELOG.md", "changelog.md"),
        ("CONTRIBUTING.md", "contributing/index.md"),
    ):
        text = (ROOT / source).read_text(encoding="utf-8")
        with mkdocs_gen_files.open(page_name, "w") as page:
            page.write(_without_outside_links(text, in_docs=source == "CONTRIBUTING.md"))


def configuration_reference() -> str:
    """Return the Markdown of every config group: options, then a row for each key."""
    lines = ["# Configuration reference", "", "Made from `conf/` and `medexp.config.schema`.", ""]
    types = get_type_hints(schema.RunConfig)
    for group in RUN_GROUPS:
        lines += _group_section(group, types[group])
    lines += ["## Options of single commands", ""]
    for command in COMMANDS:
        options = get_type_hints(getattr(command_options, f"{command.title()}Config")).get(command)
        if is_dataclass(options):
            values, comments = _yaml_values(ROOT / "conf" / f"{command}.yaml")
            lines += [f"### `medexp.{command}`", "", options.__doc__ or "", ""]
            lines += _table(options, values.get(command) or {}, comments, f"{command}.")
    return "\n".join(lines) + "\n"


def _group_section(group: str, kind: type) -> list[str]:
    files = sorted((ROOT / "conf" / group).glob("*.yaml"))
    default = _default_option(group)
    lines = [f"## `{group}`", "", kind.__doc__ or "", "", "| option | what it is |", "|---|---|"]
    for file in files:
        head = _first_sentence(file)
        lines.append(
            f"| `{group}={file.stem}`{' (default)' if file.stem == default else ''} |"
            f" {_cell(head)} |"
        )
    values, comments = _yaml_values(ROOT / "conf" / group / f"{default}.yaml")
    return [*lines, "", *_table(kind, values.get(group, values), comments, f"{group}."), ""]


def _first_sentence(file: Path) -> str:
    """Return the first sentence of the comment at the top of a YAML file."""
    comment = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @"):
            comment.append(line.removeprefix("#").strip())
    return re.split(r"(?<=[.;:])\s", " ".join(comment))[0].rstrip(";:")


def _default_option(group: str) -> str:
    """Return the option of `group` that conf/groups.yaml chooses."""
    chosen = yaml.safe_load((ROOT / "conf" / "groups.yaml").read_text(encoding="utf-8"))["defaults"]
    return str(next(entry[group] for entry in chosen if group in entry))


def _table(kind: Any, values: dict[str, Any], comments: dict[str, str], prefix: str) -> list[str]:
    lines = ["| key | type | allowed | default | note |", "|---|---|---|---|---|"]
    return [*lines, *_rows(kind, values, comments, prefix), ""]


def _rows(kind: Any, values: dict[str, Any], comments: dict[str, str], prefix: str) -> list[str]:
    rows, types = [], get_type_hints(kind)
    for field in fields(kind):
        hint, value = types[field.name], values.get(field.name, "")
        if is_dataclass(hint) and isinstance(hint, type):
            rows += _rows(
                hint, value if isinstance(value, dict) else {}, comments, f"{prefix}{field.name}."
            )
            continue
        shown = (
            "null"
            if value is None
            else (
                "" if value == "" else str(value).lower() if isinstance(value, bool) else str(value)
            )
        )
        cells = [
            f"`{prefix}{field.name}`",
            _type_name(hint),
            _allowed(hint, dict(field.metadata)),
            f"`{_cell(shown)}`" if shown else "",
            _cell(comments.get(field.name, "")),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _type_name(hint: Any) -> str:
    kinds = [kind for kind in get_args(hint) if kind is not type(None)] or [hint]
    kind = kinds[0]
    name = (
        "word"
        if isinstance(kind, type) and issubclass(kind, Enum)
        else getattr(kind, "__name__", "any")
    )
    return f"{name.replace('Any', 'any')}{' or null' if type(None) in get_args(hint) else ''}"


def _allowed(hint: Any, limits: dict[str, Any]) -> str:
    kinds = [kind for kind in get_args(hint) if kind is not type(None)] or [hint]
    if isinstance(kinds[0], type) and issubclass(kinds[0], Enum):
        return ", ".join(f"`{member.name}`" for member in kinds[0])
    return describe_range(limits) if "low" in limits else ""


def _yaml_values(file: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the values of a YAML file, and the comment at the end of each key's line."""
    text = file.read_text(encoding="utf-8")
    found = (_COMMENT.match(line) for line in text.splitlines())
    return yaml.safe_load(text) or {}, {
        match["key"]: match["text"].strip() for match in found if match
    }


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").strip()


def _copy_result(folder: Path) -> None:
    """Write a benchmark's README as a page under results/, and its pictures beside it."""
    for picture in folder.glob("*.png"):
        with mkdocs_gen_files.open(f"results/{folder.name}/{picture.name}", "wb") as copy:
            copy.write(picture.read_bytes())
    text = (folder / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"!\[([^\]]*)\]\(([\w-]+\.png)\)", rf"![\1]({folder.name}/\2)", text)
    with mkdocs_gen_files.open(f"results/{folder.name}.md", "w") as page:
        page.write(_without_outside_links(text, in_docs=False))


def _without_outside_links(text: str, in_docs: bool) -> str:
    """Return `text` with links to files of the repository as plain code: such files are no pages."""

    def plain(match: re.Match[str]) -> str:
        label, target = match["label"], match["target"]
        is_page = target.startswith(("http://", "https://", "#")) or (
            in_docs and target.startswith("docs/")
        )
        if not is_page:
            return f"{label} (`{target}`)" if label.strip("`") != target else f"`{target}`"
        return (
            f"[{label}]({target.replace('docs/', '../', 1)})"
            if target.startswith("docs/")
            else match[0]
        )

    return re.sub(r"(?<!!)\[(?P<label>[^\]\n]+)\]\((?P<target>[^)\s]+)\)", plain, text)


main()
