"""HTML pages filled from `templates/`: what every page knows, and how text and figures look."""

import re
from pathlib import Path
from typing import Any

from medexp.evaluation.measures.sections import find_bare_heading
from medexp.evaluation.scorecard import MeasureResult
from medexp.reports.annotations import Block, MarkedText
from medexp.reports.summary import NOT_FOR_CLINICAL_USE
from medexp.system.units import GIB, format_figure

TEMPLATES = Path(__file__).with_name("templates")
# The Markdown that answers hold.
_HEADING = re.compile(r"\s*#{1,6}\s+(.+)")
_ITEM = re.compile(r"^(\s*)[-*]\s+")
_STRONG = re.compile(r"\*\*(\S(?:.*?\S)?)\*\*")
# The marks around a heading that stands alone.
_EDGES = re.compile(r"^\W+|\W+$")


def fill_template(name: str, **values: object) -> str:
    """Return the template `name` filled with `values` and with what every page knows: the size of a
    GiB, the warning, how figures are written.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "figure": format_figure,
        "interval": format_interval,
        "before": format_before,
        "rendered": render_block,
    }
    environment.globals |= {"gib": GIB, "warning": NOT_FOR_CLINICAL_USE}
    return str(environment.get_template(name).render(**values))


def render_block(block: Block) -> Any:
    """Return the words of `block` as HTML, its Markdown drawn; "" where there are none.

    The mark that ends reasoning is left out: its colour says so.
    """
    from markupsafe import Markup, escape

    html = "".join(map(_render_piece, block.pieces))
    if block.section == "reasoning":
        html = html.rstrip().removesuffix(str(escape("</think>")))
    return Markup("\n".join(map(_render_line, html.strip("\n").splitlines())).strip())


def _render_piece(piece: MarkedText) -> str:
    from markupsafe import escape

    text = str(escape(piece.text))
    look = ' class="harm"' if piece.is_harmful else ""
    return f'<u{look} title="{escape(piece.against)}">{text}</u>' if piece.against else text


def _render_line(line: str) -> str:
    if find_bare_heading(line) is not None:
        return f'<span class="heading">{_EDGES.sub("", line)}</span>'
    if (heading := _HEADING.fullmatch(line)) is not None:
        return f'<span class="heading">{heading[1]}</span>'
    return _STRONG.sub(r"<strong>\1</strong>", _ITEM.sub(r"\1• ", line))


def format_before(result: MeasureResult) -> str:
    """Return the base's mean; where it was asked in two ways, that of the training prompt, and that
    of its best way.
    """
    if len(result.bases) < 2:
        return format_figure(result.before)
    return f"{format_figure(result.bases['base'])} | {format_figure(result.bases['base_best'])}"


def format_interval(result: MeasureResult) -> str:
    """Return the paired change with its 95 % interval and p, or why there is none."""
    return result.missing if result.comparison is None else result.comparison.figures()
