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
from medexp.sweep.study.history import StudyHistory, ending_of
from medexp.sweep.study.trial_files import Ending
from medexp.tracking.artifact_names import SWEEP_PAGE

RANK = "lora.r"
LENGTH = "training.max_seq_tokens"
# Finished trials. Among fewer it is chance which parameter seems to matter.
MIN_TRIALS_FOR_IMPORTANCE = 10
# From the least objective value to the largest.
LINE_COLORS = ("#08306b", "#8c6bb1", "#d9822b")
CEILING_COLOR = "#c0392b"
REFUSED_COLOR = "#999999"
_log = logging.getLogger(__name__)


def draw_charts(study: StudyHistory, config: RunConfig, folder: Path) -> list[Path]:
    """Write sweep.html and the PNGs into `folder`; returns their paths.

    A chart that has too few trials is left out.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    if not _count_finished(study):
        return []
    from optuna import visualization
    from optuna.visualization import matplotlib as in_matplotlib

    plotly_makers = _chart_makers(
        study, visualization, lambda: _make_rank_length_page(study, config)
    )
    matplotlib_makers = _chart_makers(
        study, in_matplotlib, lambda: _make_rank_length_picture(study, config)
    )
    figures = [
        figure
        for name, make in plotly_makers.items()
        if (figure := _make_or_skip(name, make)) is not None
    ]
    # plotly's JavaScript, some MB, is written once.
    divs = [
        figure.to_html(full_html=False, include_plotlyjs=index == 0)
        for index, figure in enumerate(figures)
    ]
    page = folder / SWEEP_PAGE
    page.write_text(
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{study.name}</title>"
        f"<body style='font:15px system-ui'>{''.join(divs)}{_importance_note(study)}</body></html>",
        encoding="utf-8",
    )
    pictures = [_save_picture(name, make, folder) for name, make in matplotlib_makers.items()]
    return [page, *(picture for picture in pictures if picture is not None)]


def _count_finished(study: StudyHistory) -> int:
    """Return how many trials were trained to their end; a copy of one says nothing new."""
    return study.count_ended(Ending.done)


def _importance_note(study: StudyHistory) -> str:
    """Return why the page has no chart of importances, "" where it has one or is to have none."""
    finished = _count_finished(study)
    if len(study.options.objectives) > 1 or finished >= MIN_TRIALS_FOR_IMPORTANCE:
        return ""
    return (
        f"<p>Which parameter matters most is drawn from {MIN_TRIALS_FOR_IMPORTANCE} finished trials"
        f" on; there are {finished}.</p>"
    )


def _chart_makers(
    study: StudyHistory, plots: Any, make_rank_length_chart: Callable[[], Any]
) -> dict[str, Callable[[], Any]]:
    """Return the functions that make the charts, by the charts' names.

    `plots` is Optuna's visualization module for plotly or the one for matplotlib.
    """
    objectives = list(study.options.objectives)
    if len(objectives) > 1:
        return {
            "pareto_front": lambda: plots.plot_pareto_front(study.optuna, target_names=objectives)
        }
    objective = objectives[0]
    makers: dict[str, Callable[[], Any]] = {
        "history": lambda: plots.plot_optimization_history(study.optuna, target_name=objective),
        "parallel_coordinates": lambda: _recolor_lines(
            plots.plot_parallel_coordinate(study.optuna, target_name=objective)
        ),
    }
    if _count_finished(study) >= MIN_TRIALS_FOR_IMPORTANCE:
        makers["importance"] = lambda: plots.plot_param_importances(
            study.optuna, target_name=objective
        )
    if {RANK, LENGTH} <= set(study.space.dimensions):
        makers["rank_x_length"] = make_rank_length_chart
    return makers


def _recolor_lines(chart: Any) -> Any:
    """Return the `chart` of parallel coordinates with colours that all show on white.

    Optuna draws the line of the worst trial in white.
    """
    if not hasattr(chart, "data"):
        return _recolor_picture_lines(chart)
    from plotly.colors import sample_colorscale

    scale = [[index / (len(LINE_COLORS) - 1), color] for index, color in enumerate(LINE_COLORS)]
    for trace in chart.data:
        # The first axis is the objective, from 0 to 1.
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
        lines.set_cmap(LinearSegmentedColormap.from_list("medexp", LINE_COLORS))
    return axes


def _make_or_skip(name: str, make: Callable[[], Any]) -> Any:
    """Return the chart that `make` makes, None where there are too few trials for it."""
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            # Optuna warns of charts of few trials, which the reader of the chart sees.
            warnings.simplefilter("ignore")
            return make()
    except (ValueError, RuntimeError, ZeroDivisionError, ImportError) as error:
        _log.info("no chart %s: %s", name, error)
        return None
    finally:
        optuna.logging.set_verbosity(verbosity)


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


def find_rank_length_frontier(study: StudyHistory, config: RunConfig) -> list[tuple[int, int]]:
    """Return (rank, the longest sequence in tokens that fits) for each rank of the study.

    Empty without a ceiling on a card.
    """
    if config.hardware.vram_ceiling_gib is None or not planner.is_planned(config):
        return []
    ranks = sorted({int(trial.params[RANK]) for trial in study.trials() if RANK in trial.params})
    return [
        (rank, longest)
        for rank in ranks
        if (
            longest := feasibility.find_longest_that_fits(feasibility.resize_run(config, rank=rank))
        )
    ]


def _split_done_and_refused(study: StudyHistory) -> tuple[Sequence[Any], Sequence[Any]]:
    """Return the trials with a value and a place, and the proposals that could not fit."""
    trials = study.trials()
    done = [trial for trial in trials if ending_of(trial) is Ending.done and trial.params]
    refused = [
        trial
        for trial in trials
        if ending_of(trial) is Ending.infeasible and {RANK, LENGTH} <= set(trial.params)
    ]
    return done, refused


def _make_rank_length_page(study: StudyHistory, config: RunConfig) -> Any:
    from plotly import graph_objects

    done, refused = _split_done_and_refused(study)
    objective = study.options.objectives[0]
    figure = graph_objects.Figure(layout={"title": f"{objective} over rank x sequence length"})
    values = [trial.value for trial in done]
    figure.add_scatter(
        x=[trial.params[LENGTH] for trial in done],
        y=[trial.params[RANK] for trial in done],
        mode="markers",
        name="trained",
        text=[f"trial {trial.number}: {trial.value:.4f}" for trial in done],
        marker={"color": values, "colorscale": "Viridis", "size": 14, "showscale": True},
    )
    figure.add_scatter(
        x=[trial.params[LENGTH] for trial in refused],
        y=[trial.params[RANK] for trial in refused],
        mode="markers",
        name="could not fit, not started",
        marker={"symbol": "x", "color": REFUSED_COLOR, "size": 9},
    )
    frontier = find_rank_length_frontier(study, config)
    if frontier:
        figure.add_scatter(
            x=[length for _, length in frontier],
            y=[rank for rank, _ in frontier],
            mode="lines",
            name=f"ceiling, {config.hardware.vram_ceiling_gib:g} GiB",
        )
    figure.update_xaxes(title="sequence length, tokens")
    figure.update_yaxes(title="LoRA rank", type="log")
    return figure


def _make_rank_length_picture(study: StudyHistory, config: RunConfig) -> Any:
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
            [trial.params[LENGTH] for trial in refused],
            [trial.params[RANK] for trial in refused],
            marker="x",
            c=REFUSED_COLOR,
            label="could not fit, not started",
        )
    frontier = find_rank_length_frontier(study, config)
    if frontier:
        axes.plot(
            [length for _, length in frontier],
            [rank for rank, _ in frontier],
            color=CEILING_COLOR,
            label=f"ceiling, {config.hardware.vram_ceiling_gib:g} GiB",
        )
    figure.colorbar(dots, label=study.options.objectives[0])
    axes.set(xlabel="sequence length, tokens", ylabel="LoRA rank", yscale="log")
    # A log axis would mark only powers of ten.
    ranks = sorted({int(trial.params[RANK]) for trial in (*done, *refused)})
    axes.set_yticks(ranks, [str(rank) for rank in ranks])
    axes.minorticks_off()
    axes.legend(loc="best", fontsize=8)
    return axes
