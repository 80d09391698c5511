"""report.html of a run: one file that opens offline, in a browser or in MLflow's artifact view.
Nothing in it is loaded from elsewhere."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medexp.evaluation.measures.sections import heading_alone
from medexp.evaluation.record import Record
from medexp.evaluation.scorecard import Card, Line, accuracies
from medexp.reports import frontier_chart as charts
from medexp.reports.annotations import Block, blocks
from medexp.reports.summary import NOT_FOR_CLINICAL_USE
from medexp.system.units import GIB, figure

_HEADING, _ITEM, _STRONG = (
    re.compile(r"\s*#{1,6}\s+(.+)"),
    re.compile(r"^(\s*)[-*]\s+"),
    re.compile(r"\*\*(\S(?:.*?\S)?)\*\*"),
)
_EDGES = re.compile(r"^\W+|\W+$")
TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class About:
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
class Shown:
    """A case on the page: the question, the reference and both answers in blocks."""

    question: str
    reference: list[Block]
    base: list[Block]
    tuned: list[Block]
    counts: tuple[str, str]


def filled(name: str, **values: object) -> str:
    """The template `name` filled with `values` and with what every page knows: the size of a GiB,
    the warning, how figures are written."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": figure, "interval": interval, "rendered": rendered}
    environment.globals |= {"gib": GIB, "warning": NOT_FOR_CLINICAL_USE}
    return str(environment.get_template(name).render(**values))


def render(record: Record, card: Card, about: About) -> str:
    """The page as HTML."""
    answers = [[each.base for each in record.cases], [each.tuned for each in record.cases]]
    lengths = [[(each.tokens, each.ended) for each in side] for side in answers]
    return filled(
        "report.html",
        about=about,
        card=card,
        cases=_shown(record, card),
        loss_curve=(
            charts.loss_curve_svg(about.training_loss, about.held_out_loss)
            if about.training_loss
            else ""
        ),
        lengths=charts.length_histogram_svg(*lengths) if record.cases else "",
        accuracies=accuracies(record),
        vram=(
            [("planned", about.planned_bytes), ("measured", about.measured_bytes)]
            if about.ceiling_bytes
            else []
        ),
    )


def rendered(block: Block) -> Any:
    """The words of `block` as HTML, its Markdown drawn; without the mark that ends reasoning, which
    its colour says. "" where there are none."""
    from markupsafe import Markup, escape

    marked = "".join(
        (
            f'<u title="{escape(each.against)}">{escape(each.text)}</u>'
            if each.against
            else str(escape(each.text))
        )
        for each in block.pieces
    )
    shown = (
        marked.rstrip().removesuffix(str(escape("</think>")))
        if block.section == "reasoning"
        else marked
    )
    return Markup("\n".join(map(_line, shown.strip("\n").splitlines())).strip())


def _line(line: str) -> str:
    if heading_alone(line) is not None:
        return f'<span class="heading">{_EDGES.sub("", line)}</span>'
    if (found := _HEADING.fullmatch(line)) is not None:
        return f'<span class="heading">{found[1]}</span>'
    return _STRONG.sub(r"<strong>\1</strong>", _ITEM.sub(r"\1• ", line))


def interval(line: Line) -> str:
    """The paired change of a line with its 95 % interval and p."""
    return line.missing if line.comparison is None else line.comparison.figures()


def _shown(record: Record, card: Card) -> list[Shown]:
    found = []
    for case, before, after in zip(record.cases, card.before, card.after, strict=True):
        counts = [
            f"{each.values['structure']:.2f} for its sections, {len(each.claims)} unsupported"
            for each in (before, after)
        ]
        found.append(
            Shown(
                case.question,
                blocks(case.reference),
                blocks(case.base.text, before),
                blocks(case.tuned.text, after),
                (counts[0], counts[1]),
            )
        )
    return found
