"""compare.html: several runs side by side as one file that opens offline. Nothing in it is loaded
from elsewhere; its links to runs lead to an MLflow server of this machine."""

from dataclasses import dataclass

from medexp.comparison import tables
from medexp.comparison.comparison import RunComparison, find_answers, find_measure_result
from medexp.comparison.contrasts import AnsweredQuestion, Contrast
from medexp.evaluation.scorecard import Measure, MeasureResult
from medexp.reports.annotations import Block, split_into_blocks
from medexp.reports.page_template import fill_template


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
    """A run's answers to a question, in blocks, with what counts for and against them; None where
    it was not asked.
    """

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


def render_comparison(found: RunComparison, mlflow: str) -> str:
    """The page as HTML; links lead to the MLflow server at address `mlflow`."""
    rows, follow = tables.build_setting_rows(found)
    return fill_template(
        "compare.html",
        found=found,
        mlflow=mlflow.rstrip("/"),
        runs=[
            (run, row[3]) for run, row in zip(found.runs, tables.build_run_rows(found), strict=True)
        ],
        shared=tables.describe_shared_settings(found),
        settings=rows,
        follow=[(name, found.differences[name]) for name in follow],
        remarks=tables.caveats(found),
        honest=tables.reading_notes(found),
        changes=[(measure, _list_results(found, measure)) for measure in found.measures],
        contrasts=(
            [(measure, *_place_contrasts(found, measure)) for measure in found.measures]
            if found.against_reference
            else []
        ),
        costs=tables.build_cost_rows(found),
        bars=_memory_bars(found),
        questions=[_question_row(found, each) for each in found.answered_questions],
    )


def _list_results(found: RunComparison, measure: Measure) -> list[MeasureResult | None]:
    return [find_measure_result(run, measure.key) for run in found.runs if run.evaluated]


def _place_contrasts(
    found: RunComparison, measure: Measure
) -> tuple[list[tuple[Contrast | None, Interval | None]], float]:
    """The contrasts in `measure` with their places on a line, and the difference at that line's
    ends (0: there is no line).
    """
    row = [against.contrast(measure.key) for against in found.against_reference]
    compared = [each.comparison for each in row if each is not None and each.comparison is not None]
    widest = max((max(abs(each.low), abs(each.high)) for each in compared), default=0.0)
    return [(each, _place_interval(each, widest)) for each in row], widest * 50 / 48


def _place_interval(each: Contrast | None, widest: float) -> Interval | None:
    if each is None or each.comparison is None or not widest:
        return None
    places = [
        50 + 48 * value / widest
        for value in (each.comparison.low, each.comparison.change, each.comparison.high)
    ]
    return Interval(*(round(place, 1) for place in places))


def _memory_bars(found: RunComparison) -> dict[int, list[tuple[str, int]]]:
    """For every ceiling the bytes planned and measured under it."""
    bars: dict[int, list[tuple[str, int]]] = {}
    for run in found.runs:
        cost = run.cost
        if cost.ceiling_bytes and (cost.planned_bytes or cost.measured_bytes):
            rows = [
                (f"{run.label} planned", cost.planned_bytes or 0),
                (f"{run.label} measured", cost.measured_bytes or 0),
            ]
            bars.setdefault(cost.ceiling_bytes, []).extend(rows)
    return bars


def _question_row(found: RunComparison, asked: AnsweredQuestion) -> QuestionRow:
    answers, without = [], []
    for run, place in zip(found.runs, asked.places, strict=True):
        each = find_answers(run, place)
        if each is None:
            without.append(run.label)
        else:
            both = (
                split_into_blocks(each.base, each.before),
                split_into_blocks(each.tuned, each.after),
            )
            answers.append(AnswerBlocks(run.label, run.name, *both, each.figures))
    return QuestionRow(asked.question, split_into_blocks(asked.reference), answers, without)
