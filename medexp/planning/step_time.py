"""How long a step should take: products, passes over activations, dequantisation, launches, and
what crosses the host link.

Refuses to choose: `planner` does. Constants are what is left of measured steps (benchmarks/train);
rates are the card's own, published in its preset or measured by `medexp.calibrate`.
"""

from dataclasses import dataclass, replace

from medexp.config.families.sizes import count_layer_parameters, query_width, sum_attended
from medexp.config.levers import ALL_PASSES
from medexp.config.schema import ModelShape, Quantisation, RunConfig
from medexp.planning.budget import Budgets, streamed_link_bytes
from medexp.planning.memory_terms import Budget, Levers
from medexp.planning.step_memory import is_shortened

# What is left of a measured step after products at the rate that medexp.calibrate measures,
# dequantisation and gaps, on an H200 (4,136 GB/s) and an H100 (2,897; benchmarks/train): a part
# that does not follow the memory's rate (attention and the adapters' narrow products are slower
# than a wide one), and bytes moved a token and layer, in 16-bit passes over hidden + ffn.
BESIDE_WIDE_PRODUCTS = 1.25
PASSES_BESIDE_PRODUCTS = 35
# A parameter and pass: half a byte read, two written, scales.
DEQUANTISED_BYTES = 2.6
# Python and the driver need this long to launch a layer's kernels (forward, recompute, backward),
# whatever the card: on the H200 a micro-batch of 2,048 tokens takes as long as one of 4,096 (0.387
# s for 32 layers).
LAUNCH_S_A_LAYER = 0.012
# Gaps between kernels that no product hides: two micro-batches of 4,096 tokens against one of 8,192
# (benchmarks/train).
GAPS_S_A_LAYER = 0.0007
# a step without compiled layers against one with them, 4 x 2 on the H200 (benchmarks/train)
EAGER_COST = 1.016
# Activations that wait on the host hide behind products as long as the link is at leisure. Five
# measured points (benchmarks/train), two of them at the pace of a laptop's card, were 3 to 24 %
# faster than this says, none slower.
BUSY_LINK, OVERLAP = 0.6, 4
# Products in FP8 against 16-bit ones, their rounding counted: an 8B shape with all of them in FP8
# took 1.33 times the tokens of one with none, in one call (benchmarks/train, 2026-11-30).
FP8_SPEED = 1.5
# TFLOP/s, GB/s, GB/s where a preset is silent: only the order of plans is then meant
DEFAULT_CARD = (100.0, 1000.0, 12.0)


@dataclass(frozen=True)
class Plan:
    """Levers with what they take and how fast they should be; without figures of the card
    (`is_timed`) only their order counts.
    """

    budget: Budget
    step_s: float
    tokens_per_s: float
    is_timed: bool

    @property
    def levers(self) -> Levers:
        """The levers of this plan."""
        return self.budget.levers


@dataclass(frozen=True)
class MicroBatch:
    """Seconds of one micro-batch, forward and backward: whatever its length, for every token, and
    at least.
    """

    fixed_s: float
    token_s: float
    least_s: float

    def seconds(self, tokens: int) -> float:
        """Return the seconds of a micro-batch of `tokens`, padding counted."""
        return max(self.fixed_s + tokens * self.token_s, self.least_s)


def estimate_micro_batch(config: RunConfig, levers: Levers) -> MicroBatch:
    """Return what a micro-batch of `config` takes on the card.

    Source: 6 FLOP a decoder parameter and token (forward, recompute, gradient of the input; 4 in a
    kept layer and where nothing is recomputed of it), 4 in the head.
    """
    shape = config.model.shape
    tflops, memory, _ = _effective_rates(config)
    recomputed = 1 - levers.kept_layers / shape.layers
    # the MLP once more, 2 FLOP a weight
    again = 6 * shape.layers * shape.hidden * shape.ffn if levers.tiled_mlp else 0
    flops = _flops_per_token(shape, config.training.max_seq_tokens, recomputed) + again
    left_out = (
        recomputed * shape.layers * shape.hidden * shape.ffn
        if is_shortened(config) and not levers.tiled_mlp
        else 0
    )
    spared = _flops_spared_by_fp8(shape, levers, recomputed, left_out)
    products_s = BESIDE_WIDE_PRODUCTS * (flops - 2 * left_out - spared) / (tflops * 1e12)
    passes = 2 * PASSES_BESIDE_PRODUCTS * (2 + recomputed) / 3
    beside_s = shape.layers * passes * (shape.hidden + shape.ffn) / (memory * 1e9)
    is_quantised = config.model.quantisation is Quantisation.nf4
    # of a layer that is computed again, gate and up serve two products (`left_out` is down's)
    dequantised = (2 + recomputed) * shape.layers * count_layer_parameters(shape) - 3 * left_out
    dequantised_s = is_quantised * dequantised * DEQUANTISED_BYTES / (memory * 1e9)
    launched_s = shape.layers * LAUNCH_S_A_LAYER * (2 + recomputed) / 3
    gaps_s = shape.layers * GAPS_S_A_LAYER
    eager = 1.0 if levers.compiled else EAGER_COST
    return MicroBatch(
        eager * (dequantised_s + gaps_s), eager * (products_s + beside_s), eager * launched_s
    )


def estimate_short_micro_batch(config: RunConfig) -> MicroBatch:
    """Return what a micro-batch of `config` (levers set) takes when it is shorter than planned;
    streamed layers cross the link in full."""
    hardware = config.hardware
    streamed, kept = (
        count if isinstance(count, int) else 0
        for count in (hardware.offload_layers, hardware.checkpoint_skip_layers)
    )
    levers = Levers(
        1,
        1,
        streamed,
        kept_layers=kept,
        compiled=hardware.compile_layers is True,
        tiled_mlp=hardware.tile_mlp is True,
        fp8=hardware.fp8 if hardware.fp8 != "auto" else False,
    )
    whole = estimate_micro_batch(config, levers)
    streamed_s = streamed_link_bytes(config, streamed) / (_effective_rates(config)[2] * 1e9)
    return replace(whole, least_s=max(whole.least_s, streamed_s))


def predict_plan(config: RunConfig, levers: Levers) -> Plan:
    """Return the bytes and the time of `config` with `levers`, every case as long as the limit."""
    return Predictions(config).of(levers)


class Predictions:
    """Bytes and times of `config` with any levers; as for its `budgets`, the run must stay
    as it is."""

    def __init__(self, config: RunConfig):
        self.budgets = Budgets(config)
        self._config, self._link_a_s = config, _effective_rates(config)[2] * 1e9
        self._micro_batches: dict[tuple[object, ...], MicroBatch] = {}

    def of(self, levers: Levers) -> Plan:
        """Return `predict_plan` of the run with `levers`."""
        config, link_a_s = self._config, self._link_a_s
        needed = self.budgets.of(levers)
        tokens = levers.micro_batch * config.training.max_seq_tokens
        # The cards go through their micro-batches at once.
        rounds = -(-levers.accumulation // config.hardware.cards)
        on_card_s = rounds * self._micro_batch(levers).seconds(tokens)
        linked_s = needed.link_bytes / link_a_s
        looked_up_s = (
            levers.accumulation * tokens * 2 * config.model.shape.hidden / link_a_s
            if levers.embedding_on_host
            else 0.0
        )
        # copies nearly hide behind products
        step_s = max(on_card_s, linked_s) + 0.002 * min(on_card_s, linked_s) + looked_up_s
        if levers.kept_on_host:
            step_s = (on_card_s**OVERLAP + (linked_s / BUSY_LINK) ** OVERLAP) ** (
                1 / OVERLAP
            ) + looked_up_s
        return Plan(
            needed,
            step_s,
            levers.accumulation * tokens / step_s,
            is_timed=config.hardware.matmul_tflops is not None,
        )

    def _micro_batch(self, levers: Levers) -> MicroBatch:
        key = (levers.kept_layers, levers.compiled, levers.tiled_mlp, levers.fp8)
        if (known := self._micro_batches.get(key)) is None:
            known = self._micro_batches[key] = estimate_micro_batch(self._config, levers)
        return known


def _effective_rates(config: RunConfig) -> tuple[float, float, float]:
    """Return TFLOP/s of products, GB/s of the card's memory, GB/s of its link to the host."""
    hardware = config.hardware
    known = hardware.matmul_tflops, hardware.memory_gb_per_s, hardware.host_link_gb_per_s
    tflops, memory, link = (
        rate or default for rate, default in zip(known, DEFAULT_CARD, strict=True)
    )
    return tflops, memory, link


def _flops_spared_by_fp8(
    shape: ModelShape, levers: Levers, recomputed: float, left_out: float
) -> float:
    """Return what rounded products take less than exact ones, as operations a token at the rate of
    the exact: every pass, or all but the first. Of a layer that is not recomputed the first is the
    only forward pass."""
    if not levers.fp8:
        return 0
    weights = shape.layers * count_layer_parameters(shape)
    passes = (2 if levers.fp8 == ALL_PASSES else 1) + recomputed
    return (1 - 1 / FP8_SPEED) * 2 * (passes * weights - left_out)


def _flops_per_token(shape: ModelShape, seq: int, recomputed: float) -> float:
    # causal: half of 4 x seq x width, a layer and forward pass
    attention = 2 * (sum_attended(shape, seq) / shape.layers) * query_width(shape)
    return shape.layers * (
        (4 + 2 * recomputed) * count_layer_parameters(shape) + (3.5 + recomputed) * attention
    ) + (4 * shape.vocab * shape.hidden)
