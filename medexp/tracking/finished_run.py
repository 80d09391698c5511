"""A finished run found again, by its MLflow id or by the folder of its adapter: what it kept, and
the config that made it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from medexp.config.command_options import FinishedRunOptions
from medexp.config.former_values import restore_former_values
from medexp.config.resolve import find_tracking_root, relocate_paths
from medexp.config.schema import Tracking
from medexp.errors import ConfigError, RunError
from medexp.system.home import expand_home
from medexp.tracking import commits, queries, registry
from medexp.tracking.artifact_names import (
    ADAPTER,
    ADAPTER_CONFIG,
    ADAPTER_RUN_CONFIG,
    COMPOSED_CONFIG,
    RECORD,
    STARTED_FROM,
)
from medexp.tracking.store_upkeep import MOVED_FROM, folder_of_uri

_OVERRIDE = re.compile(r"^\+{0,2}([\w/.]+)=")


@dataclass(frozen=True)
class FinishedRun:
    """Its adapter (None where it kept none), the config that made it, its stored record, what
    MLflow knows of it, and the adapter it began with."""

    asked: str
    adapter: Path | None
    composed: Path | None
    record: Path | None
    kept: queries.StoredRun | None
    started_from: Path | None = None

    @property
    def name(self) -> str:
        """What to call it."""
        return self.kept.name if self.kept is not None else self.asked


def find_run(asked: str | None, root: str, launch_dir: Path) -> FinishedRun:
    """Return the run that `asked` names: a folder with an adapter, an id in the MLflow store under
    `root`, "last" (the newest there), or a version in its model registry (models:/NAME@ALIAS,
    models:/NAME/VERSION).

    Raises: ConfigError if none is asked for; RunError if it is not there.
    """
    if not asked:
        raise ConfigError(
            "run has no value: give run=ID, an MLflow run id (make ui lists them), run=last, or"
            " run=FOLDER of an adapter"
        )
    if asked.startswith("models:"):
        return _find_stored(registry.find_run_of_model(_make_tracking(root), asked), root, asked)
    folder = launch_dir / expand_home(asked)
    if folder.is_dir():
        inside = folder if (folder / ADAPTER_CONFIG).is_file() else folder / ADAPTER
        if not (inside / ADAPTER_CONFIG).is_file():
            raise RunError(
                f"run={asked} is a folder without adapter_config.json; give the folder of an"
                " adapter, or an MLflow run id"
            )
        inside = inside.resolve()
        return FinishedRun(
            asked,
            inside,
            _file_or_none(inside / ADAPTER_RUN_CONFIG),
            _file_or_none(inside.parent / RECORD),
            None,
        )
    if not re.fullmatch(r"\w+", asked):
        raise RunError(
            f"run={asked} does not exist; give the folder of an adapter, an MLflow run id (make ui"
            " lists them), or last"
        )
    return _find_stored(asked, root, asked)


def _find_stored(run_id: str, root: str, asked: str) -> FinishedRun:
    kept = queries.find_run(
        _make_tracking(root), run_id, (ADAPTER, COMPOSED_CONFIG, RECORD, STARTED_FROM)
    )
    has = kept.artifacts.get
    return FinishedRun(
        asked, has(ADAPTER), has(COMPOSED_CONFIG), has(RECORD), kept, has(STARTED_FROM)
    )


def _file_or_none(file: Path) -> Path | None:
    return file if file.is_file() else None


def _make_tracking(root: str) -> Tracking:
    return Tracking(
        root=root, experiment="", run_name=None, system_metrics=False, log_adapter=False, tags={}
    )


def find_run_from_config(cfg: DictConfig, asked: str | None) -> FinishedRun:
    """Return the run that `asked` names in the store of `cfg`, as seen from where the command was
    started."""
    return find_run(asked, find_tracking_root(cfg.tracking.root, Path.cwd()), Path.cwd())


def recompose_from_options(
    cfg: DictConfig, options: FinishedRunOptions, overrides: Sequence[str]
) -> tuple[DictConfig, FinishedRun]:
    """Return `cfg` with the groups of the run that `options` name in the place of its own, save
    what `overrides` name; and that run, so that the whole command is about one: another may finish
    meanwhile, and be the last."""
    run = find_run_from_config(cfg, options.run)
    return recompose_from_run(cfg, run, overrides), run


def recompose_from_run(cfg: DictConfig, run: FinishedRun, overrides: Sequence[str]) -> DictConfig:
    """Return `cfg` with the groups of `run` in the place of its own, save `tracking`, the number of
    cards, and what `overrides` name.

    Raises: RunError if the run has not kept its config.
    """
    if run.composed is None:
        raise RunError(
            f"run={run.asked} has no config beside it ({COMPOSED_CONFIG} in MLflow, run.yaml in"
            " an adapter folder); it was not made by medexp, or its files were moved away without"
            " the store"
        )
    stored = OmegaConf.load(run.composed)
    if not isinstance(stored, DictConfig) or "model" not in stored:
        raise RunError(f"run={run.asked}: {run.composed} is not a composed config of medexp")
    stored = _relocate_files(stored, cfg, run)
    made = OmegaConf.merge(
        cfg, {name: stored[name] for name in cfg if name in stored and name != "tracking"}
    )
    assert isinstance(made, DictConfig)
    # merging left this command's own default there: an older medexp kept no shape
    for key in OmegaConf.missing_keys(stored):
        if OmegaConf.select(made, key.rpartition(".")[0] or key) is not None:
            OmegaConf.update(made, key, "???", merge=False)
    restore_former_values(made, stored)
    # How many cards there are is this machine's, and changes nothing of what comes out.
    if (cards := OmegaConf.select(cfg, "hardware.cards")) is not None:
        OmegaConf.update(made, "hardware.cards", cards, merge=False)
    named = [match[1].replace("/", ".") for match in map(_OVERRIDE.match, overrides) if match]
    for key in named:
        value = OmegaConf.select(cfg, key)
        if value is not None or key.rpartition(".")[0] in cfg:
            OmegaConf.update(made, key, value, merge=False)
    if run.kept is not None:
        commits.pin_commits(made, run.kept.tags, named)
    return made


def _relocate_files(stored: DictConfig, cfg: DictConfig, run: FinishedRun) -> DictConfig:
    """Return `stored` with the files of its project where they lie now, should the project have
    been moved or copied."""
    moved_from = run.kept.tags.get(MOVED_FROM) if run.kept is not None else None
    project = Path(find_tracking_root(cfg.tracking.root, Path.cwd())).parent
    return relocate_paths(
        stored, folder_of_uri(moved_from).parents[1] if moved_from else None, project
    )
