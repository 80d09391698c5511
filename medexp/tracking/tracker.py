"""MLflow keeps the run: parameters, step metrics, data, artifacts, and a status that is right whatever the ending."""

import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medexp.config.flatten import Value
from medexp.config.schema import Tracking
from medexp.errors import RunInterrupted, TrialPruned
from medexp.system.home import with_tilde
from medexp.tracking.store import existing_run, lies_in, open_store

_TABLES = "mlflow.loggedArtifacts"


@dataclass(frozen=True)
class DataInput:
    """A data set a run has seen: `context` is "training" or "held-out"."""

    name: str
    context: str
    digest: str
    source: str
    rows: int


class Tracker:
    """One MLflow run."""

    def __init__(self, client: Any, run_id: str, experiment_id: str):
        self._client = client
        self.run_id = run_id
        self.experiment_id = experiment_id
        self.latest: dict[str, float] = {}  # the last value of every metric logged by this process
        self.on_first_metrics: Callable[[], None] | None = None

    @property
    def page(self) -> str:
        """The path of the run's page below the address of MLflow's server."""
        return f"#/experiments/{self.experiment_id}/runs/{self.run_id}"

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log `values` at `step`."""
        from mlflow.entities import Metric

        self.latest |= values
        now = int(time.time() * 1000)
        self._client.log_batch(self.run_id, metrics=[Metric(name, value, now, step) for name, value in values.items()])
        if (begin := self.on_first_metrics) is not None:
            self.on_first_metrics = None
            begin()

    def history(self, name: str) -> list[tuple[int, float]]:
        """The last value of metric `name` at every step, by step."""
        values = {each.step: each.value for each in self._client.get_metric_history(self.run_id, name)}
        return sorted(values.items())

    def timed(self, name: str) -> list[tuple[float, float]]:
        """Every value of metric `name` with the second it was logged in, by time."""
        return sorted((each.timestamp / 1000, each.value) for each in self._client.get_metric_history(self.run_id, name))

    def params(self, values: Mapping[str, Value]) -> None:
        """Log parameters. Those that a continued run has already stay: MLflow lets none change, and a tag of its name says what
        one is now."""
        from mlflow.entities import Param

        known = self._client.get_run(self.run_id).data.params
        said = {name: with_tilde(str(value)) for name, value in values.items()}
        self.tags({name: value for name, value in said.items() if known.get(name, value) != value})
        entries = [Param(name, value) for name, value in said.items() if name not in known]
        for start in range(0, len(entries), 100):  # the server's limit for one batch
            self._client.log_batch(self.run_id, params=entries[start : start + 100])

    def tags(self, values: Mapping[str, object]) -> None:
        """Set tags, leaving out what is None."""
        from mlflow.entities import RunTag

        if entries := [RunTag(name, with_tilde(str(value))) for name, value in values.items() if value is not None]:
            self._client.log_batch(self.run_id, tags=entries)

    def note(self, markdown: str) -> None:
        """Say `markdown` in the place of the run's description."""
        self.tags({"mlflow.note.content": markdown[:8000]})  # MLflow's limit for a tag

    def model(self, name: str, folder: Path, params: Mapping[str, Value], tags: Mapping[str, object]) -> None:
        """List the adapter kept as artifact `folder` among the experiment's models, as one that this run has made; a continued run
        that has one keeps it.

        Its files are shared with the artifact (hard links), so that a model costs no disk.
        """
        from mlflow.entities import LoggedModelOutput

        said_of_run = {key: with_tilde(str(value)) for key, value in params.items()}
        kind = {"params": said_of_run, "model_type": "LoRA adapter"}
        said = {key: str(value) for key, value in tags.items() if value is not None}
        allowed = re.sub(r"[^\w -]", "_", name)
        made = self._model() or self._client.create_logged_model(self.experiment_id, allowed, self.run_id, tags=said, **kind)
        _linked(folder, lies_in(made.artifact_location))
        self._client.finalize_logged_model(made.model_id, "READY")
        if made.model_id not in {each.model_id for each in self._client.get_run(self.run_id).outputs.model_outputs}:
            self._client.log_outputs(self.run_id, [LoggedModelOutput(made.model_id, step=0)])

    def _model(self) -> Any:
        """The model that this run has made, or was making when its process died."""
        mine = f"source_run_id = '{self.run_id}'"
        return next(iter(self._client.search_logged_models([self.experiment_id], filter_string=mine, max_results=1)), None)

    def text(self, text: str, file: str) -> None:
        """Keep `text` as artifact `file`."""
        self._client.log_text(self.run_id, text, file)

    def json(self, value: object, file: str) -> None:
        """Keep `value` as artifact `file`."""
        self._client.log_dict(self.run_id, value, file)

    def folder(self, folder: Path, name: str) -> Path:
        """Keep a copy of `folder` as artifact `name`; returns where it lies."""
        self._client.log_artifacts(self.run_id, str(folder), name)
        return lies_in(self._client.get_run(self.run_id).info.artifact_uri) / name

    def table(self, columns: Mapping[str, Sequence[object]], file: str) -> None:
        """Keep a table that the MLflow page shows beside other runs' tables of the same name; a table there is replaced.

        MLflow's own log_table would append to it. Its page finds the tables of a run in the tag.
        """
        import json

        rows = zip(*columns.values(), strict=True)
        self.json({"columns": [*columns], "data": [[_as_json(cell) for cell in row] for row in rows]}, file)
        known = json.loads(self._client.get_run(self.run_id).data.tags.get(_TABLES, "[]"))
        if (entry := {"path": file, "type": "table"}) not in known:
            self.tags({_TABLES: json.dumps([*known, entry])})

    def data(self, inputs: Sequence[DataInput]) -> None:
        """Say which data the run has seen."""
        import json

        from mlflow.entities import Dataset, DatasetInput, InputTag

        self._client.log_inputs(
            self.run_id,
            [
                DatasetInput(
                    Dataset(
                        each.name,
                        each.digest,
                        "local",
                        json.dumps({"uri": each.source}),
                        None,
                        json.dumps({"num_rows": each.rows}),
                    ),
                    [InputTag("mlflow.data.context", each.context)],
                )
                for each in inputs
            ],
        )


@contextmanager
def open_run(tracking: Tracking, run_id: str | None, name: str) -> Iterator[Tracker]:
    """A run in MLflow: run `run_id` opened again where it is still there, else a new one called `name`.

    It ends FINISHED, KILLED when it was stopped from outside, FAILED on anything else; tags hold the error's text and its reason
    (vram, diverged, input, stopped, pruned, defect).
    """
    client = open_store(tracking)
    tracker = _reopened(client, run_id) or _created(client, tracking, name)
    continued = tracker.run_id == run_id
    monitors: list[Any] = []
    if tracking.system_metrics:  # MLflow's comparison draws the metric that was logged first: let it be one of the run's own
        tracker.on_first_metrics = lambda: monitors.append(_system_metrics(client, tracker.run_id, resume=continued))
    try:
        yield tracker
    except (RunInterrupted, TrialPruned, KeyboardInterrupt, SystemExit) as error:
        with suppress(Exception):  # on a full disk: what ended the run is the news
            _end(client, tracker, "KILLED", str(error) or type(error).__name__, getattr(error, "reason", RunInterrupted.reason))
        raise
    except BaseException as error:
        with suppress(Exception):
            _end(client, tracker, "FAILED", f"{type(error).__name__}: {error}", getattr(error, "reason", "defect"))
        raise
    else:
        _end(client, tracker, "FINISHED", None, None)
    finally:
        for monitor in monitors:
            monitor.finish()


def _created(client: Any, tracking: Tracking, name: str) -> Tracker:
    experiment_id = _experiment(client, tracking)
    run = client.create_run(experiment_id, run_name=name, tags=dict(tracking.tags))
    return Tracker(client, run.info.run_id, experiment_id)


def _experiment(client: Any, tracking: Tracking) -> str:
    """The id of the experiment of `tracking`, made by the first of all processes that want it."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(tracking.experiment)
    if found is None:
        location = (Path(tracking.root or ".") / "artifacts").as_uri()
        kind = {"mlflow.experimentKind": "custom_model_development"}  # opens MLflow's pages for training, not for agents
        try:
            return str(client.create_experiment(tracking.experiment, artifact_location=location, tags=kind))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(tracking.experiment)
    return str(found.experiment_id)


def _reopened(client: Any, run_id: str | None) -> Tracker | None:
    """Run `run_id` as if it had never ended; None where there is none, or a user has deleted it."""
    run = existing_run(client, run_id)
    if run is None:
        return None
    for tag in ("medexp.ended_by", "medexp.reason"):
        if tag in run.data.tags:
            client.delete_tag(run_id, tag)
    client.update_run(run_id, status="RUNNING")
    return Tracker(client, run.info.run_id, run.info.experiment_id)


def _end(client: Any, tracker: Tracker, status: str, why: str | None, reason: str | None) -> None:
    tracker.tags({"medexp.ended_by": why and why[:4000], "medexp.reason": reason})
    client.set_terminated(tracker.run_id, status)


def _system_metrics(client: Any, run_id: str, resume: bool) -> Any:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run_id, resume_logging=resume, tracking_uri=client.tracking_uri)
    monitor.start()
    return monitor


def _as_json(cell: object) -> object:
    """Pages read no NaN."""
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell


def _linked(folder: Path, to: Path) -> None:
    """The files of `folder` under `to`: the same ones where the file system can, else copies."""

    def link(file: str, other: str) -> None:
        Path(other).unlink(missing_ok=True)
        try:
            os.link(file, other)
        except OSError:
            shutil.copy2(file, other)

    shutil.copytree(folder, to, copy_function=link, dirs_exist_ok=True)
