"""What a sweep asks: its settings, its space, and how Hydra composes a proposal of it."""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, open_dict

from medexp import machine
from medexp.config.schema import Resume, RunConfig
from medexp.errors import BadInput, ConfigError
from medexp.sweep import names
from medexp.sweep.proposal import run_of
from medexp.sweep.settings import Settings
from medexp.sweep.space import Space


class Question:
    """What is asked: the settings, the space, and how a proposal is composed."""

    def __init__(self, asked: Settings, over: Space, config: DictConfig, context: HydraContext):
        self.settings, self.space, self.config, self._context = asked, over, config, context
        self.launch_dir = Path(config.hydra.runtime.cwd)
        self.folder = self.launch_dir

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """What Hydra composes of `overrides`, its own node included."""
        return self._context.config_loader.load_sweep_config(self.config, list(overrides))

    def plain(self, hardware: str) -> DictConfig:
        """What a run on `hardware` is composed of when nothing else is said."""
        door = str(self.config.hydra.job.config_name)
        return self._context.config_loader.load_configuration(door, [f"hardware={hardware}"], run_mode=RunMode.RUN)

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
                f"hydra.sweeper.custom_search_space={asked} cannot be imported ({error}); "
                "give MODULE.FUNCTION of a module in this folder or installed: it is called with (cfg, trial)"
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
                raise ConfigError(f"{asked} raised {type(error).__name__}: {error}; HYDRA_FULL_ERROR=1 shows where") from error
        return dict(trial.params)

    def checked(self) -> RunConfig:
        """The run that the fixed part describes, checked as a single run would be, and that every end of every range makes a run.

        Raises: BadInput with every problem: unknown keys, values out of range, a card that is not there.
        """
        _ = self.suggest_more
        here = "medexp_launcher" in str(self.config.hydra.launcher["_target_"])
        if self.config.get("run") is not None or self.config.train.from_run:
            raise ConfigError("experiment=from_run makes one run again and cannot be swept: leave it out, and run= with it")
        base = run_of(self.compose(self.space.fixed), machine.read(), self.launch_dir, needs_card=here)
        first = {key: each.ends()[0] for key, each in self.space.dimensions.items()}
        problems: dict[str, None] = {}
        for key, each in self.space.dimensions.items():
            for value in each.ends():
                try:
                    run_of(self.compose(self.space.overrides(first | {key: value})), machine.read(), self.launch_dir)
                except BadInput as error:
                    problems |= dict.fromkeys(error.problems)
        if problems:
            raise ConfigError([f"the sweep would try {each}" for each in problems])
        return base

    def named(self, base: RunConfig) -> str:
        """The study's name; its folder is made known to Hydra."""
        given = self.settings.study_name or names.study_name(self.space, dict(self.config.hydra.runtime.choices), base)
        root = (self.launch_dir / str(self.config.hydra.sweep.dir)).absolute()
        name = names.unused(given, root) if self.settings.resume is Resume.never else given
        self.folder = root / name
        with open_dict(self.config):
            self.config.hydra.sweep.dir = str(self.folder)
            self.config.hydra.sweeper.study_name = name
        return name
