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
from medexp.cli.composition import CommandSpec
from medexp.cli.output_dir import make_unique_folder
from medexp.comparison import compare_report, comparison, loading, tables
from medexp.comparison.comparison import RunComparison
from medexp.comparison.console_tables import print_comparison
from medexp.config.command_options import CompareOptions, Format
from medexp.config.invocation import Invocation
from medexp.config.schema import RunConfig
from medexp.errors import ConfigError, OutputError
from medexp.system.console import Console
from medexp.system.home import expand_home
from medexp.system.units import format_duration


def compare(config: RunConfig, options: CompareOptions, console: Console) -> RunComparison:
    """Print the comparison that `options` ask for, write its page, and return it.

    Raises: ConfigError, RunError, DataError or OutputError in one sentence.
    """
    began = time.perf_counter()
    names = list_run_names(options)
    requested_file = Path.cwd() / expand_home(options.file) if options.file else None
    # Refused now, and not after minutes of scoring.
    if requested_file and requested_file.is_dir():
        raise OutputError(
            f"compare.file={requested_file} is a folder; give the name of a file, as"
            f" {requested_file / 'compare.html'}"
        )
    with console.status("reading the runs and scoring their answers"):
        compared = (
            loading.load_study_trials(options.study, config.tracking, Path.cwd())
            if options.study
            else loading.load_runs(names, config.tracking, Path.cwd())
        )
        page = compare_report.render_comparison(compared, options.mlflow)
    file = _write_page(page, requested_file)
    if options.format is Format.json:
        notes = {"remarks": tables.caveats(compared), "page": str(file)}
        console.raw(json.dumps(comparison.as_dict(compared) | notes, indent=2))
    else:
        print_comparison(console, compared, options.answers)
        console.result(
            f"All of it on one page: {file} ({format_duration(time.perf_counter() - began)})"
        )
    if options.open:
        webbrowser.open(file.as_uri())
    return compared


def list_run_names(options: CompareOptions) -> list[str]:
    """Return the runs that `options` name, none where a study is asked for.

    Raises: ConfigError if there are too few or too many, or runs and a study together.
    """
    requested = [] if options.run is None else options.run
    listed = requested if isinstance(requested, list) else [requested]
    names = [str(name).strip() for name in listed]
    if options.study and names:
        raise ConfigError("run and study are both given; give one of them")
    if options.study:
        return []
    if not names:
        raise ConfigError(
            "there is nothing to compare: give 'run=[ID,ID]' (MLflow run ids, folders of adapters,"
            " last; make ui lists the runs) or study=NAME"
        )
    if not loading.FEWEST <= len(names) <= loading.MOST:
        raise ConfigError(
            f"run= names {len(names)} run{'s' if len(names) > 1 else ''}; {loading.FEWEST} to"
            f" {loading.MOST} can be compared, as in 'run=[ID,ID]'. What changed in one run is in"
            " its report.html"
        )
    return names


def _write_page(page: str, requested_file: Path | None) -> Path:
    """Write `page` to `requested_file`, or to a new folder named by the time, as those of other
    commands are; return the file.

    Raises: OutputError where it cannot be written.
    """
    by_time = Path.cwd() / time.strftime("outputs/%Y-%m-%d/%H-%M-%S")
    try:
        if requested_file is None:
            file = make_unique_folder(by_time) / "compare.html"
        else:
            file = requested_file
            file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(page, encoding="utf-8")
    except OSError as error:
        place = requested_file or by_time / "compare.html"
        raise OutputError(
            f"compare.file={place} cannot be written ({error.strerror}); set compare.file=FILE"
        ) from error
    return file


def _run(config: RunConfig, invocation: Invocation[CompareOptions, None]) -> float:
    return float(compare(config, invocation.options, Console()).num_comparisons)


COMMAND: CommandSpec[CompareOptions, None] = CommandSpec(
    "compare", CompareOptions, needs_card=False
)


def main() -> None:
    """Run the command that the command line describes; ends the process."""
    run_command(_run, COMMAND)


if __name__ == "__main__":
    main()
