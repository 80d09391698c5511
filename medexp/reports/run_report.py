"""report.html of a run: one file that opens offline, in a browser or in MLflow's artifact view.
Nothing in it is loaded from elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from medexp.evaluation.leading_lines import list_harmful_cases, make_leading_lines
from medexp.evaluation.record import Record
from medexp.evaluation.scorecard import Scorecard, ScoredAnswer, accuracies
from medexp.reports.annotations import Block, split_into_blocks
from medexp.reports.page_template import fill_template
from medexp.reports.run_charts import draw_length_histogram, draw_loss_curve


@dataclass(frozen=True)
class ReportHeader:
    """What the page says of the run beside its measures: a title, rows of facts, curves of (step,
    loss), bytes of VRAM (0: no card)."""

    title: str
    facts: Sequence[tuple[str, str]]
    training_loss: Sequence[tuple[int, float]] = ()
    held_out_loss: Sequence[tuple[int, float]] = ()
    planned_bytes: int = 0
    measured_bytes: int = 0
    ceiling_bytes: int = 0


@dataclass(frozen=True)
class CaseRow:
    """A case on the page: the question, the reference and the answers in blocks; `base_best` is
    empty where the base was not asked its best way.
    """

    question: str
    reference: list[Block]
    base: list[Block]
    tuned: list[Block]
    counts: tuple[str, str]
    base_best: list[Block] = field(default_factory=list)


def render_report(record: Record, card: Scorecard, about: ReportHeader) -> str:
    """The page as HTML."""
    answers = [[each.base for each in record.cases], [each.tuned for each in record.cases]]
    lengths = [[(each.tokens, each.ended) for each in side] for side in answers]
    return fill_template(
        "report.html",
        about=about,
        card=card,
        leading=make_leading_lines(card),
        harmful=list_harmful_cases(card),
        cases=_case_rows(record, card),
        loss_curve=(
            draw_loss_curve(about.training_loss, about.held_out_loss) if about.training_loss else ""
        ),
        lengths=draw_length_histogram(*lengths) if record.cases else "",
        accuracies=accuracies(record),
        vram=(
            [("planned", about.planned_bytes), ("measured", about.measured_bytes)]
            if about.ceiling_bytes
            else []
        ),
    )


def _case_rows(record: Record, card: Scorecard) -> list[CaseRow]:
    rows = []
    for place, case in enumerate(record.cases):
        before, after = card.before[place], card.after[place]
        has_best = case.base_best is not None and len(card.base_best) > place
        rows.append(
            CaseRow(
                case.question,
                split_into_blocks(case.reference),
                split_into_blocks(case.base.text, before),
                split_into_blocks(case.tuned.text, after),
                (_count_words(before), _count_words(after)),
                (
                    split_into_blocks(case.base_best.text, card.base_best[place])
                    if has_best and case.base_best is not None
                    else []
                ),
            )
        )
    return rows


def _count_words(scored: ScoredAnswer) -> str:
    """Return what counts for and against an answer, in words."""
    harms = f", {len(scored.harms)} harmful" if scored.harms else ""
    structure, unsupported = scored.values["structure"], len(scored.claims)
    return f"{structure:.2f} for its sections, {unsupported} unsupported{harms}"
