"""What every page of medexp is made with: the templates, and how figures are written in them."""

import re
from pathlib import Path
from typing import Any

from medexp.evaluation.measures.sections import heading_alone
from medexp.evaluation.scorecard import MeasureResult
from medexp.reports.annotations import Block
from medexp.reports.summary import NOT_FOR_CLINICAL_USE
from medexp.system.units import GIB, figure

_HEADING = re.compile(r"\s*#{1,6}\s+(.+)")


_ITEM = re.compile(r"^(\s*)[-*]\s+")


_STRONG = re.compile(r"\*\*(\S(?:.*?\S)?)\*\*")


_EDGES = re.compile(r"^\W+|\W+$")


TEMPLATES = Path(__file__).with_name("templates")


def fill_template(name: str, **values: object) -> str:
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
    environment.filters |= {
        "figure": figure,
        "interval": format_interval,
        "before": format_before,
        "rendered": render_block,
    }
    environment.globals |= {"gib": GIB, "warning": NOT_FOR_CLINICAL_USE}
    return str(environment.get_template(name).render(**values))


def render_block(block: Block) -> Any:
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
    return Markup("\n".join(map(_render_line, shown.strip("\n").splitlines())).strip())


def _render_line(line: str) -> str:
    if heading_alone(line) is not None:
        return f'<span class="heading">{_EDGES.sub("", line)}</span>'
    if (found := _HEADING.fullmatch(line)) is not None:
        return f'<span class="heading">{found[1]}</span>'
    return _STRONG.sub(r"<strong>\1</strong>", _ITEM.sub(r"\1• ", line))


def format_before(line: MeasureResult) -> str:
    """Return the base's mean; where it was asked in two ways, that of the training prompt, and that
    of its best way.
    """
    if len(line.bases) < 2:
        return figure(line.before)
    return f"{figure(line.bases['base'])} | {figure(line.bases['base_best'])}"


def format_interval(line: MeasureResult) -> str:
    """The paired change of a line with its 95 % interval and p."""
    return line.missing if line.comparison is None else line.comparison.figures()
