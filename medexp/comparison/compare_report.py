"""compare.html: several runs side by side as one file that opens offline. Nothing in it is loaded
from elsewhere; its links to runs lead to an MLflow server of this machine.
"""

from dataclasses import dataclass

from medexp.comparison import tables
from medexp.comparison.comparison import RunComparison, find_answers, find_measure_result
from medexp.comparison.contrasts import AnsweredQuestion, Contrast
from medexp.evaluation.measure_table import Measure
from medexp.evaluation.scorecard import MeasureResult
from medexp.reports.annotations import Block, split_into_blocks
from medexp.reports.page_template import fill_template

# The places of a strip go from 0 to 100. Its middle is no difference, and the widest interval of a
# row reaches so far to each side, that its ends can be seen.
MIDDLE, REACH = 50, 48


@dataclass(frozen=True)
class Interval:
    """A difference and its interval as places from 0 to 100 on a line whose middle is no
    difference.
    """

    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class AnswerBlocks:
    """A run's answers to a question, in blocks, with what counts for and against them."""

    label: str
    name: str
    base: list[Block]
    tuned: list[Block]
    counts: tuple[str, str]


@dataclass(frozen=True)
class QuestionRow:
    """A held-out question, its reference, and the answers of every run that was asked it."""

    question: str
    reference: list[Block]
    answers: list[AnswerBlocks]
    not_asked: list[str]


def render_comparison(comparison: RunComparison, mlflow: str) -> str:
    """Return the page as HTML; links lead to the MLflow server at address `mlflow`."""
    setting_rows, following = tables.build_setting_rows(comparison)
    run_rows = tables.build_run_rows(comparison)
    contrasts = [
        (measure, *_place_contrasts(comparison, measure)) for measure in comparison.measures
    ]
    return fill_template(
        "compare.html",
        comparison=comparison,
        mlflow=mlflow.rstrip("/"),
        runs=[(run, row[3]) for run, row in zip(comparison.runs, run_rows, strict=True)],
        shared=tables.describe_shared_settings(comparison),
        settings=setting_rows,
        follow=[(name, comparison.differences[name]) for name in following],
        seeds=tables.build_seed_rows(comparison),
        leading=tables.build_leading_rows(comparison),
        remarks=tables.caveats(comparison),
        reading_notes=tables.reading_notes(comparison),
        changes=[(measure, _list_results(comparison, measure)) for measure in comparison.measures],
        contrasts=contrasts if comparison.against_reference else [],
        costs=tables.build_cost_rows(comparison),
        bars=_memory_bars(comparison),
        questions=[
            _question_row(comparison, question) for question in comparison.answered_questions
        ],
    )


def _list_results(comparison: RunComparison, measure: Measure) -> list[MeasureResult | None]:
    return [find_measure_result(run, measure.key) for run in comparison.runs if run.evaluated]


def _place_contrasts(
    comparison: RunComparison, measure: Measure
) -> tuple[list[tuple[Contrast | None, Interval | None]], float]:
    """Return the contrasts in `measure` with their places on a line, and the difference at that
    line's ends (0: there is no line).
    """
    row = [other.find_contrast(measure.key) for other in comparison.against_reference]
    compared = [contrast.comparison for contrast in row if contrast and contrast.comparison]
    widest = max((max(abs(change.low), abs(change.high)) for change in compared), default=0.0)
    placed = [(contrast, _place_interval(contrast, widest)) for contrast in row]
    return placed, widest * MIDDLE / REACH


def _place_interval(contrast: Contrast | None, widest: float) -> Interval | None:
    if contrast is None or contrast.comparison is None or not widest:
        return None
    change = contrast.comparison
    values = (change.low, change.change, change.high)
    return Interval(*(round(MIDDLE + REACH * value / widest, 1) for value in values))


def _memory_bars(comparison: RunComparison) -> dict[int, list[tuple[str, int]]]:
    """Return for every ceiling the bytes planned and measured under it."""
    bars: dict[int, list[tuple[str, int]]] = {}
    for run in comparison.runs:
        cost = run.cost
        if cost.ceiling_bytes and (cost.planned_bytes or cost.measured_bytes):
            bars.setdefault(cost.ceiling_bytes, []).extend(
                [
                    (f"{run.label} planned", cost.planned_bytes or 0),
                    (f"{run.label} measured", cost.measured_bytes or 0),
                ]
            )
    return bars


def _question_row(comparison: RunComparison, question: AnsweredQuestion) -> QuestionRow:
    answers, not_asked = [], []
    for run, place in zip(comparison.runs, question.places, strict=True):
        pair = find_answers(run, place)
        if pair is None:
            not_asked.append(run.label)
            continue
        base = split_into_blocks(pair.base, pair.before)
        tuned = split_into_blocks(pair.tuned, pair.after)
        answers.append(AnswerBlocks(run.label, run.name, base, tuned, pair.figures))
    reference = split_into_blocks(question.reference)
    return QuestionRow(question.question, reference, answers, not_asked)
