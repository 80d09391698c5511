"""report.html of a run: one file that opens offline, in a browser or in MLflow's artifact view.
Nothing in it is loaded from elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass

from medexp.evaluation.record import Record
from medexp.evaluation.scorecard import Scorecard, accuracies
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
    """A case on the page: the question, the reference and both answers in blocks."""

    question: str
    reference: list[Block]
    base: list[Block]
    tuned: list[Block]
    counts: tuple[str, str]


def render_report(record: Record, card: Scorecard, about: ReportHeader) -> str:
    """The page as HTML."""
    answers = [[each.base for each in record.cases], [each.tuned for each in record.cases]]
    lengths = [[(each.tokens, each.ended) for each in side] for side in answers]
    return fill_template(
        "report.html",
        about=about,
        card=card,
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
    found = []
    for case, before, after in zip(record.cases, card.before, card.after, strict=True):
        counts = [
            f"{each.values['structure']:.2f} for its sections, {len(each.claims)} unsupported"
            for each in (before, after)
        ]
        found.append(
            CaseRow(
                case.question,
                split_into_blocks(case.reference),
                split_into_blocks(case.base.text, before),
                split_into_blocks(case.tuned.text, after),
                (counts[0], counts[1]),
            )
        )
    return found
