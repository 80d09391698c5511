"""MLflow keeps the run: parameters, step metrics, data, artifacts, and a status that is right whatever the ending.

Everything goes through `MlflowClient` with an explicit store, so nothing depends on the working directory or on MLflow's global
state. A process that is killed outright cannot say so: the next command that opens the store does (`bury`).
"""

import math
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlparse
from urllib.request import url2pathname

from filelock import FileLock

from medexp.config.flat import Value
from medexp.config.schema import Tracking
from medexp.errors import OutputError, RunError, RunInterrupted, TrialPruned, first_line, listing, nearest
from medexp.imports import for_good

STORE = "mlflow.db"  # below tracking.root
_TABLES = "mlflow.loggedArtifacts"
LAST = "last"  # in the place of a run's id


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
        self.tags({name: value for name, value in values.items() if known.get(name, str(value)) != str(value)})
        entries = [Param(name, str(value)) for name, value in values.items() if name not in known]
        for start in range(0, len(entries), 100):  # the server's limit for one batch
            self._client.log_batch(self.run_id, params=entries[start : start + 100])

    def tags(self, values: Mapping[str, object]) -> None:
        """Set tags, leaving out what is None."""
        from mlflow.entities import RunTag

        if entries := [RunTag(name, str(value)) for name, value in values.items() if value is not None]:
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

        kind = {"params": {key: str(value) for key, value in params.items()}, "model_type": "LoRA adapter"}
        said = {key: str(value) for key, value in tags.items() if value is not None}
        allowed = re.sub(r"[^\w -]", "_", name)
        made = self._model() or self._client.create_logged_model(self.experiment_id, allowed, self.run_id, tags=said, **kind)
        _linked(folder, _lies_in(made.artifact_location))
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
        return _lies_in(self._client.get_run(self.run_id).info.artifact_uri) / name

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


def store_uri(root: Path) -> str:
    """The tracking URI of the store under `root`."""
    return _uri(root / STORE)


def _uri(file: Path) -> str:
    """The URI that SQLAlchemy reads as sqlite in `file`: as it is wherever that does it, quoted where the path has % or ?.

    The quoted form names its driver: MLflow would make the quoted folder, too.

    Raises: OutputError if none does, as before SQLAlchemy 2.1, which does not unquote.
    """
    from sqlalchemy import make_url

    for uri in (f"sqlite:///{file}", f"sqlite+pysqlite:///{quote(str(file))}"):
        if (read := make_url(uri)).database == str(file) and not read.query:
            return uri
    raise OutputError(f"tracking.root={file.parent} has a character that no sqlite address can have; set tracking.root=FOLDER")


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


@dataclass(frozen=True)
class KeptRun:
    """A run that is in the store: its name, where each artifact that was asked for lies (those it has), its metrics, parameters and
    tags, its status (FINISHED, KILLED, FAILED, RUNNING), and the digests of its held-out and of its training cases."""

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


def find_run(tracking: Tracking, run_id: str, artifacts: Sequence[str]) -> KeptRun:
    """Run `run_id` with those of its `artifacts` (files or folders) that it has. "last" is the newest that training has finished,
    one with the first of `artifacts` before all others.

    Raises: RunError if there is no such run.
    """
    client = existing_store(tracking)
    experiments = [each.experiment_id for each in client.search_experiments()]
    run = _last(client, experiments, artifacts[0]) if run_id == LAST else _existing(client, run_id)
    if run is None:
        newest = client.search_runs(experiments, max_results=3)
        known = listing(f"{each.info.run_id} ({each.info.run_name})" for each in newest)
        raise RunError(
            f"run={run_id} is neither a folder nor a run in {tracking.root}; the newest there are {known}. See them with make ui"
        )
    run_id = run.info.run_id
    folder = _lies_in(run.info.artifact_uri)  # MLflow's own download would copy them
    found = {name: folder / name for name in artifacts if (folder / name).exists()}
    tracker = Tracker(client, run_id, run.info.experiment_id)
    digests = {tag.value: each.dataset.digest for each in run.inputs.dataset_inputs for tag in each.tags}
    params, tags = dict(run.data.params), dict(run.data.tags)
    name, held, trained_on = run.info.run_name or run_id, digests.get("held-out"), digests.get("training")
    return KeptRun(run_id, name, found, dict(run.data.metrics), held, tracker, params, tags, run.info.status, trained_on)


def find_study(tracking: Tracking, name: str) -> tuple[list[str], str]:
    """The ids of the finished trials of the newest study called `name`, best first, and the metric that says which is best.

    Raises: RunError if there is no such study, naming those there are.
    """
    client = existing_store(tracking)
    experiments = [each.experiment_id for each in client.search_experiments()]
    named = client.search_runs(experiments, f"tags.`medexp.study` = '{name}'", max_results=5000) if "'" not in name else []
    study = next((run for run in named if "mlflow.parentRunId" not in run.data.tags), None)
    if study is None:
        marked = client.search_runs(experiments, "tags.`medexp.objective` LIKE '%'", max_results=200)
        known = dict.fromkeys(run.data.tags["medexp.study"] for run in marked if "medexp.study" in run.data.tags)
        raise RunError(f"study={name} is not in {tracking.root}; there are {listing(known)}{nearest(name, known)}")
    objective = study.data.tags["medexp.objective"].partition(", ")[0]
    sign = -1 if study.data.tags.get("medexp.direction", "").startswith("maximize") else 1
    trials = [run for run in named if run.data.tags.get("mlflow.parentRunId") == study.info.run_id]
    done = [run for run in trials if run.info.status == "FINISHED" and objective in run.data.metrics]
    return [run.info.run_id for run in sorted(done, key=lambda run: sign * run.data.metrics[objective])], objective


def _last(client: Any, experiments: Sequence[str], adapter: str) -> Any:
    """The newest run that training finished and that kept its adapter; where none did, the newest."""
    trained = "tags.mlflow.source.name = 'medexp.train' and attributes.status = 'FINISHED'"
    runs = client.search_runs(experiments, trained, order_by=["attributes.end_time DESC"], max_results=200)
    runs = [run for run in runs if "medexp.model" in run.data.tags]  # a sweep has a run of its own
    with_adapter = (run for run in runs if (_lies_in(run.info.artifact_uri) / adapter).is_dir())  # trials of a sweep keep none
    return next(with_adapter, next(iter(runs), None))


def add_folder(tracking: Tracking, run_id: str, folder: Path, name: str) -> None:
    """Keep a copy of `folder` as artifact `name` of run `run_id`, unless it has one.

    Raises: RunError if there is no such run.
    """
    client = existing_store(tracking)
    run = _existing(client, run_id)
    if run is None:
        raise RunError(f"run={run_id} is not in {tracking.root}; make ui lists the runs there")
    if not (_lies_in(run.info.artifact_uri) / name).exists():
        client.log_artifacts(run_id, str(folder), name)


def bury(tracking: Tracking, run_ids: Sequence[str]) -> None:
    """Set runs whose process is gone from RUNNING to KILLED."""
    if not run_ids:
        return
    client = open_store(tracking)
    for run_id in run_ids:
        run = _existing(client, run_id)
        if run is not None and run.info.status == "RUNNING":
            client.set_tag(
                run_id, "medexp.ended_by", "the process ended without reporting an error (killed, or the machine stopped)"
            )
            client.set_tag(run_id, "medexp.reason", "died")
            client.set_terminated(run_id, "KILLED")


def environment() -> dict[str, str]:
    """The version of every installed package, by name."""
    read_once = (each.metadata for each in metadata.distributions())  # each look parses the file anew
    packages = {each["Name"]: each["Version"] for each in read_once if each["Name"]}
    return dict(sorted(packages.items(), key=lambda item: item[0].lower()))


def git_commit(folder: Path) -> str | None:
    """The commit checked out around `folder`, with "+" when files differ from it; None outside a checkout."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=5, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "--short=12", "HEAD")
    return commit and commit + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")


def open_store(tracking: Tracking) -> Any:
    """MLflow's client over the store of `tracking`, made where there is none.

    Raises: OutputError where it cannot be made, or what lies there cannot be opened.
    """
    import logging

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    with for_good():
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

    for name in ("mlflow", "alembic"):  # after the import, which sets its own
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what fails is raised, too

    assert tracking.root is not None
    root = Path(tracking.root)
    uri = store_uri(root)
    if not _has_store(root):
        _make_store(root)
    try:
        return MlflowClient(uri, uri)  # the registry is the same store, whatever the environment says
    except (MlflowException, SQLAlchemyError) as error:
        raise OutputError(
            f"MLflow cannot open {root / STORE} ({first_line(error)}); move that file away, and the same command makes a new one, "
            "or set tracking.root=FOLDER"
        ) from error


def _has_store(root: Path) -> bool:
    file = root / STORE
    return file.is_file() and file.stat().st_size > 0  # sqlite makes an empty file before it writes


def _make_store(root: Path) -> None:
    """A store under `root`, by the first of all processes that want one: MLflow takes a second or two for its tables, and one
    that is stopped or joined by another meanwhile is broken for good. So it is made under another name and renamed.

    Raises: OutputError if it cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{STORE}.lock"):
            if not _has_store(root):
                _fill(root / f".{STORE}.new").replace(root / STORE)
    except OSError as error:
        raise OutputError(f"tracking.root={root} cannot be made ({error.strerror}); set tracking.root=FOLDER") from error


def _fill(file: Path) -> Path:
    """`file` with MLflow's tables and its default experiment, and nothing that an earlier process left there."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for left in (file, file.with_name(f"{file.name}-journal")):
        left.unlink(missing_ok=True)
    SqlAlchemyStore(_uri(file), (file.parent / "artifacts").as_uri()).engine.dispose()
    return file


def existing_store(tracking: Tracking) -> Any:
    """MLflow's client over the store of `tracking`.

    Raises: RunError where there is none: a mistyped folder is not made.
    """
    refuse_empty(Path(tracking.root or "."))
    return open_store(tracking)


def refuse_empty(root: Path) -> None:
    """Raises: RunError if there is no store under `root`."""
    if not _has_store(root):
        raise RunError(f"tracking.root={root} holds no runs yet; run python -m medexp.train first, or set tracking.root=FOLDER")


def is_missing(error: Any) -> bool:
    """Does this MlflowException say that something is not there, and not that the store failed?"""
    return bool(error.error_code == "RESOURCE_DOES_NOT_EXIST")


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
    run = _existing(client, run_id)
    if run is None:
        return None
    for tag in ("medexp.ended_by", "medexp.reason"):
        if tag in run.data.tags:
            client.delete_tag(run_id, tag)
    client.update_run(run_id, status="RUNNING")
    return Tracker(client, run.info.run_id, run.info.experiment_id)


def _existing(client: Any, run_id: str | None) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id) if run_id else None
    except MlflowException as error:
        if not is_missing(error):
            raise
        return None
    return run if run is not None and run.info.lifecycle_stage == "active" else None


def _as_json(cell: object) -> object:
    """Pages read no NaN."""
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell


def _lies_in(uri: str) -> Path:
    """The folder that `uri` names: every store of medexp's is on this machine."""
    return Path(url2pathname(urlparse(uri).path))


def _linked(folder: Path, to: Path) -> None:
    """The files of `folder` under `to`: the same ones where the file system can, else copies."""

    def link(file: str, other: str) -> None:
        Path(other).unlink(missing_ok=True)
        try:
            os.link(file, other)
        except OSError:
            shutil.copy2(file, other)

    shutil.copytree(folder, to, copy_function=link, dirs_exist_ok=True)


def _system_metrics(client: Any, run_id: str, resume: bool) -> Any:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run_id, resume_logging=resume, tracking_uri=client.tracking_uri)
    monitor.start()
    return monitor


def _end(client: Any, tracker: Tracker, status: str, why: str | None, reason: str | None) -> None:
    tracker.tags({"medexp.ended_by": why and why[:4000], "medexp.reason": reason})
    client.set_terminated(tracker.run_id, status)
