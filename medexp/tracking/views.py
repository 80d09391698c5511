"""Views of an experiment's runs in MLflow: which runs, columns and charts its page shows. MLflow
keeps a view as a tag of the experiment and lists it in the page's menu "Views"; a link names one.

MLflow's own comparison page (`#/compare-runs`) takes nothing but runs from its address; it draws
the first three parameters that differ, by name, and the metric that was logged first.
Source: the state that MLflow 3.17's own "Save as new view" writes.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LOSS, STRUCTURE = "result/loss_after", "eval/structure/after"
# what is measured while a run trains
UNDER_WAY = "eval/loss"
# MLflow's menu for training, not the one for agents
TRAINING_PAGES = "workflowType=machine_learning"
PEAKS = ("vram/peak_gib", "host/peak_gib")
ALWAYS = ("lora.r", "training.learning_rate", "training.max_seq_tokens")
CREATED = "attributes.start_time"
_OF_THE_PLAN = ("vram.", "hardware.")
_TAG = "mlflow.sharedViewState."
_SECTION = "medexp"


@dataclass(frozen=True)
class View:
    """A view: its name in the menu, and what MLflow keeps of it."""

    name: str
    state: Mapping[str, object]

    @property
    def key(self) -> str:
        """What a link calls it: the same for a view of the same name."""
        return "medexp-" + hashlib.sha256(self.name.encode()).hexdigest()[:12]

    def tag(self, now_ms: int) -> tuple[str, str]:
        """Return the experiment's tag that holds it."""
        return _TAG + self.key, json.dumps(
            {
                "name": self.name,
                "createdAt": now_ms,
                "updatedAt": now_ms,
                "state": json.dumps(self.state),
            }
        )

    def url(self, address: str, experiment_id: str, charts: bool) -> str:
        """Return the page that shows it."""
        mode = "compareRunsMode=CHART&" if charts else ""
        query = f"{mode}viewStateShareKey={self.key}&{TRAINING_PAGES}"
        return f"{address}/#/experiments/{experiment_id}/runs?{query}"


def make_all_runs_view(peak: str) -> View:
    """Return the view of every run with its settings and its results; `peak` is the metric of its
    peak memory."""
    return View(
        "medexp: runs", {"searchFilter": "", **_make_columns(ALWAYS, (LOSS, STRUCTURE, peak))}
    )


def make_sweep_view(study: str, trials: Sequence[Mapping[str, str]], peak: str) -> View:
    """Return the finished trials of `study` in parallel coordinates: what varied among the
    parameters of `trials`, then structure, peak memory and held-out loss; below it the loss over
    that memory."""
    varied = list_dimensions(trials)
    # Lines are coloured by the last.
    metrics = (STRUCTURE, peak, LOSS)
    return View(
        f"medexp: sweep {study}",
        {
            "searchFilter": f"{_filter_trials(study)} AND attributes.status = 'FINISHED'",
            # the best first; by date MLflow would hide the trials under the sweep's own run
            "orderByKey": f"metrics.`{LOSS}`",
            "orderByAsc": True,
            **_make_columns(varied, metrics),
            "runsHiddenMode": "SHOW_ALL",
            "compareRunSections": [
                {"uuid": _SECTION, "name": f"{study}: trials compared", "columns": 1}
                | _make_visibility()
            ],
            "compareRunCharts": [
                _make_chart(
                    "PARALLEL", selectedParams=varied, selectedMetrics=metrics, showAllRuns=True
                ),
                _make_chart(
                    "SCATTER",
                    xaxis=_make_axis(peak),
                    yaxis=_make_axis(LOSS),
                    runsCountToCompare=100,
                ),
            ],
            "isAccordionReordered": True,
        },
    )


def make_running_sweep_view(study: str) -> View:
    """Return the view of every trial of `study`, those under way as well: training and held-out
    loss by step, which MLflow draws anew as they come."""
    return View(
        f"medexp: sweep {study}, losses",
        {
            "searchFilter": _filter_trials(study),
            # by date MLflow would hide the trials under the sweep's own run
            "orderByKey": f"metrics.`{UNDER_WAY}`",
            "orderByAsc": True,
            **_make_columns(ALWAYS, (LOSS, STRUCTURE)),
            "runsHiddenMode": "SHOW_ALL",
            "compareRunSections": [
                {"uuid": _SECTION, "name": f"{study}: losses", "columns": 2} | _make_visibility()
            ],
            "compareRunCharts": [_make_line("train/loss"), _make_line(UNDER_WAY)],
            "isAccordionReordered": True,
        },
    )


def list_dimensions(trials: Sequence[Mapping[str, str]]) -> list[str]:
    """Return rank, learning rate and length, then every other parameter of a recipe that differs
    among `trials`."""
    keys = sorted(
        {key for trial in trials for key in trial if not key.startswith(_OF_THE_PLAN)} - set(ALWAYS)
    )
    return [*ALWAYS, *(key for key in keys if len({trial.get(key) for trial in trials}) > 1)]


def _filter_trials(study: str) -> str:
    """Return what finds the trials of `study`; the sweep's own run is none."""
    mark = '"' if "'" in study else "'"
    return f'tags."medexp.study" = {mark}{study}{mark} AND tags."medexp.trial" != \'\''


def _make_columns(params: Sequence[str], metrics: Sequence[str]) -> dict[str, object]:
    """Return what the table shows, in this order, and how wide, in pixels."""
    figures = [*(f"params.`{key}`" for key in params), *(f"metrics.`{key}`" for key in metrics)]
    own = ["attributes.`Models`", "attributes.`Dataset`"]
    widths = dict.fromkeys(figures, 140) | dict.fromkeys(own, 180) | {CREATED: 120}
    return {
        "selectedColumns": [*figures, *own],
        "columnOrder": [CREATED, *figures, *own],
        "columnWidths": widths,
    }


def _make_visibility() -> dict[str, object]:
    return {"display": True, "isReordered": True, "deleted": False, "isGenerated": False}


def _make_chart(kind: str, **settings: object) -> dict[str, object]:
    own = {
        "uuid": f"{_SECTION}-{kind.lower()}",
        "type": kind,
        "metricSectionId": _SECTION,
        "deleted": False,
        "isGenerated": False,
    }
    return own | settings


def _make_line(metric: str) -> dict[str, object]:
    """Return the curves of `metric` as they are: MLflow smooths them unless it is told."""
    chart = _make_chart(
        "LINE",
        metricKey=metric,
        selectedMetricKeys=[metric],
        xAxisKey="step",
        useGlobalLineSmoothing=False,
        lineSmoothness=0,
    )
    return chart | {"uuid": f"{_SECTION}-line-{metric.replace('/', '-')}"}


def _make_axis(metric: str) -> dict[str, str]:
    return {"key": metric, "type": "METRIC"}
