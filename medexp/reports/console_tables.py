"""TODO: say what this module holds."""

from medexp.evaluation import scorecard
from medexp.evaluation.record import Record
from medexp.evaluation.scorecard import Scorecard
from medexp.reports.page_template import format_interval
from medexp.system.console import Console
from medexp.system.units import figure


def accuracy_rows(record: Record) -> list[tuple[str, str, str, str, str]]:
    """Rows for a table: benchmark, model, accuracy, and its two intervals."""
    return [
        (
            name,
            side,
            f"{each.share:.3f} of {each.count}",
            f"{each.wilson[0]:.3f} to {each.wilson[1]:.3f}",
            f"{each.bootstrap[0]:.3f} to {each.bootstrap[1]:.3f}",
        )
        for name, side, each in scorecard.accuracies(record)
    ]


def print_scorecard(console: Console, title: str, record: Record, found: Scorecard) -> None:
    """Print what was measured, a row a measure, and below it what was not and why."""
    measured = [line for line in found.results if line.comparison is not None]
    rows = [
        (
            line.measure.title,
            f"{figure(line.before)} -> {figure(line.after)}",
            line.verdict,
            format_interval(line),
        )
        for line in measured
    ]
    console.table(title, ("measure", "before -> after", "verdict", "change [95 %]"), rows)
    if record.benchmarks:
        console.table(
            "Benchmarks",
            ("", "", "accuracy", "95 %, Wilson", "95 %, bootstrap"),
            accuracy_rows(record),
        )
    for why in dict.fromkeys(line.missing for line in found.results if line.comparison is None):
        names = ", ".join(line.measure.title for line in found.results if line.missing == why)
        console.result(f"not measured: {names}: {why}", style="dim")
