"""The runs that MLflow keeps: one of them found again, the trials of a study, and those whose
process is gone.

A process that is killed outright cannot say so: the next command that opens the store does
(`mark_runs_killed`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medexp.config.schema import Tracking
from medexp.errors import RunError, listing, nearest
from medexp.tracking import open_runs
from medexp.tracking.run_writer import RunWriter
from medexp.tracking.store import get_existing_run, open_existing_store, open_store
from medexp.tracking.store_upkeep import folder_of_uri
from medexp.tracking.tracker import Tracker

# In the place of a run's id.
LAST = "last"


@dataclass(frozen=True)
class StoredRun:
    """A run that is in the store: its name, where each artifact that was asked for lies (those it
    has), its metrics, parameters and tags, its status (FINISHED, KILLED, FAILED, RUNNING), and the
    digests of its held-out and of its training cases."""

    run_id: str
    name: str
    artifacts: Mapping[str, Path]
    metrics: Mapping[str, float]
    held_out: str | None
    tracker: Tracker
    params: Mapping[str, str]
    tags: Mapping[str, str]
    status: str
    trained_on: str | None = None


def find_run(tracking: Tracking, run_id: str, artifacts: Sequence[str]) -> StoredRun:
    """Return run `run_id` with those of its `artifacts` (files or folders) that it has. "last" is
    the newest that training has finished, one with the first of `artifacts` before all others.

    Raises: RunError if there is no such run.
    """
    client = open_existing_store(tracking)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    run = (
        _find_last(client, experiments, artifacts[0])
        if run_id == LAST
        else get_existing_run(client, run_id)
    )
    if run is None:
        newest = client.search_runs(experiments, max_results=3)
        known = listing(f"{run.info.run_id} ({run.info.run_name})" for run in newest)
        raise RunError(
            f"run={run_id} is neither a folder nor a run in {tracking.root}; the newest there are"
            f" {known}. See them with make ui"
        )
    run_id = run.info.run_id
    # MLflow's own download would copy them.
    folder = folder_of_uri(run.info.artifact_uri)
    found = {name: folder / name for name in artifacts if (folder / name).exists()}
    tracker = Tracker(client, run_id, run.info.experiment_id)
    digests = {
        tag.value: data_input.dataset.digest
        for data_input in run.inputs.dataset_inputs
        for tag in data_input.tags
    }
    params, tags = dict(run.data.params), dict(run.data.tags)
    name = run.info.run_name or run_id
    held = digests.get("held-out")
    trained_on = digests.get("training")
    return StoredRun(
        run_id,
        name,
        found,
        dict(run.data.metrics),
        held,
        tracker,
        params,
        tags,
        run.info.status,
        trained_on,
    )


def find_study(tracking: Tracking, name: str) -> tuple[list[str], str]:
    """Return the ids of the finished trials of the newest study called `name`, best first, and the
    metric that says which is best.

    Raises: RunError if there is no such study, naming those there are.
    """
    client = open_existing_store(tracking)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    named = (
        client.search_runs(experiments, f"tags.`medexp.study` = '{name}'", max_results=5000)
        if "'" not in name
        else []
    )
    study = next((run for run in named if "mlflow.parentRunId" not in run.data.tags), None)
    if study is None:
        marked = client.search_runs(
            experiments, "tags.`medexp.objective` LIKE '%'", max_results=200
        )
        known = dict.fromkeys(
            run.data.tags["medexp.study"] for run in marked if "medexp.study" in run.data.tags
        )
        raise RunError(
            f"study={name} is not in {tracking.root}; there are"
            f" {listing(known)}{nearest(name, known)}"
        )
    objective = study.data.tags["medexp.objective"].partition(", ")[0]
    sign = -1 if study.data.tags.get("medexp.direction", "").startswith("maximize") else 1
    trials = [run for run in named if run.data.tags.get("mlflow.parentRunId") == study.info.run_id]
    done = [
        run
        for run in trials
        # What the final run of a trial came to was measured on other cases than the trials were.
        if run.info.status == "FINISHED"
        and objective in run.data.metrics
        and "medexp.final_of_trial" not in run.data.tags
    ]
    return [
        run.info.run_id for run in sorted(done, key=lambda run: sign * run.data.metrics[objective])
    ], objective


def _find_last(client: Any, experiments: Sequence[str], adapter: str) -> Any:
    """Return the newest run that training finished and that kept its adapter; where none did, the
    newest."""
    trained = "tags.mlflow.source.name = 'medexp.train' and attributes.status = 'FINISHED'"
    runs = client.search_runs(
        experiments, trained, order_by=["attributes.end_time DESC"], max_results=200
    )
    # A sweep has a run of its own.
    runs = [run for run in runs if "medexp.model" in run.data.tags]
    # trials of a sweep keep none
    with_adapter = (
        run for run in runs if (folder_of_uri(run.info.artifact_uri) / adapter).is_dir()
    )
    return next(with_adapter, next(iter(runs), None))


def add_folder(tracking: Tracking, run_id: str, folder: Path, name: str) -> None:
    """Keep a copy of `folder` as artifact `name` of run `run_id`, unless it has one.

    Raises: RunError if there is no such run.
    """
    client = open_existing_store(tracking)
    run = get_existing_run(client, run_id)
    if run is None:
        raise RunError(f"run={run_id} is not in {tracking.root}; make ui lists the runs there")
    if not (folder_of_uri(run.info.artifact_uri) / name).exists():
        writer = RunWriter(
            client, run_id, run.info.experiment_id, folder_of_uri(run.info.artifact_uri)
        )
        writer.folder({"folder": str(folder), "name": name})


def add_metrics(tracking: Tracking, run_id: str, values: Mapping[str, float]) -> None:
    """Log `values` with run `run_id`, whoever made it.

    Raises: RunError if there is no such run.
    """
    client = open_existing_store(tracking)
    if get_existing_run(client, run_id) is None:
        raise RunError(f"run={run_id} is not in {tracking.root}; make ui lists the runs there")
    for name, value in values.items():
        client.log_metric(run_id, name, value)


def mark_runs_killed(tracking: Tracking, run_ids: Sequence[str]) -> None:
    """Set runs whose process is gone from RUNNING to KILLED."""
    if not run_ids:
        return
    open_runs.mark_runs_killed(open_store(tracking), run_ids)
