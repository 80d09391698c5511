"""A scorecard on a console: three lines first, the worst cases, then a row a measure."""

from medexp.evaluation import scorecard
from medexp.evaluation.leading_lines import Tone, list_harmful_cases, make_leading_lines
from medexp.evaluation.record import Record
from medexp.evaluation.scorecard import Scorecard
from medexp.reports.page_template import format_before, format_interval
from medexp.reports.summary import clip_text
from medexp.system.console import Console
from medexp.system.units import figure

# How many harmful answers are printed, and how much of each question.
MOST_HARMFUL, QUESTION_CHARACTERS = 5, 120
TONE_STYLES = {Tone.bad: "red", Tone.good: "green", Tone.plain: ""}


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


def print_leading_lines(console: Console, found: Scorecard) -> None:
    """Print FORM, MEDICINE and HARM, and the harmful answers, the worst first."""
    for line in make_leading_lines(found):
        console.result(f"{line.name:<9}{line.text}", style=TONE_STYLES[line.tone])
    for row in make_harm_rows(found):
        console.result(f"  {row}", style=TONE_STYLES[Tone.bad])


def make_harm_rows(found: Scorecard, most: int = MOST_HARMFUL) -> list[str]:
    """Return the `most` worst cases, a row each: the question, the sentences, the broken rules."""
    cases = list_harmful_cases(found)
    rows = []
    for case in cases[:most]:
        said = "; ".join(f'"{passage.text}" ({passage.rule})' for passage in case.passages)
        new = "new" if case.is_new else "as before"
        rows.append(f"{new}: {clip_text(case.question, QUESTION_CHARACTERS)} -> {said}")
    if len(cases) > most:
        rows.append(f"and {len(cases) - most} more, in the report")
    return rows


def print_scorecard(console: Console, title: str, record: Record, found: Scorecard) -> None:
    """Print what was measured, a row a measure, and below it what was not and why."""
    print_leading_lines(console, found)
    measured = [line for line in found.results if line.comparison is not None]
    rows = [
        (
            line.measure.title,
            f"{format_before(line)} -> {figure(line.after)}",
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
