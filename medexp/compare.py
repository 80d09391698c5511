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
from medexp.comparison.console_tables import print_comparison
from medexp.config.command_options import CompareOptions, Format
from medexp.config.invocation import Invocation
from medexp.config.schema import RunConfig
from medexp.errors import ConfigError, OutputError
from medexp.system.console import Console
from medexp.system.home import expand_home
from medexp.system.units import format_duration


def compare(run: RunConfig, options: CompareOptions, console: Console) -> RunComparison:
    """Print the comparison that `options` ask for, and write its page.

    Raises: ConfigError, RunError, DataError or OutputError in one sentence.
    """
    began = time.perf_counter()
    names, given = list_run_names(options), options.file and Path.cwd() / expand_home(options.file)
    if given and given.is_dir():
        raise OutputError(
            f"compare.file={given} is a folder; give the name of a file, as"
            f" {given / 'compare.html'}"
        )
    with console.status("reading the runs and scoring their answers"):
        found = (
            runs.load_study_trials(options.study, run.tracking, Path.cwd())
            if options.study
            else runs.load_runs(names, run.tracking, Path.cwd())
        )
        page = compare_report.render_comparison(found, options.mlflow)
    file = _written(page, given or None)
    if options.format is Format.json:
        said = {"remarks": tables.caveats(found), "page": str(file)}
        console.raw(json.dumps(comparison.as_dict(found) | said, indent=2))
    else:
        print_comparison(console, found, options.answers)
        console.result(
            f"All of it on one page: {file} ({format_duration(time.perf_counter() - began)})"
        )
    if options.open:
        webbrowser.open(file.as_uri())
    return found


def list_run_names(options: CompareOptions) -> list[str]:
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
        list_run_names = given or by_time / "compare.html"
        raise OutputError(
            f"compare.file={list_run_names} cannot be written ({error.strerror}); set"
            " compare.file=FILE"
        ) from error
    return file


def _run(config: RunConfig, invocation: Invocation[CompareOptions, None]) -> float:
    return float(compare(config, invocation.options, Console()).num_comparisons)


def main() -> None:
    """Run the command that the command line describes; ends the process."""
    run_command(_run, "compare", CompareOptions, needs_card=False)


if __name__ == "__main__":
    main()
