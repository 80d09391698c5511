"""MLflow keeps the run: parameters, step metrics, data, artifacts, and a status that is right
whatever the ending.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medexp.config.flatten import Value
from medexp.config.schema import Tracking
from medexp.errors import OutputError, RunInterrupted, TrialPaused, TrialPruned, first_line
from medexp.system.console import Console
from medexp.system.home import with_tilde
from medexp.system.process_identity import as_tag
from medexp.tracking.open_runs import PROCESS, mark_dead_runs_killed, mark_open
from medexp.tracking.outbox import Outbox, write_left
from medexp.tracking.run_writer import RunWriter
from medexp.tracking.store import get_existing_run, open_store
from medexp.tracking.store_lock import WAITS_S, is_away, suppress_away, wait_while_locked
from medexp.tracking.store_upkeep import STORE, folder_of_uri

# For the store, where somebody waits for the end.
STOPPED_WAITS_S = 5.0


@dataclass(frozen=True)
class DataInput:
    """A data set a run has seen: `context` is "training" or "held-out"."""

    name: str
    context: str
    digest: str
    source: str
    rows: int


class Tracker:
    """One MLflow run. What is logged is in the store at once, or as soon as that can be written;
    only a run opened by `open_run` can be logged to."""

    def __init__(self, client: Any, run_id: str, experiment_id: str, outbox: Outbox | None = None):
        self._client, self._outbox = client, outbox
        self.run_id = run_id
        self.experiment_id = experiment_id
        # The last value of every metric logged by this process.
        self.latest: dict[str, float] = {}
        self._logged: dict[str, dict[int, float]] = {}
        self.on_first_metrics: Callable[[], None] | None = None

    @property
    def page(self) -> str:
        """The path of the run's page below the address of MLflow's server."""
        return f"#/experiments/{self.experiment_id}/runs/{self.run_id}"

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log `values` at `step`."""
        self.latest |= values
        for name, value in values.items():
            self._logged.setdefault(name, {})[step] = value
        now = int(time.time() * 1000)
        self._put("metrics", [(name, value, now, step) for name, value in values.items()])
        if (begin := self.on_first_metrics) is not None:
            self.on_first_metrics = None
            begin()

    def read_history(self, name: str) -> list[tuple[int, float]]:
        """Return the last value of metric `name` at every step, by step; where the store is away,
        of the steps of this process."""
        logged = self._logged.get(name, {})
        if self._outbox is None or self._outbox.is_empty():
            with suppress_away():
                history = self._client.get_metric_history(self.run_id, name)
                logged = {metric.step: metric.value for metric in history}
        return sorted(logged.items())

    def read_timed(self, name: str) -> list[tuple[float, float]]:
        """Return every value of metric `name` with the second it was logged in, by time."""
        return sorted(
            (metric.timestamp / 1000, metric.value)
            for metric in self._client.get_metric_history(self.run_id, name)
        )

    def log_params(self, values: Mapping[str, Value]) -> None:
        """Log parameters; those that a continued run has already stay."""
        self._put("params", {name: with_tilde(str(value)) for name, value in values.items()})

    def set_tags(self, values: Mapping[str, object]) -> None:
        """Set tags, leaving out what is None."""
        said = {name: with_tilde(str(value)) for name, value in values.items() if value is not None}
        self._put("tags", said)

    def set_description(self, markdown: str) -> None:
        """Say `markdown` in the place of the run's description."""
        # MLflow's limit for a tag.
        self.set_tags({"mlflow.note.content": markdown[:8000]})

    def log_model(
        self, name: str, folder: Path, params: Mapping[str, Value], tags: Mapping[str, object]
    ) -> None:
        """List the adapter kept as artifact `folder` among the experiment's models, as one that
        this run has made; a continued run that has one keeps it.

        Its files are shared with the artifact (hard links), so that a model costs no disk.
        """
        said = {
            "params": {key: with_tilde(str(value)) for key, value in params.items()},
            "tags": {key: str(value) for key, value in tags.items() if value is not None},
        }
        self._put("model", {"name": name, "folder": str(folder), **said})

    def log_text(self, text: str, file: str) -> None:
        """Keep `text` as artifact `file`."""
        self._put("text", {"file": file, "text": text})

    def log_json(self, value: object, file: str) -> None:
        """Keep `value` as artifact `file`."""
        self.log_text(json.dumps(value, indent=2, default=str), file)

    def log_folder(self, folder: Path, name: str) -> Path:
        """Keep a copy of `folder` as artifact `name`; returns where it lies."""
        self._put("folder", {"folder": str(folder.absolute()), "name": name})
        assert self._outbox is not None
        return self._outbox.artifacts / name

    def log_table(self, columns: Mapping[str, Sequence[object]], file: str) -> None:
        """Keep a table that the MLflow page shows beside other runs' tables of the same name; a
        table there is replaced.

        MLflow's own log_table would append to it.
        """
        rows = zip(*columns.values(), strict=True)
        self.log_json(
            {"columns": [*columns], "data": [[_as_json(cell) for cell in row] for row in rows]},
            file,
        )
        self._put("table", file)

    def log_inputs(self, inputs: Sequence[DataInput]) -> None:
        """Say which data the run has seen."""
        self._put("data", [asdict(data_input) for data_input in inputs])

    def end(self, status: str, why: str | None, reason: str | None, patience_s: float) -> None:
        """Say how the run ended, once the store has all that was logged; what it has not taken
        after `patience_s` is kept in a file."""
        assert self._outbox is not None
        self.set_tags({"medexp.ended_by": why and why[:4000], "medexp.reason": reason})
        self._put("status", {"status": status, "at_ms": int(time.time() * 1000)})
        self._outbox.close(patience_s)

    def _put(self, kind: str, values: Any) -> None:
        assert self._outbox is not None, "a run of another command cannot be logged to"
        self._outbox.put(kind, values)


@contextmanager
def open_run(
    tracking: Tracking,
    run_id: str | None,
    name: str,
    say: Callable[[str], None] | None = None,
) -> Iterator[Tracker]:
    """A run in MLflow: run `run_id` opened again where it is still there, else a new one called
    `name`.

    It ends FINISHED, KILLED when it was stopped from outside, FAILED on anything else; tags hold
    the error's text and its reason (vram, diverged, input, stopped, pruned, paused, defect). `say`
    is told where the store is away.

    Raises: OutputError where another program has the store locked for too long to begin.
    """
    client, root, say = open_store(tracking), Path(tracking.root or "."), say or Console().info
    wait_while_locked(root / STORE, say, to_read=False)
    write_left(client, root)
    mark_dead_runs_killed(client, root)
    run = _open_or_create(client, tracking, run_id, name)
    found = run.info.run_id, run.info.experiment_id
    writer = RunWriter(client, *found, folder_of_uri(run.info.artifact_uri))
    tracker = Tracker(client, *found, Outbox(writer, root, say))
    continued = tracker.run_id == run_id
    monitors: list[Any] = []
    # MLflow's comparison draws the metric that was logged first: let it be one of the run's own
    if tracking.system_metrics:
        tracker.on_first_metrics = lambda: monitors.append(
            _start_system_metrics(client, tracker.run_id, resume=continued)
        )
    still_open = ExitStack()
    still_open.enter_context(mark_open(root, tracker.run_id))
    try:
        yield tracker
        tracker.end("FINISHED", None, None, WAITS_S)
    except (
        RunInterrupted,
        TrialPaused,
        TrialPruned,
        KeyboardInterrupt,
        SystemExit,
    ) as error:
        # On a full disk: what ended the run is the news.
        with suppress(Exception):
            why, reason = str(error), getattr(error, "reason", RunInterrupted.reason)
            tracker.end("KILLED", why or type(error).__name__, reason, STOPPED_WAITS_S)
        raise
    except BaseException as error:
        with suppress(Exception):
            why, reason = f"{type(error).__name__}: {error}", getattr(error, "reason", "defect")
            tracker.end("FAILED", why, reason, WAITS_S)
        raise
    finally:
        still_open.close()
        for monitor in monitors:
            monitor.finish()


def _open_or_create(client: Any, tracking: Tracking, run_id: str | None, name: str) -> Any:
    try:
        return _reopen(client, run_id) or _create_run(client, tracking, name)
    except Exception as error:
        if not is_away(error):
            raise
        raise OutputError(
            f"MLflow's store in {tracking.root} cannot be written ({first_line(error)}); run the "
            "same command again once it can, or set tracking.root=FOLDER"
        ) from error


def _create_run(client: Any, tracking: Tracking, name: str) -> Any:
    # With the run itself: a process killed right after this line leaves a run that others can tell
    # is dead.
    tags = {**tracking.tags, PROCESS: as_tag()}
    return client.create_run(_find_or_create_experiment(client, tracking), run_name=name, tags=tags)


def _find_or_create_experiment(client: Any, tracking: Tracking) -> str:
    """Return the id of the experiment of `tracking`, made by the first of all processes that want
    it."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(tracking.experiment)
    if found is None:
        location = (Path(tracking.root or ".") / "artifacts").as_uri()
        # opens MLflow's pages for training, not for agents
        kind = {"mlflow.experimentKind": "custom_model_development"}
        try:
            return str(
                client.create_experiment(tracking.experiment, artifact_location=location, tags=kind)
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(tracking.experiment)
    return str(found.experiment_id)


def _reopen(client: Any, run_id: str | None) -> Any:
    """Reopen run `run_id` as if it had never ended; None where there is none, or a user has deleted
    it."""
    run = get_existing_run(client, run_id)
    if run is None:
        return None
    for tag in ("medexp.ended_by", "medexp.reason"):
        if tag in run.data.tags:
            client.delete_tag(run_id, tag)
    client.set_tag(run_id, PROCESS, as_tag())
    client.update_run(run_id, status="RUNNING")
    return run


def _start_system_metrics(client: Any, run_id: str, resume: bool) -> Any:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run_id, resume_logging=resume, tracking_uri=client.tracking_uri)
    monitor.start()
    return monitor


def _as_json(cell: object) -> object:
    """Return `cell` as pages read it: they read no NaN."""
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell
