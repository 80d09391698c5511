"""What a plan may take: of the card under `hardware.vram_ceiling_gib`, of the host under
`hardware.host_ram_gib`.
"""

from medexp.config.schema import Device, RunConfig
from medexp.planning.memory_terms import Levers
from medexp.planning.step_time import Plan
from medexp.system.units import GIB, bytes_of_gib

# of the host's memory for a plan that moves activations there: what is pinned is lost to all other
# programs
PINNED_SHARE = 0.4
# a budget may be under what is measured by 1 % (benchmarks/vram): a plan leaves that much room
SAFETY = 1.01
# Python, torch and CUDA's own host memory, measured on a run that streams nothing
HOST_BESIDE_BYTES = 3 * GIB
# Python and torch without CUDA: 0.6 GiB before a model is loaded (benchmarks/vram)
BESIDE_ON_CPU_BYTES = GIB


def fits(config: RunConfig, plan: Plan) -> bool:
    """Return whether the peak is within `hardware.vram_ceiling_gib`, and what lies on the host
    within `hardware.host_ram_gib`, where set."""
    ceiling = config.hardware.vram_ceiling_gib
    return (
        ceiling is None or plan.budget.peak_bytes * SAFETY <= bytes_of_gib(ceiling)
    ) and host_excess_bytes(config, plan) <= 0


def card_room_bytes(ceiling_gib: float) -> int:
    """Return the bytes that a plan may take under a ceiling, its possible error left out."""
    return int(bytes_of_gib(ceiling_gib) / SAFETY)


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
