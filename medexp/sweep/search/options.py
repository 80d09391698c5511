"""The options of a sweep as a checked object; conf/hydra/sweeper/medexp.yaml has their defaults."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from medexp.config.command_options import SweepOptions as AskedOptions
from medexp.config.fields import number
from medexp.config.schema import Resume
from medexp.errors import ConfigError, first_line, listing
from medexp.system.units import parse_duration

DIRECTIONS = ("minimize", "maximize")


@dataclass
class SweepOptions(AskedOptions):
    """How a study is run: what is asked for under sweep., and how the sweeper does it. A key that
    hydra-optuna-sweeper has too means the same there.
    """

    inside = "hydra.sweeper."
    sampler: Any = MISSING
    pruner: Any = MISSING
    study_name: str | None = MISSING
    storage: str | None = MISSING
    objective: Any = MISSING
    direction: Any = MISSING
    n_jobs: int = number(1)
    repeats: int = number(1)
    timeout: float | None = number(above=0)
    trial_timeout: float | None = number(above=0)
    heartbeat_s: int = number(1)
    max_failure_rate: float = number(0, 1)
    resume: Resume = MISSING
    params: dict[str, Any] = MISSING
    constraints: dict[str, float] = MISSING
    custom_search_space: str | None = MISSING

    @property
    def budget_s(self) -> float | None:
        """The seconds of a card that the study may take, None without an end."""
        return None if self.budget is None else parse_duration(self.budget)

    @property
    def objectives(self) -> tuple[str, ...]:
        """The metrics that are optimised."""
        return _as_tuple(self.objective)

    @property
    def directions(self) -> tuple[str, ...]:
        """minimize or maximize for each objective; a single one holds for all."""
        # hydra-optuna-sweeper's own configs hold enum members, whose names are these words.
        names = tuple(
            getattr(direction, "name", str(direction)) for direction in _as_tuple(self.direction)
        )
        return names * len(self.objectives) if len(names) == 1 else names


def check_options(options: Mapping[str, Any]) -> SweepOptions:
    """Return `options` as a checked object.

    Raises: ConfigError with every problem.
    """
    values = {
        name: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        for name, value in options.items()
    }
    # The YAML has null, because Hydra lets a command line fill null and not {}.
    values["constraints"] = values.get("constraints") or {}
    try:
        checked = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(SweepOptions), values))
    except OmegaConfBaseException as error:
        raise ConfigError(f"hydra.sweeper.{error.full_key or '?'}: {first_line(error)}") from error
    assert isinstance(checked, SweepOptions)
    problems = [
        f"hydra.sweeper.direction={direction} is not allowed; allowed are {listing(DIRECTIONS)}"
        for direction in checked.directions
        if direction not in DIRECTIONS
    ]
    if len(checked.directions) != len(checked.objectives):
        problems.append(
            f"hydra.sweeper.direction has {len(checked.directions)} entries and"
            f" hydra.sweeper.objective has {len(checked.objectives)}; give one an objective"
        )
    problems += _find_budget_problems(checked.budget)
    if problems:
        raise ConfigError(problems)
    return checked


def _find_budget_problems(budget: str | None) -> list[str]:
    try:
        seconds = None if budget is None else parse_duration(budget)
    except ValueError as error:
        return [f"sweep.budget: {error}"]
    return ["sweep.budget=0 is out of range: allowed is above 0"] if seconds == 0 else []


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,)
