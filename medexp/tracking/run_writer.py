"""Writes to one run of MLflow's store what was logged, each kind from plain values: from memory, or
from the file that kept them while the store was away.

Every kind may be written twice, as after a process that died in between.
"""

import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medexp.system.files import atomic_directory
from medexp.tracking.store_upkeep import folder_of_uri

# Kinds that need no database.
FILES = ("text", "folder")
_TABLES = "mlflow.loggedArtifacts"


class RunWriter:
    """Run `run_id`, whose artifacts lie in the folder `artifacts`."""

    def __init__(self, client: Any, run_id: str, experiment_id: str, artifacts: Path):
        self._client, self.run_id = client, run_id
        self._experiment_id, self.artifacts = experiment_id, artifacts

    def write(self, kind: str, values: Any) -> None:
        """Write `values` as the method below of this name does."""
        getattr(self, kind)(values)

    def metrics(self, values: Sequence[tuple[str, float, int, int]]) -> None:
        """Log metrics: name, value, time in milliseconds, step."""
        from mlflow.entities import Metric

        self._client.log_batch(self.run_id, metrics=[Metric(*value) for value in values])

    def params(self, values: Mapping[str, str]) -> None:
        """Log parameters. Those that a continued run has already stay: MLflow lets none change, and
        a tag of its name says what one is now."""
        from mlflow.entities import Param

        known = self._client.get_run(self.run_id).data.params
        changed = {key: value for key, value in values.items() if known.get(key, value) != value}
        self.tags(changed)
        entries = [Param(name, value) for name, value in values.items() if name not in known]
        # The server's limit for one batch.
        for start in range(0, len(entries), 100):
            self._client.log_batch(self.run_id, params=entries[start : start + 100])

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        from mlflow.entities import RunTag

        if values:
            entries = [RunTag(name, value) for name, value in values.items()]
            self._client.log_batch(self.run_id, tags=entries)

    def table(self, file: str) -> None:
        """Have MLflow's page show artifact `file` as a table; it finds them in a tag."""
        tags = self._client.get_run(self.run_id).data.tags
        known = json.loads(tags.get(_TABLES, "[]"))
        if (entry := {"path": file, "type": "table"}) not in known:
            self.tags({_TABLES: json.dumps([*known, entry])})

    def data(self, inputs: Sequence[Mapping[str, Any]]) -> None:
        """Say which data the run has seen: `tracker.DataInput` as plain values."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        def dataset(of: Mapping[str, Any]) -> Dataset:
            source, rows = json.dumps({"uri": of["source"]}), json.dumps({"num_rows": of["rows"]})
            return Dataset(of["name"], of["digest"], "local", source, None, rows)

        context = "mlflow.data.context"
        tags = [[InputTag(context, data_input["context"])] for data_input in inputs]
        said = [
            DatasetInput(dataset(data_input), of)
            for data_input, of in zip(inputs, tags, strict=True)
        ]
        self._client.log_inputs(self.run_id, said)

    def model(self, values: Mapping[str, Any]) -> None:
        """List a folder as a model of this run's making; a continued run that has one keeps it."""
        from mlflow.entities import LoggedModelOutput

        name, folder = re.sub(r"[^\w -]", "_", values["name"]), Path(values["folder"])
        said = {"params": values["params"], "tags": values["tags"], "model_type": "LoRA adapter"}
        create = self._client.create_logged_model
        made = self._model() or create(self._experiment_id, name, self.run_id, **said)
        _link_files(folder, folder_of_uri(made.artifact_location))
        self._client.finalize_logged_model(made.model_id, "READY")
        outputs = self._client.get_run(self.run_id).outputs.model_outputs
        if made.model_id not in {output.model_id for output in outputs}:
            self._client.log_outputs(self.run_id, [LoggedModelOutput(made.model_id, step=0)])

    def _model(self) -> Any:
        """Return the model that this run has made, or was making when its process died."""
        mine = f"source_run_id = '{self.run_id}'"
        found = self._client.search_logged_models([self._experiment_id], mine, max_results=1)
        return next(iter(found), None)

    def text(self, values: Mapping[str, str]) -> None:
        """Keep a text as an artifact, whole or not at all."""
        file = self.artifacts / values["file"]
        file.parent.mkdir(parents=True, exist_ok=True)
        half_done = file.with_name(f".{file.name}-{uuid.uuid4().hex}")
        try:
            half_done.write_text(values["text"], encoding="utf-8")
            half_done.replace(file)
        finally:
            half_done.unlink(missing_ok=True)

    def folder(self, values: Mapping[str, str]) -> None:
        """Keep a copy of a folder as an artifact, whole or not at all, beside what is there
        already.
        """
        target = self.artifacts / values["name"]
        with atomic_directory(target) as half_done:
            for whence in filter(Path.is_dir, (target, Path(values["folder"]))):
                for file in (path for path in whence.rglob("*") if path.is_file()):
                    to = half_done / file.relative_to(whence)
                    to.parent.mkdir(parents=True, exist_ok=True)
                    # Without its mode, which not every disk can hold.
                    shutil.copyfile(file, to)

    def status(self, values: Mapping[str, Any]) -> None:
        """Say how and when the run ended."""
        self._client.set_terminated(self.run_id, values["status"], values["at_ms"])


def _link_files(folder: Path, to: Path) -> None:
    """The files of `folder` under `to`: the same ones where the file system can, else copies."""

    def link(file: str, other: str) -> None:
        Path(other).unlink(missing_ok=True)
        try:
            os.link(file, other)
        except OSError:
            shutil.copy2(file, other)

    shutil.copytree(folder, to, copy_function=link, dirs_exist_ok=True)
