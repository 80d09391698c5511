"""python -m medexp.clean: what unfinished runs have left under tracking.root, and its removal.

python -m medexp.clean                  # lists them; the command that began one continues it
python -m medexp.clean clean.days=30    # removes those that nobody has touched for 30 days
"""

from medexp.cli.app import run_command
from medexp.cli.composition import CommandSpec
from medexp.config.command_options import CleanOptions
from medexp.config.invocation import Invocation
from medexp.config.schema import RunConfig
from medexp.system.console import Console
from medexp.training import leftovers
from medexp.training.resume import unfinished_runs_dir


def clean(config: RunConfig, options: CleanOptions, console: Console) -> None:
    """List the unfinished runs; with `options.days` remove the old ones among them."""
    unfinished = leftovers.list_leftovers(config.tracking)
    if not unfinished:
        console.result(f"{unfinished_runs_dir(config.tracking)} holds no unfinished run")
        return
    columns = ("run", "checkpoint", "MLflow run", "GiB", "untouched for")
    console.table("Unfinished runs", columns, [leftover.row() for leftover in unfinished])
    if options.days is None:
        console.result(
            "The command that began one continues it. clean.days=N removes those untouched for N"
            " days"
        )
        return
    removed = leftovers.remove_leftovers(config.tracking, options.days)
    console.result(f"{leftovers.count_runs(removed)} removed, {leftovers.total_gib(removed)} freed")


def _run(config: RunConfig, invocation: Invocation[CleanOptions, None]) -> float:
    clean(config, invocation.options, Console())
    return 0.0


COMMAND: CommandSpec[CleanOptions, None] = CommandSpec("clean", CleanOptions, needs_card=False)


def main() -> None:
    """Run the command that the command line describes; ends the process."""
    run_command(_run, COMMAND)


if __name__ == "__main__":
    main()
