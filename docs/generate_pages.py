"""Write the documentation pages that are made of other files: conf/, the schema, the measures, the
artifact names, benchmarks/, CONTRIBUTING, the changelog.

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
from medexp.evaluation.measure_table import DEFAULT_PRIMARY, FORM_MEASURES, MEASURES, find_role
from medexp.evaluation.verdicts import Role
from medexp.tracking import artifact_names

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
BETTER = {1: "higher", -1: "lower", 0: "neither"}
# What a run keeps under each name of `medexp.tracking.artifact_names`.
ARTIFACTS = {
    "COMPOSED_CONFIG": "the whole config of the run, as composed",
    "OVERRIDES": "the overrides that were typed",
    "ENVIRONMENT": "installed packages and what the machine has",
    "PLAN": "the chosen memory plan, those that did not fit, and the runners-up; on a card",
    "STARTED_FROM": "the adapter that the run began with (`lora.start_from`)",
    "AUDIT": "the audit of the cases, as values",
    "AUDIT_PAGE": "the same as a page",
    "ADAPTER": "the trained adapter with its tokenizer, where `tracking.log_adapter` is true",
    "ADAPTER_CONFIG": "in the adapter: PEFT's config",
    "ADAPTER_WEIGHTS": "in the adapter: PEFT's weights",
    "ADAPTER_RUN_CONFIG": "in the adapter: the config of the run that made it",
    "BASE_IDENTITY": "in the adapter: which base it belongs to, with a digest of its weights",
    "RECORD": "questions, references, every answer and every loss; all else is computed from it",
    "ANSWERS": "question, reference, base and tuned answer, as a table",
    "PER_CASE": "every measure of every answered case, before and after, as a table",
    "REPORT": "the report: three lines, verdicts, every answer side by side",
    "CHARTS": "of a sweep: the folder of its charts",
    "SWEEP_PAGE": "in the folder of charts: all of them on a page",
    "TRIALS": "of a sweep: every trial with its point and its result",
    "INFEASIBLE_PROPOSALS": "of a sweep: proposals that could not fit, by how many GiB, and why",
    "BEST_PRESET": "of a sweep: the preset that runs its best trial again",
}
# Metrics that are no measure of answers, by name.
METRICS = {
    "train/loss, train/grad_norm, train/learning_rate": "each step, as TRL gives them",
    "speed/tokens_per_s, speed/step_s": "each step",
    "eval/loss": "validation loss on the way (`evaluation.every_steps`); held-out loss where no"
    " validation cases are held out",
    "vram/reserved_gib, vram/peak_gib, vram/peak_allocated_gib, vram/alloc_retries": "each step,"
    " on a card",
    "vram/probe/PHASE/planned_bytes, .../measured_bytes": "each phase of the step that is tried"
    " before training, on a card",
    "vram/planned_bytes, vram/measured_bytes, vram/planned_error_percent": "the run, on a card",
    "host/peak_gib": "peak host memory of the process",
    "result/loss_before, result/loss_after, result/loss_change": "held-out loss, nats a token",
    "result/loss_paired_change, ..._low, ..._high, result/loss_sign_test_p": "the same by case,"
    " with its interval and p; also result/structure_...",
    "result/steps, result/training_s": "optimizer steps, and the seconds of this process in them",
    "result/tokens_per_s, result/elapsed_s": "the run",
    "noise/MEASURE": "how far the mean moved between two askings (`evaluate.noise_floor`)",
    "judge/tokens, judge/dollars": "what a judge cost, where the endpoint says",
    "sweep/planned_bytes, sweep/peak_gib": "a trial",
    "sweep/planned_s, sweep/elapsed_s, sweep/steps": "a trial, and the sweep in all: its cost",
    "best/METRIC, best/KEY, trials/ENDING, seeds/mean, seeds/standard_deviation": "a sweep",
    "final/METRIC": "a sweep: the mean of its final runs, on the test part",
}
_COMMENT = re.compile(r"^\s*(?P<key>[\w.]+):[^#]*?\s#\s(?P<text>.+)$")


def main() -> None:
    """Write every generated page."""
    with mkdocs_gen_files.open("reference/configuration.md", "w") as page:
        page.write(configuration_reference())
    with mkdocs_gen_files.open("reference/metrics-and-artifacts.md", "w") as page:
        page.write(metrics_and_artifacts())
    _check_measures_page((ROOT / "docs" / "concepts" / "measures.md").read_text(encoding="utf-8"))
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


def metrics_and_artifacts() -> str:
    """Return the Markdown of every metric and artifact that a run keeps in MLflow.

    Raises: ValueError for an artifact that this page does not describe, or that is no more.
    """
    names = {name: value for name, value in vars(artifact_names).items() if name.isupper()}
    if different := names.keys() ^ ARTIFACTS.keys():
        raise ValueError(f"ARTIFACTS and artifact_names differ in {sorted(different)}")
    made_from = "Made from `medexp.evaluation.measure_table.MEASURES` and"
    lines = ["# Metrics and artifacts", "", made_from]
    lines += ["`medexp.tracking.artifact_names`. Names are added and never changed.", ""]
    lines += ["## Measures of an evaluation", ""]
    lines += ["`eval/KEY/before`, `after`, `delta`, `low`, `high` (95 % interval) and `p` (before"]
    lines += ["Holm's correction). Where the base was asked in two ways: also `eval/KEY/base` and"]
    lines += ["`eval/KEY/base_best`. Each loss also has `eval/perplexity_...`. What the measures"]
    lines += ["see: [Measures](../concepts/measures.md).", ""]
    lines += ["| key | title | better | role by default | missing where |", "|---|---|---|---|---|"]
    for measure in MEASURES:
        cells = (measure.title, BETTER[measure.better], _name_role(measure.key), measure.missing)
        lines.append(f"| `{measure.key}` | {' | '.join(cells)} |")
    lines += ["| `judge` | judge (1 to 5) | higher | description | no judge was asked |"]
    names_of_both = "`benchmark_NAME`, `benchmark_NAME_reasoned`"
    lines += [f"| {names_of_both} | accuracy | higher | description | no benchmark was asked |"]
    lines += ["", "## Other metrics", "", "| metric | of |", "|---|---|"]
    lines += [f"| {_code_names(names)} | {text} |" for names, text in METRICS.items()]
    lines += ["", "## Artifacts", "", "| artifact | content |", "|---|---|"]
    lines += [f"| `{names[name]}` | {text} |" for name, text in ARTIFACTS.items()]
    return "\n".join(lines) + "\n"


def _name_role(key: str) -> str:
    """Return the line of a report that measure `key` stands in, by default."""
    if key in FORM_MEASURES:
        return "description, in FORM"
    role = find_role(key, DEFAULT_PRIMARY)
    return {Role.primary: "primary, in MEDICINE", Role.harm: "harm, in HARM"}.get(role, role.value)


def _code_names(names: str) -> str:
    return ", ".join(f"`{name}`" for name in names.split(", "))


def _check_measures_page(text: str) -> None:
    """Refuse a page of measures whose table does not hold each with its better side.

    Raises: ValueError with the rows that are missing or say something else.
    """
    rows = (line.split(" | ") for line in text.splitlines() if line.startswith("| `"))
    better = {cells[0].strip("|` "): cells[2] for cells in rows if len(cells) == 5}
    wrong = [
        f"{measure.key}: {BETTER[measure.better]}"
        for measure in MEASURES
        if better.get(measure.key) != BETTER[measure.better]
    ]
    if wrong:
        raise ValueError(f"docs/concepts/measures.md, Every measure, needs {', '.join(wrong)}")


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
    """Return `text` with links to files that are no pages as plain code."""

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
