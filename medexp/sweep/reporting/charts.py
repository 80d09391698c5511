"""A study in pictures: one self-contained HTML page (plotly) and a PNG of each chart (matplotlib,
which needs no browser).
"""

import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from medexp.config.schema import RunConfig
from medexp.planning import feasibility, planner
from medexp.sweep.study.history import ending_of
from medexp.sweep.study.study import Study
from medexp.sweep.study.trial_files import Ending
from medexp.tracking.artifact_names import SWEEP_PAGE

RANK, LENGTH = "lora.r", "training.max_seq_tokens"
MIN_TRIALS_FOR_IMPORTANCE = 10  # finished trials: which parameter matters is chance among fewer
LINES = ("#08306b", "#8c6bb1", "#d9822b")  # from the least value to the largest
_log = logging.getLogger(__name__)


def draw_charts(study: Study, run: RunConfig, folder: Path) -> list[Path]:
    """Write sweep.html and the PNGs into `folder`; returns their paths. A chart that the trials do
    not suffice for is left out.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    if not _count_finished(study):
        return []
    from optuna import visualization
    from optuna.visualization import matplotlib as in_matplotlib

    pages = _chart_makers(study, visualization, lambda: _make_rank_length_page(study, run))
    pictures = _chart_makers(study, in_matplotlib, lambda: _make_rank_length_picture(study, run))
    figures = [
        figure for name, make in pages.items() if (figure := _make_or_skip(name, make)) is not None
    ]
    parts = [
        figure.to_html(full_html=False, include_plotlyjs=index == 0)
        for index, figure in enumerate(figures)
    ]
    page = folder / SWEEP_PAGE
    head = f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{study.name}</title>"
    page.write_text(
        f"{head}<body style='font:15px system-ui'>{''.join(parts)}{_importance_note(study)}</body></html>",
        encoding="utf-8",
    )
    return [
        page,
        *(
            file
            for name, make in pictures.items()
            if (file := _save_picture(name, make, folder)) is not None
        ),
    ]


def _count_finished(study: Study) -> int:
    """Trials that were trained to their end; one that repeats another says nothing new."""
    return sum(ending_of(trial) is Ending.done for trial in study.trials())


def _importance_note(study: Study) -> str:
    """Why the page does not say which parameter matters most, "" where it does or is not asked."""
    if len(study.options.objectives) > 1 or _count_finished(study) >= MIN_TRIALS_FOR_IMPORTANCE:
        return ""
    return (
        f"<p>Which parameter matters most is drawn from {MIN_TRIALS_FOR_IMPORTANCE} finished trials on; there are"
        f" {_count_finished(study)}.</p>"
    )


def _chart_makers(
    study: Study, shown: Any, rank_by_length: Callable[[], Any]
) -> dict[str, Callable[[], Any]]:
    """Charts by name, made by `shown`: Optuna's module for plotly or for matplotlib."""
    if len(study.options.objectives) > 1:
        return {
            "pareto_front": lambda: shown.plot_pareto_front(
                study.optuna, target_names=list(study.options.objectives)
            )
        }
    name = study.options.objectives[0]
    charts: dict[str, Callable[[], Any]] = {
        "history": lambda: shown.plot_optimization_history(study.optuna, target_name=name),
        "parallel_coordinates": lambda: _recolor_lines(
            shown.plot_parallel_coordinate(study.optuna, target_name=name)
        ),
    }
    if _count_finished(study) >= MIN_TRIALS_FOR_IMPORTANCE:
        charts["importance"] = lambda: shown.plot_param_importances(study.optuna, target_name=name)
    return charts | ({"rank_x_length": rank_by_length} if _varies_rank_and_length(study) else {})


def _recolor_lines(chart: Any) -> Any:
    """`chart` of parallel coordinates with every line in sight: Optuna draws the worst one white on
    white.
    """
    if not hasattr(chart, "data"):
        return _recolor_picture_lines(chart)
    from plotly.colors import sample_colorscale

    scale = [[at / (len(LINES) - 1), colour] for at, colour in enumerate(LINES)]
    for trace in chart.data:
        # the first axis is the objective, from 0 to 1
        if trace.mode == "lines" and trace.y[0] is not None:
            trace.update(
                line={"color": sample_colorscale(scale, trace.y[0])[0], "width": 2}, opacity=0.9
            )
    return chart.update_traces(
        {"marker.colorscale": scale, "marker.reversescale": False}, {"mode": "markers"}
    )


def _recolor_picture_lines(axes: Any) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    for lines in axes.collections:
        lines.set_cmap(LinearSegmentedColormap.from_list("medexp", LINES))
    return axes


def _make_or_skip(name: str, make: Callable[[], Any]) -> Any:
    """The chart, None where the trials do not suffice for it: a picture less is no reason to fail."""
    import optuna

    shown_before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that few trials make poor charts is seen in the chart
            return make()
    except (ValueError, RuntimeError, ZeroDivisionError, ImportError) as error:
        _log.info("no chart %s: %s", name, error)
        return None
    finally:
        optuna.logging.set_verbosity(shown_before)


def _save_picture(name: str, make: Callable[[], Any], folder: Path) -> Path | None:
    from matplotlib import pyplot

    axes = _make_or_skip(name, make)
    if axes is None:
        return None
    figure = (axes if hasattr(axes, "figure") else axes[0]).figure
    figure.set_size_inches(8, 5)
    file = folder / f"{name}.png"
    figure.savefig(file, dpi=120, bbox_inches="tight")
    pyplot.close("all")
    return file


def _varies_rank_and_length(study: Study) -> bool:
    return {RANK, LENGTH} <= set(study.space.dimensions)


def find_rank_length_frontier(study: Study, run: RunConfig) -> list[tuple[int, int]]:
    """(rank, the longest sequence that fits) over the ranks of the study; empty without a ceiling
    on a card.
    """
    if run.hardware.vram_ceiling_gib is None or not planner.is_planned(run):
        return []
    ranks = sorted({int(trial.params[RANK]) for trial in study.trials() if RANK in trial.params})
    return [
        (rank, longest)
        for rank in ranks
        if (longest := feasibility.longest_that_fits(feasibility.resized(run, rank=rank)))
    ]


def _split_done_and_refused(study: Study) -> tuple[Sequence[Any], Sequence[Any]]:
    """Trials with a value, and proposals that could not fit."""
    trials = study.trials()
    return (
        [trial for trial in trials if ending_of(trial) is Ending.done],
        [
            trial
            for trial in trials
            if ending_of(trial) is Ending.infeasible and {RANK, LENGTH} <= set(trial.params)
        ],
    )


def _make_rank_length_page(study: Study, run: RunConfig) -> Any:
    from plotly import graph_objects

    done, refused = _split_done_and_refused(study)
    figure = graph_objects.Figure(
        layout={"title": f"{study.options.objectives[0]} over rank x sequence length"}
    )
    values = [trial.value for trial in done]
    figure.add_scatter(
        x=[trial.params[LENGTH] for trial in done], y=[trial.params[RANK] for trial in done], mode="markers", name="trained",
        text=[f"trial {trial.number}: {trial.value:.4f}" for trial in done],
        marker={"color": values, "colorscale": "Viridis", "size": 14, "showscale": True},
    )  # fmt: skip
    figure.add_scatter(
        x=[trial.params[LENGTH] for trial in refused], y=[trial.params[RANK] for trial in refused], mode="markers",
        name="could not fit, not started", marker={"symbol": "x", "color": "#999999", "size": 9},
    )  # fmt: skip
    edge = find_rank_length_frontier(study, run)
    if edge:
        figure.add_scatter(
            x=[seq for _, seq in edge],
            y=[rank for rank, _ in edge],
            mode="lines",
            name=f"ceiling, {run.hardware.vram_ceiling_gib:g} GiB",
        )
    figure.update_xaxes(title="sequence length, tokens")
    figure.update_yaxes(title="LoRA rank", type="log")
    return figure


def _make_rank_length_picture(study: Study, run: RunConfig) -> Any:
    from matplotlib import pyplot

    done, refused = _split_done_and_refused(study)
    figure, axes = pyplot.subplots()
    dots = axes.scatter(
        [trial.params[LENGTH] for trial in done],
        [trial.params[RANK] for trial in done],
        c=[trial.value for trial in done],
        s=90,
        label="trained",
    )
    if refused:
        axes.scatter(
            [trial.params[LENGTH] for trial in refused], [trial.params[RANK] for trial in refused], marker="x", c="#999999",
            label="could not fit, not started",
        )  # fmt: skip
    edge = find_rank_length_frontier(study, run)
    if edge:
        axes.plot(
            [seq for _, seq in edge],
            [rank for rank, _ in edge],
            color="#c0392b",
            label=f"ceiling, {run.hardware.vram_ceiling_gib:g} GiB",
        )
    figure.colorbar(dots, label=study.options.objectives[0])
    axes.set(xlabel="sequence length, tokens", ylabel="LoRA rank", yscale="log")
    ranks = sorted({int(trial.params[RANK]) for trial in (*done, *refused)})
    axes.set_yticks(ranks, [str(rank) for rank in ranks])
    axes.minorticks_off()
    axes.legend(loc="best", fontsize=8)
    return axes
