"""The memory levers of `hardware`: what can be traded for memory at the same result.

One table: what a lever may be, which engine has it, and what a plan calls it. The rules between
groups, the planner, what is offered where nothing fits and MLflow's parameters read it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class MemoryLever:
    """A key of `hardware` that a plan sets where it is auto.

    `planned_as` is its field in `medexp.planning.memory_terms.Levers`. A lever that counts layers
    is a number of them or one of `words`; the others are true, false or one of `words`.
    """

    name: str
    planned_as: str
    counts_layers: bool = False
    words: tuple[str, ...] = ("auto",)
    needs_unsloth: bool = True

    @property
    def key(self) -> str:
        """Its dotted name in a config."""
        return f"hardware.{self.name}"


# hardware.fp8 with which forward passes are rounded, too
ALL_PASSES = "all"
MEMORY_LEVERS = (
    MemoryLever("offload_layers", "streamed_layers", counts_layers=True),
    MemoryLever("offload_embedding", "embedding_on_host"),
    MemoryLever("checkpoint_skip_layers", "kept_layers", counts_layers=True, words=("auto", "max")),
    MemoryLever("offload_activations", "kept_on_host"),
    MemoryLever("compile_layers", "compiled"),
    MemoryLever("fp8", "fp8", words=("auto", ALL_PASSES)),
    MemoryLever("tile_mlp", "tiled_mlp"),
    MemoryLever("page_optimizer", "paged", needs_unsloth=False),
)
LEVER_NAMES = tuple(lever.name for lever in MEMORY_LEVERS)
