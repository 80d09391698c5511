"""The pages of MLflow that are worth opening: the experiment, its newest sweep, the last run."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from medexp.config.schema import Tracking
from medexp.system.private_names import VIEWS, is_untested
from medexp.system.process_identity import is_dead
from medexp.tracking import views
from medexp.tracking.open_runs import PROCESS
from medexp.tracking.store import open_store
from medexp.tracking.views import TRAINING_PAGES

# The tag of a sweep's own run that says how far it is.
PROGRESS = "medexp.progress"
# Runs that MLflow's comparison still shows well.
COMPARED = 12


@dataclass(frozen=True)
class Link:
    """A page and what it shows."""

    title: str
    url: str


def list_links(tracking: Tracking, address: str) -> Sequence[Link]:
    """Return the experiment, the newest sweep's comparison, and the last run, where there are such;
    their views are kept with the experiment."""
    client = open_store(tracking)
    experiment = client.get_experiment_by_name(tracking.experiment)
    if experiment is None:
        return [Link("all experiments", address)]
    number = experiment.experiment_id
    runs = client.search_runs([number], max_results=1000)
    found = [
        _link_view(
            client,
            views.make_all_runs_view(_pick_peak_metric(runs)),
            f"experiment {experiment.name}",
            address,
            number,
            charts=False,
        )
    ]
    found += _link_running_sweeps(client, runs, address)
    parents = {run.data.tags.get("mlflow.parentRunId") for run in runs}
    studies = [
        run for run in runs if run.info.run_id in parents and "medexp.study" in run.data.tags
    ]
    for newest in studies[:1]:
        trials = [
            run for run in runs if run.data.tags.get("mlflow.parentRunId") == newest.info.run_id
        ]
        found += _link_comparison(
            client, newest, [run for run in trials if run.info.status == "FINISHED"], address
        )
    if last := next((run for run in runs if run not in studies), None):
        page = f"{address}/#/experiments/{number}/runs/{last.info.run_id}"
        found.append(Link(f"last run, {last.info.run_name}", f"{page}?{TRAINING_PAGES}"))
        found.append(Link("its report", f"{page}/artifacts/report.html?{TRAINING_PAGES}"))
    return found


def _link_running_sweeps(client: Any, runs: Sequence[Any], address: str) -> list[Link]:
    """Return the page of every sweep that is under way, and its trials' losses as curves."""
    found = []
    for run in runs:
        tags = run.data.tags
        if "medexp.study" not in tags or "medexp.trial" in tags:
            continue
        if run.info.status != "RUNNING" or is_dead(tags.get(PROCESS, "")):
            continue
        name, number = tags["medexp.study"], run.info.experiment_id
        progress = f", {tags[PROGRESS]}" if PROGRESS in tags else ""
        page = f"{address}/#/experiments/{number}/runs/{run.info.run_id}?{TRAINING_PAGES}"
        view = views.make_running_sweep_view(name)
        found += [
            Link(f"sweep {name} is under way{progress}", page),
            _link_view(client, view, f"sweep {name}, losses of its trials", address, number, True),
        ]
    return found


def _link_comparison(client: Any, study: Any, trials: Sequence[Any], address: str) -> list[Link]:
    """Return the trials in the charts of their experiment, and in MLflow's page for
    comparing runs."""
    if len(trials) < 2:
        return []
    name, number = study.data.tags["medexp.study"], study.info.experiment_id
    view = views.make_sweep_view(
        name, [run.data.params for run in trials], _pick_peak_metric(trials)
    )
    shown = trials[:COMPARED]
    runs, experiments = (
        quote(json.dumps(ids)) for ids in ([run.info.run_id for run in shown], [number])
    )
    side_by_side = (
        f"{address}/#/compare-runs?runs={runs}&experiments={experiments}&{TRAINING_PAGES}"
    )
    return [
        _link_view(
            client,
            view,
            f"sweep {name}, {len(trials)} trials in charts",
            address,
            number,
            charts=True,
        ),
        Link(f"sweep {name}, {len(shown)} trials side by side", side_by_side),
    ]


def _link_view(
    client: Any, view: views.View, title: str, address: str, experiment_id: str, charts: bool
) -> Link:
    """Return the page in this view; without it where the version of MLflow is one whose views were
    not tried."""
    if is_untested(VIEWS.library):
        return Link(title, f"{address}/#/experiments/{experiment_id}/runs?{TRAINING_PAGES}")
    client.set_experiment_tag(experiment_id, *view.tag(int(time.time() * 1000)))
    return Link(title, view.url(address, experiment_id, charts))


def _pick_peak_metric(runs: Sequence[Any]) -> str:
    """Return the metric of peak memory that the newest of `runs` to have one has."""
    return next(
        (peak for run in runs for peak in views.PEAKS if peak in run.data.metrics), views.PEAKS[0]
    )
