"""report.html of a run: one file that opens offline, in a browser or in MLflow's artifact view.
Nothing in it is loaded from elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from medexp.evaluation.leading_lines import list_harmful_cases, make_leading_lines
from medexp.evaluation.record import AnsweredCase, Record
from medexp.evaluation.scorecard import Scorecard, list_accuracies
from medexp.reports.annotations import Block, split_into_blocks
from medexp.reports.page_template import fill_template
from medexp.reports.run_charts import draw_length_histogram, draw_loss_curve


@dataclass(frozen=True)
class ReportHeader:
    """What the page says of the run beside its measures: a title, rows of facts, curves of (step,
    loss), bytes of VRAM (0: no card).
    """

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


def render_report(record: Record, scorecard: Scorecard, header: ReportHeader) -> str:
    """Return the page as HTML."""
    base_lengths = [(case.base.tokens, case.base.ended) for case in record.cases]
    tuned_lengths = [(case.tuned.tokens, case.tuned.ended) for case in record.cases]
    loss_curve, lengths, vram = "", "", []
    if header.training_loss:
        loss_curve = draw_loss_curve(header.training_loss, header.held_out_loss)
    if record.cases:
        lengths = draw_length_histogram(base_lengths, tuned_lengths)
    if header.ceiling_bytes:
        vram = [("planned", header.planned_bytes), ("measured", header.measured_bytes)]
    return fill_template(
        "report.html",
        header=header,
        scorecard=scorecard,
        leading=make_leading_lines(scorecard),
        harmful=list_harmful_cases(scorecard),
        cases=_case_rows(record, scorecard),
        loss_curve=loss_curve,
        lengths=lengths,
        accuracies=list_accuracies(record),
        vram=vram,
    )


def _case_rows(record: Record, scorecard: Scorecard) -> list[CaseRow]:
    return [
        CaseRow(
            case.question,
            reference=split_into_blocks(case.reference),
            base=split_into_blocks(case.base.text, before),
            tuned=split_into_blocks(case.tuned.text, after),
            counts=(before.describe(), after.describe()),
            base_best=_split_base_best(case, scorecard, place),
        )
        for place, (case, before, after) in enumerate(
            zip(record.cases, scorecard.before, scorecard.after, strict=True)
        )
    ]


def _split_base_best(case: AnsweredCase, scorecard: Scorecard, place: int) -> list[Block]:
    if case.base_best is None or not scorecard.base_best:
        return []
    return split_into_blocks(case.base_best.text, scorecard.base_best[place])
