"""MLflow's model registry: a finished run's adapter as a version of a registered model, and the run
that a version came from.

A version points at the run's own adapter; nothing is copied. Its description and tags lead to the
run and its report.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medexp.config.schema import Tracking
from medexp.errors import ConfigError, RunError, listing
from medexp.tracking.artifact_names import ADAPTER, REPORT
from medexp.tracking.store import is_missing, open_existing_store
from medexp.tracking.views import TRAINING_PAGES

URI = re.compile(r"models:/(?P<name>[^/@:]+)(?:@(?P<alias>[\w-]+)|/(?P<version>\d+|latest))")
_NAME = re.compile(r"[^/:@]*[^/:@\s.][^/:@]*")
_ALIAS = re.compile(r"(?!latest$)(?![vV]\d+$)[\w-]+", re.IGNORECASE)
_COPIED = (
    "medexp.model",
    "medexp.model_revision",
    "medexp.dataset",
    "medexp.hardware",
    "medexp.git_commit",
    "medexp.study",
)


@dataclass(frozen=True)
class ModelVersion:
    """A version of a registered model: `uri` is what `run=` and MLflow take for it."""

    name: str
    version: str
    alias: str
    run_id: str
    is_new: bool

    @property
    def uri(self) -> str:
        """models:/NAME@ALIAS."""
        return f"models:/{self.name}@{self.alias}"


def register_adapter(tracking: Tracking, run_id: str, name: str, alias: str) -> ModelVersion:
    """Register the adapter of run `run_id` as a version of model `name`, with `alias` moved to it,
    and return that version: the one it already is, where it was registered before.

    Raises: ConfigError for a name or alias that MLflow cannot hold; RunError if there is no such
    run, it has not finished, or it kept no adapter.
    """
    check_names(name, alias)
    client = open_existing_store(tracking)
    run = _get_finished_run(client, run_id, tracking.root)
    version = _find_version(client, name, run_id)
    is_new = version is None
    if version is None:
        version = _create_version(client, run, name)
    client.set_registered_model_alias(name, alias, version.version)
    return ModelVersion(name, str(version.version), alias, run_id, is_new)


def check_names(name: str, alias: str) -> None:
    """Are these a name and an alias that MLflow takes?

    Raises: ConfigError with every problem.
    """
    problems = []
    if not _NAME.fullmatch(name):
        problems.append(
            f"the registered model's name {name!r} is not allowed: give some text without /, :"
            " and @"
        )
    if not _ALIAS.fullmatch(alias):
        problems.append(
            f"the alias {alias!r} is not allowed: letters, digits, _ and - make one, but not latest"
            " or v1, v2, ..."
        )
    if problems:
        raise ConfigError(problems)


def find_run_of_model(tracking: Tracking, uri: str) -> str:
    """Return the id of the run whose adapter `uri` names: models:/NAME@ALIAS, models:/NAME/VERSION
    or models:/NAME/latest.

    Raises: RunError for another form, or where no such version is registered; says which there are.
    """
    asked = URI.fullmatch(uri)
    if asked is None:
        raise RunError(
            f"run={uri} is not a registered model: models:/NAME@ALIAS or models:/NAME/VERSION is"
        )
    client = open_existing_store(tracking)
    versions = _list_versions(client, asked["name"])
    found = _pick_version(client, versions, asked)
    if found is None:
        raise RunError(
            f"run={uri} is not registered in {tracking.root};"
            f" {_describe_known(client, asked['name'], versions)}"
        )
    if not found.run_id:
        raise RunError(
            f"run={uri} was not registered by medexp: it names no run of {tracking.root}"
        )
    return str(found.run_id)


def _pick_version(client: Any, versions: list[Any], asked: re.Match[str]) -> Any:
    if asked["alias"]:
        wanted = (
            client.get_registered_model(asked["name"]).aliases.get(asked["alias"])
            if versions
            else None
        )
    else:
        wanted = (
            str(max((int(version.version) for version in versions), default=0))
            if asked["version"] == "latest"
            else asked["version"]
        )
    return next((version for version in versions if str(version.version) == str(wanted)), None)


def _describe_known(client: Any, name: str, versions: list[Any]) -> str:
    """Return what could have been meant, for a message."""
    if not versions:
        return f"there are {listing(model.name for model in client.search_registered_models())}"
    aliases = client.get_registered_model(name).aliases
    numbers = sorted((str(version.version) for version in versions), key=int)
    return f"{name} has versions {listing(numbers)} and aliases " + listing(
        f"{alias} (version {version})" for alias, version in sorted(aliases.items())
    )


def _list_versions(client: Any, name: str) -> list[Any]:
    quoted = name.replace("'", "''")
    return list(client.search_model_versions(f"name = '{quoted}'"))


def _find_version(client: Any, name: str, run_id: str) -> Any:
    return next(
        (version for version in _list_versions(client, name) if version.run_id == run_id), None
    )


def _get_finished_run(client: Any, run_id: str, root: str | None) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if not is_missing(error):
            raise
        raise RunError(f"run={run_id} is not in {root}; make ui lists the runs there") from None
    if run.info.status != "FINISHED":
        raise RunError(f"run={run_id} is {run.info.status}, and only a FINISHED run is registered")
    if ADAPTER not in {artifact.path for artifact in client.list_artifacts(run_id)}:
        raise RunError(
            f"run={run_id} kept no adapter in MLflow (tracking.log_adapter=false), so there is"
            " nothing to register"
        )
    return run


def _create_version(client: Any, run: Any, name: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if not is_missing(error):
            raise
        client.create_registered_model(
            name,
            description="LoRA adapters of medexp; each version's description says what it changed.",
        )
    return client.create_model_version(
        name,
        source=f"{run.info.artifact_uri}/{ADAPTER}",
        run_id=run.info.run_id,
        tags=_make_tags(run),
        description=_make_description(run),
        model_id=(
            next((output.model_id for output in run.outputs.model_outputs), None)
            if run.outputs
            else None
        ),
    )


def _make_tags(run: Any) -> Mapping[str, str]:
    return {key: run.data.tags[key] for key in _COPIED if key in run.data.tags} | {
        "medexp.run": run.info.run_name or run.info.run_id,
        "medexp.report": f"runs:/{run.info.run_id}/{REPORT}",
    }


def _make_description(run: Any) -> str:
    """Return Markdown: links to the run and its report, then what the run says about itself."""
    page = f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    links = (
        f"[Run {run.info.run_name}]({page}?{TRAINING_PAGES}), [its"
        f" report]({page}/artifacts/{REPORT}?{TRAINING_PAGES})"
    )
    return "\n\n".join(filter(None, [links, run.data.tags.get("mlflow.note.content")]))
