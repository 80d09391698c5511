"""A scorecard on a console: three lines first, the worst cases, then a row a measure."""

from collections.abc import Sequence

from medexp.evaluation.leading_lines import Tone, list_harmful_cases, make_leading_lines
from medexp.evaluation.noise_floor import MeasureNoise
from medexp.evaluation.record import Record
from medexp.evaluation.scorecard import Scorecard, list_accuracies
from medexp.reports.page_template import format_before, format_interval
from medexp.reports.summary import clip_text
from medexp.system.console import Console
from medexp.system.units import format_figure

# How many harmful answers are printed, and how much of each question.
MOST_HARMFUL, QUESTION_CHARACTERS = 5, 120
TONE_STYLES = {Tone.bad: "red", Tone.good: "green", Tone.plain: ""}


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
        for name, side, accuracy in list_accuracies(record)
    ]


def print_leading_lines(console: Console, scorecard: Scorecard) -> None:
    """Print FORM, MEDICINE and HARM, and the harmful answers, the worst first."""
    for line in make_leading_lines(scorecard):
        console.result(f"{line.name:<9}{line.text}", style=TONE_STYLES[line.tone])
    for row in make_harm_rows(scorecard):
        console.result(f"  {row}", style=TONE_STYLES[Tone.bad])


def make_harm_rows(scorecard: Scorecard, most: int = MOST_HARMFUL) -> list[str]:
    """Return the `most` worst cases, a row each: the question, the sentences, the broken rules."""
    cases = list_harmful_cases(scorecard)
    rows = []
    for case in cases[:most]:
        said = "; ".join(f'"{passage.text}" ({passage.rule})' for passage in case.passages)
        new = "new" if case.is_new else "as before"
        rows.append(f"{new}: {clip_text(case.question, QUESTION_CHARACTERS)} -> {said}")
    if len(cases) > most:
        rows.append(f"and {len(cases) - most} more, in the report")
    return rows


def print_noise_floor(console: Console, noise: Sequence[MeasureNoise]) -> None:
    """Print what differs where the same model was asked twice."""
    rows = [
        (
            moved.measure.title,
            f"{format_figure(moved.first)} -> {format_figure(moved.again)}",
            format_figure(moved.floor),
            "–" if moved.differing is None else f"{moved.differing} of {moved.cases}",
        )
        for moved in noise
    ]
    heads = ("measure", "once -> again", "noise floor", "cases that differ")
    console.table("The tuned model twice, in other batches", heads, rows)


def describe_noise(noise: Sequence[MeasureNoise]) -> str:
    """Return the measures that moved although nothing was trained in between, in words."""
    moving = [moved for moved in noise if moved.floor > 0]
    if not moving:
        return "none: the tuned model answers the same in other batches"
    return ", ".join(f"{moved.measure.title} ± {moved.floor:.2g}" for moved in moving)


def print_scorecard(console: Console, title: str, record: Record, scorecard: Scorecard) -> None:
    """Print what was measured, a row a measure, and below it what was not and why."""
    print_leading_lines(console, scorecard)
    rows = [
        (
            result.measure.title,
            f"{format_before(result)} -> {format_figure(result.after)}",
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
