"""python -m medexp.compare: finished runs side by side, each against its own base and against the
first.

    # MLflow run ids; also folders of adapters, and last
    python -m medexp.compare 'run=[1dcdb309...,6777cf1e...]'
    # a sweep: its finished trials, best first
    python -m medexp.compare study=rank_lr_seq-cpu
    python -m medexp.compare 'run=[last,1dcdb309...]' compare.format=json

Says where their configs differ, what changed in each, what differs between them case by case and
how sure that is, and what each cost. Loads no model: it scores the stored answers. Writes one page
that opens offline.
"""

import json
import time
import webbrowser
from pathlib import Path

from medexp.cli.app import run_command
from medexp.cli.output_dir import make_unique_folder
from medexp.comparison import compare_report, comparison, tables
from medexp.comparison import loading as runs
from medexp.comparison.comparison import RunComparison
from medexp.config.command_options import CompareOptions, Format
from medexp.config.invocation import Invocation
from medexp.config.schema import RunConfig
from medexp.errors import ConfigError, OutputError
from medexp.reports import summary
from medexp.system.console import NOTE, Console
from medexp.system.home import expand_home
from medexp.system.units import duration

COLUMN = 36  # characters that an answer needs beside others


def compare(run: RunConfig, options: CompareOptions, console: Console) -> RunComparison:
    """Print the comparison that `options` ask for, and write its page.

    Raises: ConfigError, RunError, DataError or OutputError in one sentence.
    """
    began = time.perf_counter()
    names, given = asked(options), options.file and Path.cwd() / expand_home(options.file)
    if given and given.is_dir():
        raise OutputError(
            f"compare.file={given} is a folder; give the name of a file, as"
            f" {given / 'compare.html'}"
        )
    with console.status("reading the runs and scoring their answers"):
        if options.study:
            found = runs.load_study_trials(options.study, run.tracking, Path.cwd())
        else:
            found = runs.load_runs(names, run.tracking, Path.cwd())
        page = compare_report.render_comparison(found, options.mlflow)
    file = _written(page, given or None)
    if options.format is Format.json:
        said = {"remarks": tables.caveats(found), "page": str(file)}
        console.raw(json.dumps(comparison.as_dict(found) | said, indent=2))
    else:
        _print(console, found, options.answers)
        console.result(f"All of it on one page: {file} ({duration(time.perf_counter() - began)})")
    if options.open:
        webbrowser.open(file.as_uri())
    return found


def asked(options: CompareOptions) -> list[str]:
    """The runs that `options` name, none where a study is asked for.

    Raises: ConfigError if there are too few or too many, or runs and a study together.
    """
    given = (
        options.run
        if isinstance(options.run, list)
        else [options.run]
        if options.run is not None
        else []
    )
    names = [str(each).strip() for each in given]
    if options.study and names:
        raise ConfigError("run and study are both given; give one of them")
    if options.study:
        return []
    if not names:
        raise ConfigError(
            "there is nothing to compare: give 'run=[ID,ID]' (MLflow run ids, folders of adapters,"
            " last; make ui lists the runs) or study=NAME"
        )
    if not runs.FEWEST <= len(names) <= runs.MOST:
        raise ConfigError(
            f"run= names {len(names)} run{'s' if len(names) > 1 else ''}; {runs.FEWEST} to"
            f" {runs.MOST} can be compared, as in 'run=[ID,ID]'. What changed in one run is in"
            " its report.html"
        )
    return names


def _written(page: str, given: Path | None) -> Path:
    """`page` in the file `given`, or in a new folder named by the time, as those of other commands
    are; returns the file.
    """
    by_time = Path.cwd() / time.strftime("outputs/%Y-%m-%d/%H-%M-%S")
    try:
        if given is None:
            file = make_unique_folder(by_time) / "compare.html"
        else:
            file = given
            file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(page, encoding="utf-8")
    except OSError as error:
        asked = given or by_time / "compare.html"
        raise OutputError(
            f"compare.file={asked} cannot be written ({error.strerror}); set compare.file=FILE"
        ) from error
    return file


def _print(console: Console, found: RunComparison, answers: int) -> None:
    labels = tuple(run.label for run in found.runs)
    console.result(f"{summary.NOT_FOR_CLINICAL_USE}\n", style="italic")
    console.table(
        found.title,
        ("", "run", "ended", "evaluated", "MLflow run or folder"),
        tables.build_run_rows(found),
    )
    console.result(tables.describe_shared_settings(found))
    rows, follow = tables.build_setting_rows(found)
    if rows:
        console.table("Where they differ", ("setting", *labels), rows)
    if follow:
        console.result(
            "also different, but only because of the settings above, or for features that are off:"
            f" {', '.join(follow)}",
            style="dim",
        )
    for remark in tables.caveats(found):
        console.result(remark, NOTE)
    _print_measures(console, found)
    if costs := tables.build_cost_rows(found):
        console.table("What they took", ("", *labels), costs)
    _print_answers(console, found, answers)


def _print_measures(console: Console, found: RunComparison) -> None:
    quiet = tables.unchanged_measures(found)
    loud = [each for each in found.measures if each not in quiet]
    if (first := found.reference) is not None and (rows := tables.build_contrast_rows(found, loud)):
        columns = (
            "measure",
            "",
            f"{first.label} | run",
            "verdict",
            "difference [95 %]",
            "p | Holm",
            "n",
        )
        console.table(f"Against {first.label}, the same cases answered by both", columns, rows)
    if rows := tables.build_change_rows(found, loud):
        heads = ("measure", "", "before -> after", "verdict", "change [95 %]")
        console.table("What changed in each, against its own base", heads, rows)
    if quiet:
        console.result(
            "no detectable change or difference anywhere:"
            f" {', '.join(each.title for each in quiet)}",
            style="dim",
        )
    if found.measures:
        for sentence in tables.reading_notes(found):
            console.result(sentence, style="dim")
        console.result("")


def _print_answers(console: Console, found: RunComparison, answers: int) -> None:
    """The tuned answers to the first questions, as many runs side by side as the terminal has room
    for.
    """
    room = max(1, console.results.width // COLUMN)
    answering = [
        at
        for at, run in enumerate(found.runs)
        if run.evaluated is not None and run.evaluated.record.cases
    ][:room]
    for case in found.answered_questions[:answers]:
        said = [comparison.find_answers(found.runs[at], case.places[at]) for at in answering]
        heads = [f"{found.runs[at].label}: {each.figures[1]}" if each else found.runs[at].label
                 for at, each in zip(answering, said, strict=True)]  # fmt: skip
        texts = [summary.clip_text(each.tuned, 900) if each else "(not asked)" for each in said]
        console.table(f"Held out: {case.question}", heads, [texts], prose=True)


def _run(config: RunConfig, invocation: Invocation[CompareOptions, None]) -> float:
    return float(compare(config, invocation.options, Console()).comparisons)


def main() -> None:
    """Run the command that the command line describes; ends the process."""
    run_command(_run, "compare", CompareOptions, needs_card=False)


if __name__ == "__main__":
    main()
