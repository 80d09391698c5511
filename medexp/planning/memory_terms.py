"""The words of a memory budget: what takes bytes, where, when; the levers that trade them; shape
arithmetic.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import NamedTuple

from medexp.config.families.sizes import list_linear_sizes, name_targets
from medexp.config.schema import Dtype, ModelShape, RunConfig

# bytes a number; float32 runs on a CPU alone
WIDTHS = {Dtype.bfloat16: 2, Dtype.float16: 2, Dtype.float32: 4}
# torch's caching allocator rounds every tensor up to this.
ALLOCATION_UNIT = 512


class Place(Enum):
    """Where bytes lie."""

    gpu = "GPU"
    host = "host"
    # Enum's own is a tenth of a search for a plan.
    __hash__ = object.__hash__


class Phase(Enum):
    """When bytes are held: for the whole run, only in training steps, while held-out cases are
    measured, or answered.
    """

    always = "always"
    training = "training step"
    evaluation = "evaluation"
    answering = "answering"
    __hash__ = object.__hash__


@dataclass(frozen=True)
class Levers:
    """What can be traded for memory at the same result: micro-batch x accumulation stays the
    effective batch.

    `compiled` decoder layers run faster and hold more; with `tiled_mlp` the MLP is computed a few
    thousand tokens at a time, and once more in the backward pass; a `paged` optimizer keeps its
    state in host memory. What `kept_layers` save waits in host memory with `kept_on_host`. With
    `fp8` products with frozen weights are rounded where they are computed again and for gradients,
    with `ALL_PASSES` everywhere: the one lever that changes a result.
    """

    micro_batch: int
    accumulation: int
    streamed_layers: int = 0
    embedding_on_host: bool = False
    kept_layers: int = 0
    compiled: bool = True
    tiled_mlp: bool = False
    paged: bool = False
    kept_on_host: bool = False
    fp8: bool | str = False

    @property
    def waiting_layers(self) -> int:
        """Kept layers whose activations wait on the host: all but the last, whose are
        needed first."""
        return max(0, self.kept_layers - 1) if self.kept_on_host else 0


class Term(NamedTuple):
    """One thing that takes memory: how many bytes, where, when, and how that is known."""

    name: str
    num_bytes: int
    place: Place
    phase: Phase
    source: str


class TermGroup:
    """Terms that depend on the same levers, and the bytes they come to, by phase: a search adds
    parts up, not terms.
    """

    def __init__(self, terms: Iterable[Term]):
        self.terms = tuple(term for term in terms if term.num_bytes > 0)
        self.on_card = self._sum_by_phase(Place.gpu)
        self.on_host = self._sum_by_phase(Place.host)

    def _sum_by_phase(self, place: Place) -> tuple[int, ...]:
        here = [term for term in self.terms if term.place is place]
        return tuple(sum(term.num_bytes for term in here if term.phase is phase) for phase in Phase)


@dataclass(frozen=True)
class Budget:
    """All terms of a run with given levers, in their parts."""

    levers: Levers
    parts: tuple[TermGroup, ...]
    link_bytes: int

    @property
    def terms(self) -> tuple[Term, ...]:
        """Everything that takes memory."""
        return tuple(term for part in self.parts for term in part.terms)

    def gpu_bytes(self, phase: Phase) -> int:
        """Return the bytes on the card that are held in `phase` only."""
        index = _INDEX[phase]
        return sum([part.on_card[index] for part in self.parts])

    def bytes_in(self, phase: Phase) -> int:
        """Return everything on the card in `phase`: what is always there, and what comes on top."""
        always = self.gpu_bytes(Phase.always)
        return always if phase is Phase.always else always + self.gpu_bytes(phase)

    @cached_property
    def peak_bytes(self) -> int:
        """The most the allocator reserves: what is always there and the larger of a training step
        and an evaluation.
        """
        return _compute_peak([part.on_card for part in self.parts])

    @cached_property
    def host_bytes(self) -> int:
        """Pinned and pageable host memory, at its peak; on a CPU everything lies there."""
        return _compute_peak([part.on_host for part in self.parts])

    def largest(self) -> Term:
        """Return the term that takes most of the card."""
        return max(
            (term for term in self.terms if term.place is Place.gpu),
            key=lambda term: term.num_bytes,
        )


_INDEX = {phase: index for index, phase in enumerate(Phase)}


def _compute_peak(held: Iterable[tuple[int, ...]]) -> int:
    """Return what is always held, and the most that a phase adds; `held` are the bytes of each
    part, by phase."""
    always, *others = map(sum, zip(*held, strict=True))
    return always + max(others)


def dequantised_bytes(shape: ModelShape) -> int:
    """Return the bytes of the largest matrix of a layer in 16 bits: what Unsloth makes of a
    quantised weight for a product."""
    return 2 * max(inputs * outputs for inputs, outputs in list_linear_sizes(shape).values())


def list_trained_sizes(config: RunConfig) -> list[tuple[int, int]]:
    """Return (in, out) of every matrix of a layer that has an adapter."""
    shape = config.model.shape
    trained = name_targets(shape.family, config.lora.target_modules)
    return [size for name, size in list_linear_sizes(shape).items() if name in trained]


def count_lora_parameters(config: RunConfig) -> int:
    """Return the number of trained parameters: r x (in + out) a projection, and a magnitude an
    output with DoRA."""
    shape, sizes = config.model.shape, list_trained_sizes(config)
    magnitudes = sum(outputs for _, outputs in sizes) if config.lora.dora else 0
    return shape.layers * (config.lora.r * sum(map(sum, sizes)) + magnitudes)


def round_to_allocation(num_bytes: int) -> int:
    """Return the bytes that the allocator takes for a tensor of `num_bytes`."""
    return -(-num_bytes // ALLOCATION_UNIT) * ALLOCATION_UNIT


def hidden_state_bytes(shape: ModelShape, tokens: int) -> int:
    """Return the bytes of the input of every decoder layer for `tokens`, in 16 bits: what
    checkpointing keeps for the backward pass."""
    return shape.layers * 2 * tokens * shape.hidden
