"""What fits over rank x sequence length, as a PNG and as an HTML page with every plan."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medexp.planning.planner import Cell, describe_plan

_FITS, _DOES_NOT = "#2a78b5", "#d9d9d9"
# how much of the colour the fastest cell has: dark words are easily read on it
_INK, _DARKEST = "#0a1c2c", 0.7


def draw_frontier(cells: Sequence[Cell], title: str, folder: Path) -> tuple[Path, Path]:
    """Write frontier.png and frontier.html into `folder`, and return both paths.

    Raises: OSError if the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    png, page = folder / "frontier.png", folder / "frontier.html"
    _draw_png(cells, title, png)
    page.write_text(_render_page(cells, title), encoding="utf-8")
    return png, page


def _list_axes(cells: Sequence[Cell]) -> tuple[list[int], list[int]]:
    return sorted({cell.rank for cell in cells}), sorted({cell.seq for cell in cells})


def _draw_png(cells: Sequence[Cell], title: str, file: Path) -> None:
    from matplotlib.figure import Figure

    ranks, seqs = _list_axes(cells)
    fastest = _fastest_tokens_per_s(cells)
    figure = Figure(figsize=(1.6 + 0.95 * len(seqs), 1.4 + 0.5 * len(ranks)), layout="constrained")
    axes = figure.subplots()
    for cell in cells:
        column, row = seqs.index(cell.seq), ranks.index(cell.rank)
        axes.add_patch(_make_rectangle(column, row, _shade_cell(cell, fastest)))
        axes.text(column, row, _cell_text(cell), ha="center", va="center", color=_INK, fontsize=9)
    axes.set_xticks(range(len(seqs)), [f"{seq:,}" for seq in seqs])
    axes.set_yticks(range(len(ranks)), [str(rank) for rank in ranks])
    axes.set(
        xlim=(-0.5, len(seqs) - 0.5),
        ylim=(-0.5, len(ranks) - 0.5),
        xlabel="sequence length, tokens",
        ylabel="LoRA rank",
    )
    shown = (
        "predicted tokens/s where a plan fits"
        if _is_timed(cells)
        else "where a plan fits; speeds are not known"
    )
    axes.set_title(f"{title}\n{shown}", fontsize=10, loc="left")
    figure.savefig(file, dpi=144)


def _fastest_tokens_per_s(cells: Sequence[Cell]) -> float:
    return max((cell.plan.tokens_per_s for cell in cells if cell.plan), default=1.0)


def _is_timed(cells: Sequence[Cell]) -> bool:
    return all(cell.plan is None or cell.plan.is_timed for cell in cells)


def _cell_text(cell: Cell) -> str:
    if cell.plan is None:
        return "–"
    return f"{cell.plan.tokens_per_s:,.0f}" if cell.plan.is_timed else "fits"


def _shade_cell(cell: Cell, fastest: float) -> str:
    """Return the colour of a cell: the faster, the darker; one for all where no speed is known."""
    if cell.plan is None:
        return _DOES_NOT
    strength = _DARKEST * (cell.plan.tokens_per_s / fastest if cell.plan.is_timed else 1.0)
    return "#" + "".join(
        f"{round(255 - (255 - part) * strength):02x}" for part in bytes.fromhex(_FITS[1:])
    )


def _make_rectangle(column: int, row: int, color: str) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, color=color, linewidth=0)


def _render_page(cells: Sequence[Cell], title: str) -> str:
    ranks, seqs = _list_axes(cells)
    by_place, fastest = (
        {(cell.rank, cell.seq): cell for cell in cells},
        _fastest_tokens_per_s(cells),
    )
    head = "".join(f"<th scope='col'>{seq:,}</th>" for seq in seqs)
    rows = "".join(
        f"<tr><th scope='row'>{rank}</th>"
        + "".join(_render_cell(by_place[rank, seq], fastest) for seq in seqs)
        + "</tr>"
        for rank in reversed(ranks)
    )
    plans = "".join(_render_plan(by_place[rank, seq]) for rank in reversed(ranks) for seq in seqs)
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport'"
        " content='width=device-width, initial-scale=1'>"
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>"
        f"<h1>{html.escape(title)}</h1><p>{_describe_cells(cells)} – means that no plan fits."
        " Choose a cell for its plan, below.</p>"
        f"<div class='wide' tabindex='0'><table><tr><th>rank</th>{head}</tr>{rows}</table></div>"
        f"<h2>Plans</h2><ul>{plans}</ul></html>"
    )


def _describe_cells(cells: Sequence[Cell]) -> str:
    """Return what the cells say, in words."""
    places = "over LoRA rank (rows) and sequence length (columns, tokens)"
    if _is_timed(cells):
        return f"Predicted tokens/s of the best plan that fits, {places}: the darker, the faster."
    return f"Where a plan fits, {places}. No speed is predicted: hardware.matmul_tflops is not set."


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:0 auto;max-width:72em;padding:1.2em}"
    "h1{font-size:1.4em}h2{font-size:1.1em}table{border-spacing:3px}"
    "td,th{padding:.5em .8em;text-align:right;white-space:nowrap}"
    "th[scope=row],th:first-child{position:sticky;left:0;background:white}"
    "td a{color:inherit;display:block;margin:-.5em -.8em;padding:.5em .8em}"
    f"li:target{{background:#fff3c4}}td{{color:{_INK}}}td.not{{background:{_DOES_NOT}}}"
    ".wide{overflow-x:auto;background:linear-gradient(to left,white 30%,"
    "transparent) right/2.5em 100% no-repeat local,linear-gradient(to left,#999,"
    "transparent) right/.8em 100% no-repeat scroll}"
)


def _render_cell(cell: Cell, fastest: float) -> str:
    if cell.plan is None:
        return "<td class='not' title='nothing fits'>–</td>"
    look, plan = (
        f"background:{_shade_cell(cell, fastest)}",
        html.escape(describe_plan(cell.plan, None), quote=True),
    )
    link = f"<a href='#{_cell_anchor(cell)}'>{_cell_text(cell)}</a>"
    return f"<td style='{look}' title='{plan}'>{link}</td>"


def _render_plan(cell: Cell) -> str:
    if cell.plan is None:
        return ""
    return (
        f"<li id='{_cell_anchor(cell)}'><b>r={cell.rank}, {cell.seq:,} tokens</b>:"
        f" {html.escape(describe_plan(cell.plan, None))}</li>"
    )


def _cell_anchor(cell: Cell) -> str:
    return f"r{cell.rank}-{cell.seq}"
