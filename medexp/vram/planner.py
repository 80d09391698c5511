"""The fastest way to run that fits under the ceiling: every combination of levers, its bytes (`budget`) and its predicted time.

Exact search over micro-batch, streamed layers, embedding and kept layers; a few milliseconds. Levers that the config sets to a
number stay as they are.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace

from medexp.config.schema import Device, Engine, ModelShape, Planning, RunConfig
from medexp.errors import VramPlanError
from medexp.units import GIB, bytes_of_gib
from medexp.vram.budget import Budget, Levers, Phase, Place, Term, budget, layer_parameters

# Bytes moved a token and layer beside the matrix products (norms, rotation, activations, adapters), in 16-bit passes over
# hidden + ffn: what is left of a measured step on an H200 (benchmarks/train) after its products and dequantisation.
PASSES_BESIDE_PRODUCTS = 99
DEQUANTISED_BYTES = 2.6  # a parameter and pass: half a byte read, two written, scales
# Python and the driver need this long to launch a layer's kernels (forward, recompute, backward), whatever the card: on the H200
# a micro-batch of 2,048 tokens takes as long as one of 4,096 (0.387 s for 32 layers).
LAUNCH_S_A_LAYER = 0.012
# Gaps between kernels that no product hides: two micro-batches of 4,096 tokens against one of 8,192 (benchmarks/train).
GAPS_S_A_LAYER = 0.0007
TOO_CLOSE_TO_TELL = 1.05  # what predicted times may be off against each other
SAFETY = 1.01  # a budget may be under what is measured by 1 % (benchmarks/vram): a plan leaves that much room
DEFAULT_CARD = (100.0, 1000.0, 12.0)  # TFLOP/s, GB/s, GB/s where a preset is silent: only the order of plans is then meant


@dataclass(frozen=True)
class Plan:
    """Levers with what they take and how fast they should be; without figures of the card (`is_timed`) only their order counts."""

    budget: Budget
    step_s: float
    tokens_per_s: float
    is_timed: bool

    @property
    def levers(self) -> Levers:
        """The levers of this plan."""
        return self.budget.levers


@dataclass(frozen=True)
class Cell:
    """One place of the frontier: the plan of this rank and length, or None where nothing fits."""

    rank: int
    seq: int
    plan: Plan | None


def choose(run: RunConfig) -> tuple[Plan, tuple[Plan, ...]]:
    """The plan that `training.plan` asks for, and up to four runners-up.

    Raises: VramPlanError naming the largest term and what would fit, if nothing does.
    """
    plans = ranked(run)
    fitting = [plan for plan in plans if fits(run, plan)]
    if not fitting:
        nearest = would_fit(run)
        raise VramPlanError(_nothing_fits(run, plans, nearest), nearest)
    chosen = fitting[0] if run.training.plan is Planning.frugal else _surest(fitting)
    return chosen, tuple(_distinct([chosen, *fitting]))[1:5]


def _surest(fitting: list[Plan]) -> Plan:
    """The largest micro-batch among plans whose predicted times are too close to tell apart: whatever the cost model leaves
    out (launches, gaps, a slow host) is paid a micro-batch."""
    close = [plan for plan in fitting if plan.step_s <= fitting[0].step_s * TOO_CLOSE_TO_TELL]
    return min(close, key=lambda plan: (-plan.levers.micro_batch, plan.step_s, plan.budget.peak_bytes))


def ranked(run: RunConfig) -> list[Plan]:
    """Every plan worth looking at, best first: by time, or by bytes with `training.plan=frugal`."""
    plans = [predicted(run, levers) for levers in _candidates(run)]
    if run.training.plan is Planning.frugal:
        return sorted(plans, key=lambda plan: (plan.budget.peak_bytes, plan.step_s))
    return sorted(plans, key=lambda plan: (plan.step_s, plan.budget.peak_bytes))


def fits(run: RunConfig, plan: Plan) -> bool:
    """Is the plan's peak within `hardware.vram_ceiling_gib` (always, where there is none)?"""
    ceiling = run.hardware.vram_ceiling_gib
    return ceiling is None or plan.budget.peak_bytes * SAFETY <= bytes_of_gib(ceiling)


def apply(run: RunConfig, plan: Plan) -> None:
    """Set the levers of `plan` in `run`."""
    levers = plan.levers
    run.training.micro_batch, run.training.accumulation = levers.micro_batch, levers.accumulation
    if run.hardware.engine is Engine.unsloth:
        run.hardware.offload_layers = levers.streamed_layers
        run.hardware.offload_embedding = levers.embedding_on_host
        run.hardware.checkpoint_skip_layers = levers.kept_layers


def predicted(run: RunConfig, levers: Levers) -> Plan:
    """The bytes and the time of `run` with `levers`.

    Source: 6 FLOP a decoder parameter and token (forward, recompute, gradient of the input; 4 in a kept layer), 4 in the head.
    """
    hardware, shape = run.hardware, run.model.shape
    tflops, memory, link = hardware.matmul_tflops, hardware.memory_gb_per_s, hardware.host_link_gb_per_s
    tflops, memory, link = tflops or DEFAULT_CARD[0], memory or DEFAULT_CARD[1], link or DEFAULT_CARD[2]
    needed = budget(run, levers)
    tokens = levers.micro_batch * run.training.max_seq_tokens
    recomputed = 1 - levers.kept_layers / shape.layers
    products_s = tokens * _flops_a_token(shape, run.training.max_seq_tokens, recomputed) / (tflops * 1e12)
    passes = 2 * PASSES_BESIDE_PRODUCTS * (2 + recomputed) / 3
    beside_s = tokens * shape.layers * passes * (shape.hidden + shape.ffn) / (memory * 1e9)
    dequantised_s = (2 + recomputed) * shape.layers * layer_parameters(shape) * DEQUANTISED_BYTES / (memory * 1e9)
    launched_s = shape.layers * LAUNCH_S_A_LAYER * (2 + recomputed) / 3
    gaps_s = shape.layers * GAPS_S_A_LAYER
    on_card_s = levers.accumulation * max(products_s + beside_s + dequantised_s + gaps_s, launched_s)
    linked_s = needed.link_bytes / (link * 1e9)
    looked_up_s = levers.accumulation * tokens * 2 * shape.hidden / (link * 1e9) if levers.embedding_on_host else 0.0
    step_s = max(on_card_s, linked_s) + 0.002 * min(on_card_s, linked_s) + looked_up_s  # copies nearly hide behind products
    return Plan(needed, step_s, levers.accumulation * tokens / step_s, is_timed=hardware.matmul_tflops is not None)


def resized(run: RunConfig, rank: int | None = None, seq: int | None = None) -> RunConfig:
    """`run` at another LoRA rank or sequence length; None leaves it."""
    lora = run.lora if rank is None else replace(run.lora, r=rank)
    training = run.training if seq is None else replace(run.training, max_seq_tokens=seq)
    return replace(run, lora=lora, training=training)


def cell(run: RunConfig, rank: int, seq: int) -> Cell:
    """The best plan of `run` at another rank and length."""
    try:
        plan, _ = choose(resized(run, rank, seq))
    except VramPlanError:
        return Cell(rank, seq, None)
    return Cell(rank, seq, plan)


def longest_that_fits(run: RunConfig) -> int | None:
    """The longest `training.max_seq_tokens`, in steps of 64, for which some plan fits; None if not even 64 does."""
    most = _largest(lambda count: resized(run, seq=64 * count), 131_072 // 64)
    return 64 * most if most else None


def largest_rank_that_fits(run: RunConfig) -> int | None:
    """The largest `lora.r` for which some plan fits; None if not even 1 does."""
    return _largest(lambda rank: resized(run, rank=rank), 1024) or None


def _largest(trial: Callable[[int], RunConfig], most: int) -> int:
    """The largest number up to `most` whose trial fits, 0 if none does; what fits at a number fits at every smaller one."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        run = trial(middle)
        if fits(run, predicted(run, _thriftiest(run))):
            low = middle
        else:
            high = middle - 1
    return low


def _thriftiest(run: RunConfig) -> Levers:
    """The levers that take least memory of those the config leaves open: as few cases at a time as may be, all that can be
    streamed streamed, nothing kept that was not asked for."""
    size, asked = _sizes(run)[0], run.hardware.checkpoint_skip_layers
    must_keep = asked if isinstance(asked, int) else 0
    streamed = min(max(_streamable(run)), run.model.shape.layers - must_keep)
    plain = Levers(size, _effective_batch(run) // size, streamed, max(_embeddings(run)))
    return replace(plain, kept_layers=_kept(run, plain)[0])


def _pinned(run: RunConfig) -> bool:
    return run.training.plan is Planning.manual


def _effective_batch(run: RunConfig) -> int:
    return run.training.micro_batch * run.training.accumulation


def _sizes(run: RunConfig) -> list[int]:
    """Micro-batches that divide the effective batch, the smallest first."""
    effective = _effective_batch(run)
    return [run.training.micro_batch] if _pinned(run) else [size for size in range(1, effective + 1) if effective % size == 0]


def _candidates(run: RunConfig) -> Iterator[Levers]:
    effective = _effective_batch(run)
    for size in _sizes(run):
        for on_host in _embeddings(run):
            for streamed in _streamable(run):
                plain = Levers(size, effective // size, streamed, on_host, 0)
                yield from (replace(plain, kept_layers=kept) for kept in _kept(run, plain))


def _streamable(run: RunConfig) -> range | list[int]:
    """How many layers may be streamed: Unsloth leaves at least one on the card, and streams only with checkpointing."""
    asked = run.hardware.offload_layers
    if isinstance(asked, int):
        return [asked]
    can = run.hardware.engine is Engine.unsloth and run.training.gradient_checkpointing.value != "off" and not run.lora.dora
    return range(run.model.shape.layers) if can else [0]


def _embeddings(run: RunConfig) -> list[bool]:
    asked = run.hardware.offload_embedding
    if isinstance(asked, bool):
        return [asked]
    can = run.hardware.engine is Engine.unsloth and not run.model.shape.tied_embeddings
    return [False, True] if can else [False]


def _kept(run: RunConfig, plain: Levers) -> list[int]:
    """None, or as many layers as the ceiling leaves room for; streamed layers cannot be kept."""
    asked = run.hardware.checkpoint_skip_layers
    most = run.model.shape.layers - plain.streamed_layers
    if isinstance(asked, int):
        return [asked] if asked <= most else []
    if asked == "max":
        return [most]
    if run.hardware.engine is not Engine.unsloth or run.hardware.vram_ceiling_gib is None or _pinned(run):
        return [0]
    ceiling = int(bytes_of_gib(run.hardware.vram_ceiling_gib) / SAFETY)
    none, one, two = (budget(run, replace(plain, kept_layers=kept)).peak_bytes for kept in (0, 1, 2))
    room = 0 if one > ceiling else 1 + (ceiling - one) // max(1, two - one)
    return [0, min(most, room)] if room and none <= ceiling and most else [0]


def _distinct(plans: list[Plan]) -> Iterator[Plan]:
    """The best plan of every micro-batch and number of kept layers: neighbours in streamed layers say nothing new."""
    seen = set()
    for plan in plans:
        kind = (plan.levers.micro_batch, plan.levers.kept_layers)
        if kind not in seen:
            seen.add(kind)
            yield plan


def _flops_a_token(shape: ModelShape, seq: int, recomputed: float) -> float:
    attention = 2 * seq * shape.heads * shape.head_dim  # causal: half of 4 x seq x width, a layer and forward pass
    return shape.layers * ((4 + 2 * recomputed) * layer_parameters(shape) + (3.5 + recomputed) * attention) + (
        4 * shape.vocab * shape.hidden
    )


def would_fit(run: RunConfig) -> dict[str, int]:
    """The nearest values that would fit, by key: the longest sequence at this rank, the largest rank at this length."""
    found = {"training.max_seq_tokens": longest_that_fits(run), "lora.r": largest_rank_that_fits(run)}
    return {key: value for key, value in found.items() if value is not None}


def _nothing_fits(run: RunConfig, plans: list[Plan], nearest: dict[str, int]) -> str:
    least = min(plans, key=lambda plan: plan.budget.peak_bytes)
    largest, ceiling = least.budget.largest(), run.hardware.vram_ceiling_gib
    ways = [f"{key}={value}" for key, value in nearest.items()]
    ways += ["training.plan=fastest with the levers on auto"] if _pinned(run) else []
    return (
        f"the plan that needs least takes {least.budget.peak_bytes / GIB:.2f} GiB and hardware.vram_ceiling_gib is {ceiling:g} "
        f"({(SAFETY - 1) * 100:.0f} % is left for error). Largest term: {largest.name}, {largest.num_bytes / GIB:.2f} GiB. "
        f"Would fit: {' or '.join(ways) or 'a smaller model or a larger card'}"
    )


def is_planned(run: RunConfig) -> bool:
    """Is there a card, and so something to plan?"""
    return run.hardware.device is Device.cuda


def terms(plan: Plan) -> list[Term]:
    """Every term of the plan, the card's first, what is always there before what comes and goes, largest first."""
    return sorted(plan.budget.terms, key=lambda term: (term.place is Place.host, term.phase is not Phase.always, -term.num_bytes))


def sentence(plan: Plan, ceiling_gib: float | None) -> str:
    """The plan in one line: batch, levers, bytes against the ceiling, predicted speed."""
    levers = plan.levers
    parts = [f"{levers.micro_batch} x {levers.accumulation} cases a step"]
    parts += [f"{levers.streamed_layers} layers streamed from the host"] if levers.streamed_layers else []
    parts += ["embedding on the host"] if levers.embedding_on_host else []
    parts += [f"{levers.kept_layers} layers not recomputed"] if levers.kept_layers else []
    of = f" of {ceiling_gib:g}" if ceiling_gib else ""
    takes = plan.budget.peak_bytes or plan.budget.host_bytes
    speed = f", {plan.tokens_per_s:,.0f} tokens/s predicted" if plan.is_timed else ""
    return f"{', '.join(parts)}: {takes / GIB:.2f}{of} GiB{speed}"


def as_dict(plan: Plan) -> dict[str, object]:
    """The plan as plain values with stable keys; bytes are ints."""
    levers = plan.levers
    return {
        "peak_bytes": plan.budget.peak_bytes,
        "host_bytes": plan.budget.host_bytes,
        "host_link_bytes_per_step": plan.budget.link_bytes,
        "step_s": round(plan.step_s, 4) if plan.is_timed else None,
        "tokens_per_s": round(plan.tokens_per_s, 1) if plan.is_timed else None,
        "levers": asdict(levers),
        "terms": [
            {
                "name": each.name,
                "bytes": each.num_bytes,
                "place": each.place.value,
                "phase": each.phase.value,
                "source": each.source,
            }
            for each in terms(plan)
        ],
    }
