"""What a proposal would take, known before anything starts: composed, checked and planned in milliseconds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import DictConfig, open_dict

from medexp.config.rules import resolve
from medexp.config.schema import RunConfig
from medexp.errors import BadInput
from medexp.machine import Machine
from medexp.units import GIB, bytes_of_gib
from medexp.vram import planner

VRAM = "vram_bytes"  # the constraint's name in the study
CONFIG = "config"


@dataclass(frozen=True)
class Proposal:
    """A trial before it starts. `violations`: constraints by name, above 0 where they are broken; `why` says so in words."""

    overrides: tuple[str, ...]
    run: RunConfig | None
    planned_bytes: int = 0
    ceiling_bytes: int = 0
    violations: Mapping[str, float] = field(default_factory=dict)
    why: str = ""

    @property
    def fits(self) -> bool:
        """May it be started?"""
        return all(value <= 0 for value in self.violations.values())


def judged(
    overrides: Sequence[str], compose: Callable[[Sequence[str]], DictConfig], machine: Machine, launch_dir: Path
) -> Proposal:
    """The proposal with these overrides: what it takes, and whether it can run at all.

    Raises: what Hydra raises where they cannot be composed.
    """
    try:
        run = run_of(compose(overrides), machine, launch_dir)
    except BadInput as error:
        return Proposal(tuple(overrides), None, violations={CONFIG: 1.0}, why=str(error))
    return planned(overrides, run)


def run_of(cfg: DictConfig, machine: Machine, launch_dir: Path, needs_card: bool = False) -> RunConfig:
    """The checked run in `cfg`, which still holds Hydra's own node.

    Raises: ConfigError, MachineError.
    """
    choices = dict(cfg.hydra.runtime.choices)
    with open_dict(cfg):
        del cfg["hydra"]
    return resolve(cfg, machine, launch_dir, choices, needs_card)


def planned(overrides: Sequence[str], run: RunConfig) -> Proposal:
    """The proposal of `run`: bytes of the plan it would take, and by how much the thriftiest one is over the ceiling.

    On a card these are bytes on the card; on a CPU, bytes of host memory, held against a ceiling only where one is set.
    """
    plans = planner.ranked(run)
    ceiling = bytes_of_gib(run.hardware.vram_ceiling_gib or 0)
    fitting = [plan for plan in plans if not ceiling or _needs(plan) * planner.SAFETY <= ceiling]
    if fitting:
        chosen = fitting[0] if not planner.is_planned(run) else planner.choose(run)[0]
        limit = {VRAM: float(_needs(chosen) - ceiling)} if ceiling else {}
        return Proposal(tuple(overrides), run, _needs(chosen), ceiling, limit)
    least = min(plans, key=_needs)
    over = int(_needs(least) * planner.SAFETY) + 1 - ceiling
    largest = max(
        least.budget.terms, key=lambda term: term.num_bytes if not planner.is_planned(run) or term.place.value == "GPU" else 0
    )
    why = (
        f"needs {_needs(least) / GIB:.2f} GiB, hardware.vram_ceiling_gib is {run.hardware.vram_ceiling_gib:g}; "
        f"largest term: {largest.name}, {largest.num_bytes / GIB:.2f} GiB"
    )
    return Proposal(tuple(overrides), run, _needs(least), ceiling, {VRAM: float(over)}, why)


def _needs(plan: planner.Plan) -> int:
    return plan.budget.peak_bytes or plan.budget.host_bytes
