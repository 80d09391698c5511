"""What a proposal would take, known before anything starts: composed, checked and planned in
milliseconds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import DictConfig, open_dict

from medexp.config.resolve import resolve
from medexp.config.schema import RunConfig
from medexp.errors import BadInput
from medexp.planning import limits, planner
from medexp.planning.memory_terms import Place
from medexp.planning.step_time import Plan
from medexp.system.machine import Machine
from medexp.system.units import GIB, bytes_of_gib

VRAM = "vram_bytes"  # the constraint's name in the study
HOST = "host_bytes"
CONFIG = "config"


@dataclass(frozen=True)
class Proposal:
    """A trial before it starts. `violations`: constraints by name, above 0 where they are broken;
    `why` says so in words.
    """

    overrides: tuple[str, ...]
    config: RunConfig | None
    planned_bytes: int = 0
    ceiling_bytes: int = 0
    violations: Mapping[str, float] = field(default_factory=dict)
    why: str = ""

    @property
    def fits(self) -> bool:
        """May it be started?"""
        return all(value <= 0 for value in self.violations.values())


def make_proposal(
    overrides: Sequence[str],
    compose: Callable[[Sequence[str]], DictConfig],
    machine: Machine,
    launch_dir: Path,
) -> Proposal:
    """The proposal with these overrides: what it takes, and whether it can run at all.

    Raises: what Hydra raises where they cannot be composed.
    """
    try:
        run = resolve_config(compose(overrides), machine, launch_dir)
    except BadInput as error:
        return Proposal(tuple(overrides), None, violations={CONFIG: 1.0}, why=str(error))
    return plan_proposal(overrides, run)


def resolve_config(
    cfg: DictConfig, machine: Machine, launch_dir: Path, needs_card: bool = False
) -> RunConfig:
    """The checked run in `cfg`, which still holds Hydra's own node.

    Raises: ConfigError, MachineError.
    """
    choices = dict(cfg.hydra.runtime.choices)
    with open_dict(cfg):
        del cfg["hydra"]
    return resolve(cfg, machine, launch_dir, choices, needs_card)


def plan_proposal(overrides: Sequence[str], run: RunConfig) -> Proposal:
    """The proposal of `run`: bytes of the plan it would take, and by how much the thriftiest one is
    over the ceiling.

    On a card these are bytes on the card; on a CPU, bytes of host memory, held against a ceiling
    only where one is set.
    """
    ceiling = bytes_of_gib(run.hardware.vram_ceiling_gib or 0)
    plans, fitting = planner.searched(run, lambda plan: _fits(run, plan, ceiling))
    if fitting:
        chosen = planner.preferred(run, fitting) if planner.is_planned(run) else fitting[0]
        limit = {VRAM: float(_needed_bytes(chosen) - ceiling)} if ceiling else {}
        return Proposal(tuple(overrides), run, _needed_bytes(chosen), ceiling, limit)
    least = min(plans, key=_needed_bytes)
    over = int(_needed_bytes(least) * limits.SAFETY) + 1 - ceiling
    if over <= 0:  # the card could hold it; what is streamed is too much for the host
        why = (
            "what is left off the card needs more than"
            f" hardware.host_ram_gib={run.hardware.host_ram_gib:g}"
        )
        return Proposal(
            tuple(overrides),
            run,
            _needed_bytes(least),
            ceiling,
            {HOST: _host_excess_bytes(run, plans, ceiling)},
            why,
        )
    largest = max(
        (term for term in least.budget.terms if term.place is _memory_place(run)),
        key=lambda term: term.num_bytes,
    )
    why = (
        f"needs {_needed_bytes(least) / GIB:.2f} GiB, hardware.vram_ceiling_gib is"
        f" {run.hardware.vram_ceiling_gib:g}; largest term: {largest.name},"
        f" {largest.num_bytes / GIB:.2f} GiB"
    )
    return Proposal(tuple(overrides), run, _needed_bytes(least), ceiling, {VRAM: float(over)}, why)


def _fits(run: RunConfig, plan: Plan, ceiling: int) -> bool:
    if planner.is_planned(run):
        return limits.fits(run, plan)
    return (not ceiling or _needed_bytes(plan) * limits.SAFETY <= ceiling) and limits.host_over(
        run, plan
    ) <= 0


def _host_excess_bytes(run: RunConfig, plans: Sequence[Plan], ceiling: int) -> float:
    """By how many bytes the plan under the ceiling that needs least of the host is over
    hardware.host_ram_gib.
    """
    return float(
        max(
            1,
            min(
                limits.host_over(run, plan)
                for plan in plans
                if _needed_bytes(plan) * limits.SAFETY <= ceiling or not ceiling
            ),
        )
    )


def _memory_place(run: RunConfig) -> Place:
    return Place.gpu if planner.is_planned(run) else Place.host


def _needed_bytes(plan: Plan) -> int:
    return plan.budget.peak_bytes or plan.budget.host_bytes
