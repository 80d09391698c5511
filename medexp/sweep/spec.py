"""What a sweep asks: its settings, its space, and how Hydra composes a proposal of it."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, open_dict

from medexp.config.schema import Resume, RunConfig
from medexp.errors import BadInput, ConfigError
from medexp.sweep.search import labels
from medexp.sweep.search.metric_names import find_metric_problem
from medexp.sweep.search.options import SweepOptions
from medexp.sweep.search.proposal import resolve_config
from medexp.sweep.search.search_space import SearchSpace, Value
from medexp.sweep.study import storage
from medexp.system import machine


class SweepSpec:
    """What is asked: the settings, the space, and how a proposal is composed."""

    def __init__(
        self, asked: SweepOptions, over: SearchSpace, config: DictConfig, context: HydraContext
    ):
        self.settings, self.space, self.config, self._context = asked, over, config, context
        self.launch_dir = Path(config.hydra.runtime.cwd)
        self.folder = self.launch_dir

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """What Hydra composes of `overrides`, its own node included."""
        return self._context.config_loader.load_sweep_config(self.config, list(overrides))

    def plain(self, hardware: str) -> DictConfig:
        """What a run on `hardware` is composed of when nothing else is said."""
        door = str(self.config.hydra.job.config_name)
        return self._context.config_loader.load_configuration(
            door, [f"hardware={hardware}"], run_mode=RunMode.RUN
        )

    @property
    def context(self) -> HydraContext:
        """Hydra's own part."""
        return self._context

    @cached_property
    def suggest_more(self) -> Callable[[DictConfig, Any], None] | None:
        """The user's own function, which suggests what the ranges do not say.

        Raises: ConfigError if it cannot be imported.
        """
        asked = self.settings.custom_search_space
        try:
            return None if asked is None else resolve_name(asked)
        except Exception as error:
            raise ConfigError(
                f"hydra.sweeper.custom_search_space={asked} cannot be imported ({error}); give"
                " MODULE.FUNCTION of a module in this folder or installed: it is called with (cfg,"
                " trial)"
            ) from error

    def values(self, trial: Any) -> dict[str, Any]:
        """The values of `trial`, with those of the user's own function.

        Raises: ConfigError if that function raises.
        """
        if self.suggest_more is not None:
            try:
                self.suggest_more(self.config, trial)
            except Exception as error:
                asked = f"hydra.sweeper.custom_search_space={self.settings.custom_search_space}"
                raise ConfigError(
                    f"{asked} raised {type(error).__name__}: {error}; HYDRA_FULL_ERROR=1 shows"
                    " where"
                ) from error
        return dict(trial.params)

    def checked(self) -> RunConfig:
        """The run that the fixed part describes, checked as a single run would be, and that every
        end of every range makes a run.

        Raises: BadInput with every problem: unknown keys, values out of range, a card that is not
            there.
        """
        _ = self.suggest_more
        launcher = str(self.config.hydra.launcher["_target_"])
        if launcher.endswith("BasicLauncher"):
            raise ConfigError(
                "hydra/launcher=basic runs trials inside the sweep itself, where one that crashes"
                " ends all and keeps its memory; leave it out for a process each, or take a"
                " cluster's, as hydra/launcher=submitit_local"
            )
        here = "medexp_launcher" in launcher
        self._check_metrics()
        if self.config.get("run") is not None or self.config.train.from_run:
            raise ConfigError(
                "experiment=from_run makes one run again and cannot be swept: leave it out, and"
                " run= with it"
            )
        first = {key: each.ends()[0] for key, each in self.space.dimensions.items()}
        base = self._base(first, here)
        problems: dict[str, None] = {}
        for key, each in self.space.dimensions.items():
            for value in each.ends():
                try:
                    resolve_config(
                        self.compose(self.space.overrides(first | {key: value})),
                        machine.read(),
                        self.launch_dir,
                    )
                except BadInput as error:
                    problems |= dict.fromkeys(error.problems)
        if problems:
            raise ConfigError([f"the sweep would try {each}" for each in problems])
        return base

    def _check_metrics(self) -> None:
        """Raises: ConfigError for an objective or a constraint that no run logs."""
        asked = {"objective": self.settings.objectives, "constraints": self.settings.constraints}
        found = [
            f"hydra.sweeper.{option}: {said}"
            for option, names in asked.items()
            for each in names
            if (said := find_metric_problem(each))
        ]
        if found:
            raise ConfigError(found)

    def _base(self, first: Mapping[str, Value], needs_card: bool) -> RunConfig:
        """The fixed part as a run: by itself, or where something that varies is missing from it, at
        the first point.
        """
        try:
            return resolve_config(
                self.compose(self.space.fixed), machine.read(), self.launch_dir, needs_card
            )
        except BadInput:
            return resolve_config(
                self.compose(self.space.overrides(first)),
                machine.read(),
                self.launch_dir,
                needs_card,
            )

    def named(self, base: RunConfig) -> str:
        """The study's name; its folder is made known to Hydra.

        Raises: ConfigError for a name that leads out of hydra.sweep.dir.
        """
        given = self.settings.study_name or labels.default_study_name(
            self.space, dict(self.config.hydra.runtime.choices), base
        )
        root = (self.launch_dir / str(self.config.hydra.sweep.dir)).absolute()
        if root.resolve() not in (root / given).resolve().parents:
            raise ConfigError(
                f"hydra.sweeper.study_name={given} leads out of {root}; a name is a folder there"
            )
        name = (
            labels.find_unused_name(given, root, self._kept_names())
            if self.settings.resume is Resume.never
            else given
        )
        self.folder = root / name
        with open_dict(self.config):
            self.config.hydra.sweep.dir = str(self.folder)
            self.config.hydra.sweeper.study_name = name
        return name

    def _kept_names(self) -> set[str]:
        """The studies of the storage that is asked for; one that is left out has only its own
        folder's.
        """
        return storage.list_study_names(self.settings.storage) if self.settings.storage else set()
