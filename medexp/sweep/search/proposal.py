"""What a trial would take, known before it starts: it is composed, checked and planned in
milliseconds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import DictConfig, open_dict

from medexp.cli.hub_shape import fill_hub_shape
from medexp.config.resolve import resolve
from medexp.config.schema import RunConfig
from medexp.errors import BadInput
from medexp.planning import limits, planner
from medexp.planning.memory_terms import Place
from medexp.planning.step_time import Plan
from medexp.system.machine import Machine
from medexp.system.units import GIB, bytes_of_gib

# The names of the constraints in the study.
VRAM = "vram_bytes"
HOST = "host_bytes"
CONFIG = "config"


@dataclass(frozen=True)
class Proposal:
    """A trial before it starts.

    `violations`: by constraint how far it is from its limit, above 0 where it breaks it; `why` says
    so in words. `config` is None where the overrides make no valid run.
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
        return all(violation <= 0 for violation in self.violations.values())


def make_proposal(
    overrides: Sequence[str],
    compose: Callable[[Sequence[str]], DictConfig],
    machine: Machine,
    launch_dir: Path,
) -> Proposal:
    """Return the proposal with these overrides: what it takes, and whether it can run at all.

    Raises: what Hydra raises where they cannot be composed.
    """
    try:
        config = resolve_config(compose(overrides), machine, launch_dir)
    except BadInput as error:
        return Proposal(tuple(overrides), None, violations={CONFIG: 1.0}, why=str(error))
    return plan_proposal(overrides, config)


def resolve_config(
    cfg: DictConfig, machine: Machine, launch_dir: Path, needs_card: bool = False
) -> RunConfig:
    """Return the checked config in `cfg`, which still holds Hydra's own node.

    Raises: ConfigError, MachineError.
    """
    choices = dict(cfg.hydra.runtime.choices)
    with open_dict(cfg):
        del cfg["hydra"]
    return resolve(fill_hub_shape(cfg), machine, launch_dir, choices, needs_card)


def plan_proposal(overrides: Sequence[str], config: RunConfig) -> Proposal:
    """Return the proposal of `config`: the bytes of its plan, and whether any plan of it fits.

    On a card these are bytes on the card. On a CPU they are bytes of host memory, which have a
    ceiling only where one is set.
    """
    ceiling_bytes = bytes_of_gib(config.hardware.vram_ceiling_gib or 0)
    plans, fitting = planner.search_plans(config, lambda plan: _fits(config, plan))
    if fitting:
        plan = planner.pick_preferred(config, fitting) if planner.is_planned(config) else fitting[0]
        needed_bytes = _needed_bytes(plan)
        violations = {VRAM: float(needed_bytes - ceiling_bytes)} if ceiling_bytes else {}
        return Proposal(tuple(overrides), config, needed_bytes, ceiling_bytes, violations)
    # How far a refused proposal is from fitting is what a sampler learns from: of its plans the one
    # that needs least is held against the ceiling.
    least_plan = min(plans, key=_needed_bytes)
    needed_bytes = _needed_bytes(least_plan)
    excess_bytes = int(needed_bytes * limits.error_factor(config)) + 1 - ceiling_bytes
    if excess_bytes > 0:
        violations = {VRAM: float(excess_bytes)}
        why = _explain_excess(config, least_plan)
    else:
        # The card could hold it; what is streamed from the host is too much for the host.
        violations = {HOST: _host_excess_bytes(config, plans)}
        why = (
            "what is left off the card needs more than"
            f" hardware.host_ram_gib={config.hardware.host_ram_gib:g}"
        )
    return Proposal(tuple(overrides), config, needed_bytes, ceiling_bytes, violations, why)


def _explain_excess(config: RunConfig, plan: Plan) -> str:
    place = Place.gpu if planner.is_planned(config) else Place.host
    terms = [term for term in plan.budget.terms if term.place is place]
    largest = max(terms, key=lambda term: term.num_bytes)
    return (
        f"needs {_needed_bytes(plan) / GIB:.2f} GiB, hardware.vram_ceiling_gib is"
        f" {config.hardware.vram_ceiling_gib:g}; largest term: {largest.name},"
        f" {largest.num_bytes / GIB:.2f} GiB"
    )


def _fits(config: RunConfig, plan: Plan) -> bool:
    if planner.is_planned(config):
        return limits.fits(config, plan)
    fits_ceiling = not limits.exceeds_ceiling(config, _needed_bytes(plan))
    return fits_ceiling and limits.host_excess_bytes(config, plan) <= 0


def _host_excess_bytes(config: RunConfig, plans: Sequence[Plan]) -> float:
    """Return by how many bytes a proposal is over hardware.host_ram_gib, at least 1.

    Of the plans under the ceiling the one counts that needs least of the host.
    """
    excesses = [
        limits.host_excess_bytes(config, plan)
        for plan in plans
        if not limits.exceeds_ceiling(config, _needed_bytes(plan))
    ]
    return float(max(1, min(excesses)))


def _needed_bytes(plan: Plan) -> int:
    """Return the bytes on the card, or where the plan has none, in the host's memory."""
    return plan.budget.peak_bytes or plan.budget.host_bytes
