"""What a sweep asks: its options, its search space, and how Hydra composes a trial of it."""

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
from medexp.sweep.search.metric_names import find_metric_problem, find_missing_setting
from medexp.sweep.search.options import SweepOptions
from medexp.sweep.search.proposal import resolve_config
from medexp.sweep.search.search_space import SearchSpace, Value
from medexp.sweep.study import storage
from medexp.system import machine


class SweepSpec:
    """What is searched: the options, the space, and how a trial's config is composed."""

    def __init__(
        self,
        options: SweepOptions,
        space: SearchSpace,
        hydra_config: DictConfig,
        hydra_context: HydraContext,
    ):
        self.options = options
        self.space = space
        self.hydra_config = hydra_config
        self.hydra_context = hydra_context
        self.launch_dir = Path(hydra_config.hydra.runtime.cwd)
        # `name_study` sets the folder, which depends on the name.
        self.folder = self.launch_dir

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """Return what Hydra composes of `overrides`, its own node included."""
        loader = self.hydra_context.config_loader
        return loader.load_sweep_config(self.hydra_config, list(overrides))

    def compose_defaults(self, hardware: str) -> DictConfig:
        """Return what a run on `hardware` is composed of without any other override."""
        command = str(self.hydra_config.hydra.job.config_name)
        return self.hydra_context.config_loader.load_configuration(
            command, [f"hardware={hardware}"], run_mode=RunMode.RUN
        )

    @cached_property
    def custom_search_space(self) -> Callable[[DictConfig, Any], None] | None:
        """The user's own function, which suggests parameters that the ranges do not hold.

        Raises: ConfigError if it cannot be imported.
        """
        path = self.options.custom_search_space
        try:
            return None if path is None else resolve_name(path)
        # Importing runs the user's module, which may raise anything.
        except Exception as error:
            raise ConfigError(
                f"hydra.sweeper.custom_search_space={path} cannot be imported ({error}); give"
                " MODULE.FUNCTION of a module in this folder or installed: it is called with (cfg,"
                " trial)"
            ) from error

    def suggest_params(self, trial: Any) -> dict[str, Any]:
        """Return the parameters of `trial`, with those that the user's own function suggests.

        Raises: ConfigError if that function raises.
        """
        if self.custom_search_space is not None:
            try:
                self.custom_search_space(self.hydra_config, trial)
            except Exception as error:
                path = self.options.custom_search_space
                raise ConfigError(
                    f"hydra.sweeper.custom_search_space={path} raised {type(error).__name__}:"
                    f" {error}; HYDRA_FULL_ERROR=1 shows where"
                ) from error
        return dict(trial.params)

    def check(self) -> RunConfig:
        """Check the sweep before anything starts; returns the config of its fixed part.

        The fixed part is checked as a single run would be. So is a run at each end of each range.

        Raises: BadInput with every problem: unknown keys, values out of range, a card that is not
            there.
        """
        # A function that cannot be imported is refused here and not at the first trial.
        _ = self.custom_search_space
        launcher = str(self.hydra_config.hydra.launcher["_target_"])
        if launcher.endswith("BasicLauncher"):
            raise ConfigError(
                "hydra/launcher=basic runs trials inside the sweep itself, where one that crashes"
                " ends all and keeps its memory; leave it out for a process each, or take a"
                " cluster's, as hydra/launcher=submitit_local"
            )
        self._check_metrics()
        if self.hydra_config.get("run") is not None or self.hydra_config.train.from_run:
            raise ConfigError(
                "experiment=from_run makes one run again and cannot be swept: leave it out, and"
                " run= with it"
            )
        first_point = self.space.first_point
        # Another launcher may start its trials on a machine with a card that this one lacks.
        is_local = "medexp_launcher" in launcher
        base_config = self._resolve_base_config(first_point, needs_card=is_local)
        self._check_measured(base_config)
        self._check_range_ends(first_point)
        return base_config

    def _check_range_ends(self, first_point: Mapping[str, Value]) -> None:
        """Raises ConfigError with each problem once, whichever ranges it comes from."""
        problems: dict[str, None] = {}
        for key, dimension in self.space.dimensions.items():
            for value in dimension.ends():
                overrides = self.space.overrides({**first_point, key: value})
                try:
                    resolve_config(self.compose(overrides), machine.read(), self.launch_dir)
                except BadInput as error:
                    problems |= dict.fromkeys(error.problems)
        if problems:
            raise ConfigError([f"the sweep would try {problem}" for problem in problems])

    def _check_metrics(self) -> None:
        """Raises ConfigError for an objective or a constraint that no run logs."""
        problems = [
            f"hydra.sweeper.{option}: {problem}"
            for option, name in self._list_metrics()
            if (problem := find_metric_problem(name))
        ]
        if problems:
            raise ConfigError(problems)

    def _check_measured(self, base_config: RunConfig) -> None:
        """Raises ConfigError for one that the trials of this sweep do not measure."""
        evaluation = base_config.evaluation
        problems = [
            f"hydra.sweeper.{option}: no trial measures {name}, as"
            f" evaluation.answers={evaluation.answers} and"
            f" evaluation.likelihoods={str(evaluation.likelihoods).lower()}; set {setting}"
            for option, name in self._list_metrics()
            if (setting := find_missing_setting(name, evaluation))
        ]
        if problems:
            raise ConfigError(problems)

    def _list_metrics(self) -> list[tuple[str, str]]:
        """Return every metric that trials are chosen by, each after the option that names it."""
        asked = {"objective": self.options.objectives, "constraints": self.options.constraints}
        return [(option, name) for option, names in asked.items() for name in names]

    def _resolve_base_config(self, first_point: Mapping[str, Value], needs_card: bool) -> RunConfig:
        """Return the fixed part as a config, completed by the first point where it needs that."""
        here = (machine.read(), self.launch_dir, needs_card)
        try:
            return resolve_config(self.compose(self.space.fixed), *here)
        except BadInput:
            return resolve_config(self.compose(self.space.overrides(first_point)), *here)

    def name_study(self, base_config: RunConfig) -> str:
        """Return the study's name, and make its folder known to Hydra.

        Raises: ConfigError for a name that leads out of hydra.sweep.dir.
        """
        name = self.options.study_name or labels.default_study_name(
            self.space, dict(self.hydra_config.hydra.runtime.choices), base_config
        )
        root = (self.launch_dir / str(self.hydra_config.hydra.sweep.dir)).absolute()
        if root.resolve() not in (root / name).resolve().parents:
            raise ConfigError(
                f"hydra.sweeper.study_name={name} leads out of {root}; a name is a folder there"
            )
        if self.options.resume is Resume.never:
            name = labels.find_unused_name(name, root, self._stored_study_names())
        self.folder = root / name
        with open_dict(self.hydra_config):
            self.hydra_config.hydra.sweep.dir = str(self.folder)
            self.hydra_config.hydra.sweeper.study_name = name
        return name

    def _stored_study_names(self) -> set[str]:
        """Return the studies of hydra.sweeper.storage; the default is a file for each study."""
        url = self.options.storage
        return storage.list_study_names(url) if url else set()
