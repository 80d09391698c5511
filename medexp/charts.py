"""Charts: what fits over rank x sequence length as PNG and HTML table; a run's loss and the lengths of its answers as SVG text."""

import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medexp.vram.planner import Cell, sentence

_FITS, _DOES_NOT = "#2a78b5", "#d9d9d9"
_BEFORE, _AFTER = "#8f99a8", "#2a78b5"


def draw_frontier(cells: Sequence[Cell], title: str, folder: Path) -> tuple[Path, Path]:
    """Write frontier.png and frontier.html into `folder`; returns both paths.

    Raises: OSError if the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    png, page = folder / "frontier.png", folder / "frontier.html"
    _draw_png(cells, title, png)
    page.write_text(_page(cells, title), encoding="utf-8")
    return png, page


def loss_curve_svg(training: Sequence[tuple[int, float]], held_out: Sequence[tuple[int, float]]) -> str:
    """Training and held-out loss over steps, as an SVG element."""
    figure, axes = _small_figure()
    axes.plot(*zip(*training, strict=True), color=_BEFORE, linewidth=1.2, label="training")
    if held_out:
        axes.plot(*zip(*held_out, strict=True), color=_AFTER, marker="o", markersize=4, label="held out")
    axes.set(xlabel="step", ylabel="loss, nats a token")
    axes.legend(frameon=False)
    return _svg(figure)


def length_histogram_svg(before: Sequence[int], after: Sequence[int]) -> str:
    """How long the answers are, before and after, as an SVG element."""
    figure, axes = _small_figure()
    bins = [edge * (max([*before, *after]) + 1) / 12 for edge in range(13)]
    axes.hist([before, after], bins, color=[_BEFORE, _AFTER], label=["before", "after"])
    axes.set(xlabel="tokens of the whole answer", ylabel="answers")
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False)
    return _svg(figure)


def _small_figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4, 2.9), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Any) -> str:
    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "medexp"}):  # text stays text; the same ids for the same chart
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def _axes(cells: Sequence[Cell]) -> tuple[list[int], list[int]]:
    return sorted({cell.rank for cell in cells}), sorted({cell.seq for cell in cells})


def _draw_png(cells: Sequence[Cell], title: str, file: Path) -> None:
    from matplotlib.figure import Figure

    ranks, seqs = _axes(cells)
    fastest = max((cell.plan.tokens_per_s for cell in cells if cell.plan), default=1.0)
    figure = Figure(figsize=(1.6 + 0.95 * len(seqs), 1.4 + 0.5 * len(ranks)), layout="constrained")
    axes = figure.subplots()
    for cell in cells:
        column, row = seqs.index(cell.seq), ranks.index(cell.rank)
        strength = 0.25 + 0.75 * cell.plan.tokens_per_s / fastest if cell.plan else 1.0
        axes.add_patch(_rectangle(column, row, _FITS if cell.plan else _DOES_NOT, strength))
        words = f"{cell.plan.tokens_per_s:,.0f}" if cell.plan else "–"
        axes.text(column, row, words, ha="center", va="center", color="white" if cell.plan else "#666666", fontsize=9)
    axes.set_xticks(range(len(seqs)), [f"{seq:,}" for seq in seqs])
    axes.set_yticks(range(len(ranks)), [str(rank) for rank in ranks])
    axes.set(xlim=(-0.5, len(seqs) - 0.5), ylim=(-0.5, len(ranks) - 0.5), xlabel="sequence length, tokens", ylabel="LoRA rank")
    axes.set_title(f"{title}\npredicted tokens/s where a plan fits", fontsize=10, loc="left")
    figure.savefig(file, dpi=144)


def _rectangle(column: int, row: int, color: str, strength: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, color=color, alpha=strength, linewidth=0)


def _page(cells: Sequence[Cell], title: str) -> str:
    ranks, seqs = _axes(cells)
    by_place = {(cell.rank, cell.seq): cell for cell in cells}
    head = "".join(f"<th>{seq:,}</th>" for seq in seqs)
    rows = "".join(
        f"<tr><th>{rank}</th>" + "".join(_table_cell(by_place[rank, seq]) for seq in seqs) + "</tr>" for rank in reversed(ranks)
    )
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{html.escape(title)}</title>"
        "<style>body{font:15px system-ui,sans-serif;margin:2em}table{border-spacing:3px}td,th{padding:.5em .8em;text-align:right}"
        f"td.fits{{background:{_FITS};color:white}}td.not{{background:{_DOES_NOT};color:#666}}</style>"
        f"<h1>{html.escape(title)}</h1><p>Predicted tokens/s of the best plan that fits, over LoRA rank (rows) and sequence length "
        f"(columns, tokens). Point at a cell for its plan.</p><table><tr><th></th>{head}</tr>{rows}</table></html>"
    )


def _table_cell(cell: Cell) -> str:
    if cell.plan is None:
        return "<td class='not' title='nothing fits'>–</td>"
    return f"<td class='fits' title='{html.escape(sentence(cell.plan, None), quote=True)}'>{cell.plan.tokens_per_s:,.0f}</td>"
