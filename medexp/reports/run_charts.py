"""The charts of a run's page, as SVG text: its losses, and the lengths of its answers."""

import io
from collections.abc import Sequence
from typing import Any

_BEFORE = "#8f99a8"
_AFTER = "#2a78b5"
_LIMIT = "#c23030"


def draw_loss_curve(
    training: Sequence[tuple[int, float]], held_out: Sequence[tuple[int, float]]
) -> str:
    """Return training and held-out loss over steps, as an SVG element."""
    figure, axes = _make_small_figure()
    axes.plot(*zip(*training, strict=True), color=_BEFORE, linewidth=1.2, label="training")
    if held_out:
        axes.plot(
            *zip(*held_out, strict=True), color=_AFTER, marker="o", markersize=4, label="held out"
        )
    axes.set(xlabel="step", ylabel="loss, nats a token")
    axes.legend(frameon=False)
    return _to_svg(figure)


def draw_length_histogram(
    before: Sequence[tuple[int, bool]], after: Sequence[tuple[int, bool]]
) -> str:
    """Return how long the answers are, as an SVG element: (tokens, whether it ended by itself) of
    each, before and after. Those that the limit cut off stand apart, beyond the line that marks it.
    """
    figure, axes = _make_small_figure()
    sides = (before, after)
    limit = max((tokens for side in sides for tokens, ended in side if not ended), default=0)
    longest = max(limit, *(tokens + 1 for side in sides for tokens, _ in side))
    bins = [edge * longest / 12 for edge in range(13)]
    ended = [[tokens for tokens, has_ended in side if has_ended] for side in sides]
    axes.hist(ended, bins, color=[_BEFORE, _AFTER], label=["before", "after"])
    if limit:
        _draw_cut_off(
            axes, limit, longest, [sum(not has_ended for _, has_ended in side) for side in sides]
        )
    axes.set(xlabel="tokens of the whole answer", ylabel="answers")
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False)
    return _to_svg(figure)


def _draw_cut_off(axes: Any, limit: int, longest: int, counts: Sequence[int]) -> None:
    """Draw the line of the limit, and beyond it, where no scale is, how many answers it cut off
    before and after.
    """
    width, places = longest / 20, (longest + longest / 20, longest + longest / 10)
    axes.axvline(limit, color=_LIMIT, linestyle="--", linewidth=1, label=f"limit, {limit} tokens")
    axes.bar(
        places, counts, width, color=[_BEFORE, _AFTER], hatch="///", edgecolor="white", linewidth=0
    )
    axes.set_xticks([tick for tick in axes.get_xticks() if tick <= limit])
    axes.annotate(
        "cut off",
        (sum(places) / 2, 0),
        (0, -12),
        textcoords="offset points",
        ha="center",
        fontsize=9,
    )
    axes.set_xlim(0, longest + 3 * width)


def _make_small_figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4, 2.9), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _to_svg(figure: Any) -> str:
    from matplotlib import rc_context

    text = io.StringIO()
    # Text stays text, and the same chart gets the same ids.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "medexp"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
