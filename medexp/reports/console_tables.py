"""A scorecard printed to a terminal, or as plain lines to a pipe."""

from medexp.evaluation.record import Record
from medexp.evaluation.scorecard import Scorecard, accuracies
from medexp.reports.page_template import format_interval
from medexp.system.console import Console
from medexp.system.units import format_figure


def accuracy_rows(record: Record) -> list[tuple[str, str, str, str, str]]:
    """Return rows for a table: benchmark, model, accuracy, and its two intervals."""
    return [
        (
            name,
            side,
            f"{accuracy.share:.3f} of {accuracy.count}",
            f"{accuracy.wilson[0]:.3f} to {accuracy.wilson[1]:.3f}",
            f"{accuracy.bootstrap[0]:.3f} to {accuracy.bootstrap[1]:.3f}",
        )
        for name, side, accuracy in accuracies(record)
    ]


def print_scorecard(console: Console, title: str, record: Record, scorecard: Scorecard) -> None:
    """Print what was measured, a row a measure, and below it what was not and why."""
    rows = [
        (
            result.measure.title,
            f"{format_figure(result.before)} -> {format_figure(result.after)}",
            result.verdict,
            format_interval(result),
        )
        for result in scorecard.results
        if result.comparison is not None
    ]
    console.table(title, ("measure", "before -> after", "verdict", "change [95 %]"), rows)
    if record.benchmarks:
        heads = ("", "", "accuracy", "95 %, Wilson", "95 %, bootstrap")
        console.table("Benchmarks", heads, accuracy_rows(record))
    missing = [result for result in scorecard.results if result.comparison is None]
    for why in dict.fromkeys(result.missing for result in missing):
        titles = ", ".join(result.measure.title for result in missing if result.missing == why)
        console.result(f"not measured: {titles}: {why}", style="dim")
