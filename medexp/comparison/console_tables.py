"""A comparison printed to a terminal, or as plain lines to a pipe."""

from medexp.comparison import tables
from medexp.comparison.comparison import ComparedRun, RunComparison, find_answers
from medexp.comparison.contrasts import AnsweredQuestion
from medexp.reports import summary
from medexp.reports.console_tables import TONE_STYLES
from medexp.system.console import NOTE, Console

# An answer needs so many columns of the terminal beside others.
ANSWER_COLUMNS = 36
# Characters of an answer that are printed; all of it is on the page.
PRINTED_CHARACTERS = 900

SEED_HEADS = ("measure", "runs", "mean", "lowest to highest", "SD of seeds", "interval over cases")


def print_comparison(console: Console, comparison: RunComparison, num_questions: int) -> None:
    """Print all tables, and the tuned models' answers to the first `num_questions` questions."""
    labels = tuple(run.label for run in comparison.runs)
    console.result(f"{summary.NOT_FOR_CLINICAL_USE}\n", style="italic")
    heads = ("", "run", "ended", "evaluated", "MLflow run or folder")
    console.table(comparison.title, heads, tables.build_run_rows(comparison))
    console.result(tables.describe_shared_settings(comparison))
    setting_rows, following = tables.build_setting_rows(comparison)
    if setting_rows:
        console.table("Where they differ", ("setting", *labels), setting_rows)
    if following:
        console.result(
            "also different, but only because of the settings above, or for features that are off:"
            f" {', '.join(following)}",
            style="dim",
        )
    for caveat in tables.caveats(comparison):
        console.result(caveat, NOTE)
    for label, name, text, tone in tables.build_leading_rows(comparison):
        console.result(f"{label} {name:<9}{text}", style=TONE_STYLES[tone])
    _print_measures(console, comparison)
    if seed_rows := tables.build_seed_rows(comparison):
        console.table("Between seeds", SEED_HEADS, seed_rows)
    if cost_rows := tables.build_cost_rows(comparison):
        console.table("What they took", ("", *labels), cost_rows)
    _print_answers(console, comparison, num_questions)


def _print_measures(console: Console, comparison: RunComparison) -> None:
    unchanged = tables.unchanged_measures(comparison)
    measures = [measure for measure in comparison.measures if measure not in unchanged]
    if comparison.reference is not None:
        _print_contrasts(
            console, comparison.reference, tables.build_contrast_rows(comparison, measures)
        )
    if rows := tables.build_change_rows(comparison, measures):
        heads = ("measure", "", "before -> after", "verdict", "change [95 %]")
        console.table("What changed in each, against its own base", heads, rows)
    if unchanged:
        titles = ", ".join(measure.title for measure in unchanged)
        console.result(f"no detectable change or difference anywhere: {titles}", style="dim")
    if comparison.measures:
        for note in tables.reading_notes(comparison):
            console.result(note, style="dim")
        console.result("")


def _print_contrasts(console: Console, reference: ComparedRun, rows: list[tuple[str, ...]]) -> None:
    if rows:
        label = reference.label
        means, p_values = f"{label} | run", "p | Holm"
        heads = ("measure", "", means, "verdict", "difference [95 %]", p_values, "n")
        console.table(f"Against {label}, the same cases answered by both", heads, rows)


def _print_answers(console: Console, comparison: RunComparison, num_questions: int) -> None:
    """Print the tuned answers to the first questions, as many runs side by side as the terminal has
    room for.
    """
    room = max(1, console.results.width // ANSWER_COLUMNS)
    places = [
        place
        for place, run in enumerate(comparison.runs)
        if run.evaluated is not None and run.evaluated.record.cases
    ]
    for question in comparison.answered_questions[:num_questions]:
        columns = [_answer_column(comparison.runs[at], question, at) for at in places[:room]]
        heads, texts = [head for head, _ in columns], [text for _, text in columns]
        console.table(f"Held out: {question.question}", heads, [texts], prose=True)


def _answer_column(run: ComparedRun, question: AnsweredQuestion, at: int) -> tuple[str, str]:
    """Return what stands above and in the column of `run`, which is the run at place `at`."""
    pair = find_answers(run, question.places[at])
    if pair is None:
        return run.label, "(not asked)"
    text = summary.clip_text(pair.tuned, PRINTED_CHARACTERS)
    return f"{run.label}: {pair.figures[1]}", text
