"""What a plan may take: of the card under `hardware.vram_ceiling_gib`, of the host under
`hardware.host_ram_gib`.
"""

from collections.abc import Iterator
from functools import cache

from medexp.config.families.registry import describe_family
from medexp.config.schema import Device, Engine, RunConfig
from medexp.planning.memory_terms import Levers
from medexp.planning.step_correction import knows_family
from medexp.planning.step_time import Plan
from medexp.system.private_names import TESTED, find_installed_version, is_untested
from medexp.system.units import GIB, bytes_of_gib

# of the host's memory for a plan that moves activations there: what is pinned is lost to all other
# programs
PINNED_SHARE = 0.4
# a budget may be under what is measured by 1 % (benchmarks/vram): a plan leaves that much room
MARGIN = 0.01
# and this much more for what nobody has measured
UNMEASURED_MARGIN = 0.02
# whose versions decide what a step takes
_SIZING_LIBRARIES = ("unsloth", "unsloth_zoo")
# Python, torch and CUDA's own host memory, measured on a run that streams nothing
HOST_BESIDE_BYTES = 3 * GIB
# Python and torch without CUDA: 0.6 GiB before a model is loaded (benchmarks/vram)
BESIDE_ON_CPU_BYTES = GIB


def list_unmeasured(config: RunConfig) -> Iterator[str]:
    """Yield what the plans of `config` rest on that no card was measured with: its family of
    models, or a library in the version that is installed here; nothing where steps of that family
    were measured with these versions (`hardware.measured_steps`)."""
    if config.hardware.device is Device.cpu or knows_family(config):
        return
    family = config.model.shape.family
    if not describe_family(config.model.shape).is_measured:
        yield f"a plan for the family {family.value} was never held against a card"
    if config.hardware.engine is Engine.unsloth:
        yield from _list_unmeasured_libraries()


@cache
def _list_unmeasured_libraries() -> tuple[str, ...]:
    return tuple(
        f"plans were measured with {library} {TESTED[library]} and"
        f" {find_installed_version(library)} is installed"
        for library in filter(is_untested, _SIZING_LIBRARIES)
    )


def remark_on_margin(config: RunConfig) -> Iterator[str]:
    """Yield, where more than usual is left free under a ceiling, how much and why."""
    if config.hardware.vram_ceiling_gib is None or not (why := [*list_unmeasured(config)]):
        return
    yield (
        f"{'; '.join(why)}: {(error_factor(config) - 1) * 100:.0f} % of the ceiling is left free"
        f" where {MARGIN * 100:.0f} % is usual, until medexp.calibrate with this model has"
        " measured its steps"
    )


def error_factor(config: RunConfig) -> float:
    """Return by how much a plan is multiplied before it is held against the ceiling."""
    return 1 + MARGIN + (UNMEASURED_MARGIN if any(list_unmeasured(config)) else 0)


def exceeds_ceiling(config: RunConfig, needed_bytes: int) -> bool:
    """Return whether so many planned bytes may be more than `hardware.vram_ceiling_gib`, where it
    is set."""
    ceiling = config.hardware.vram_ceiling_gib
    return ceiling is not None and needed_bytes * error_factor(config) > bytes_of_gib(ceiling)


def fits(config: RunConfig, plan: Plan) -> bool:
    """Return whether the peak is within `hardware.vram_ceiling_gib`, and what lies on the host
    within `hardware.host_ram_gib`, where set."""
    is_over = exceeds_ceiling(config, plan.budget.peak_bytes)
    return not is_over and host_excess_bytes(config, plan) <= 0


def card_room_bytes(config: RunConfig, ceiling_gib: float) -> int:
    """Return the bytes that a plan may take under a ceiling, its possible error left out."""
    return int(bytes_of_gib(ceiling_gib) / error_factor(config))


def host_beside_bytes(config: RunConfig) -> int:
    """Return the bytes of host memory that the process takes beside its tensors."""
    return BESIDE_ON_CPU_BYTES if config.hardware.device is Device.cpu else HOST_BESIDE_BYTES


def host_room_bytes(config: RunConfig, levers: Levers) -> int:
    """Return the bytes of host memory that a plan with `levers` may take, where
    hardware.host_ram_gib is set."""
    ram_bytes = bytes_of_gib(config.hardware.host_ram_gib or 0)
    room = ram_bytes - host_beside_bytes(config)
    return min(room, int(PINNED_SHARE * ram_bytes)) if levers.kept_on_host else room


def host_excess_bytes(config: RunConfig, plan: Plan) -> int:
    """Return by how many bytes `plan` takes more of the host than it may; 0 or less where it does
    not, or no limit is known."""
    return (
        0
        if config.hardware.host_ram_gib is None
        else plan.budget.host_bytes - host_room_bytes(config, plan.levers)
    )
