"""Every byte a run needs, from the model's declared shape and the run's levers. Arithmetic only;
milliseconds.

What is held for the whole run is exact (within 0.5 MiB of what torch allocates, benchmarks/vram);
`step` knows what a training step adds.
"""

from collections.abc import Callable
from functools import cache

from medexp.config.families.registry import describe_family
from medexp.config.families.sizes import (
    count_beside_llama,
    kv_width,
    list_bias_widths,
    list_linear_sizes,
    list_norm_widths,
    sum_attended,
)
from medexp.config.schema import Device, Engine, Optimizer, Quantisation, RunConfig
from medexp.planning import unfused_memory
from medexp.planning.memory_terms import (
    ALLOCATION_UNIT,
    WIDTHS,
    Budget,
    Levers,
    Phase,
    Place,
    Term,
    TermGroup,
    count_lora_parameters,
    dequantised_bytes,
    hidden_state_bytes,
    round_to_allocation,
)
from medexp.planning.step_memory import is_offloaded, list_step_terms, sent_bytes
from medexp.system.units import MIB

# bitsandbytes: weights a scale, scales a nested scale.
NF4_BLOCK, NESTED_BLOCK = 64, 256
# Unsloth keeps three layers of a streamed stack on the card: one in use, two on their way
PREFETCHED_SLOTS = 3
# As in medexp.evaluation.losses.
EVALUATION_CHUNK_TOKENS = 256
# Held-out loss without gradients: tensors take 7 hidden + 3 ffn a token (to 1 MiB, two shapes), and
# this is the allocator's on top.
EVALUATION_PER_HIDDEN = 7
EVALUATION_PER_FFN = 3
EVALUATION_FACTOR = 1.15
EVALUATION_SLACK = 220 * MIB
CACHE_BLOCK_TOKENS, ANSWERING_SLACK = 512, 100 * MIB
POSITIONS, POSITIONS_AT_FIRST = 131_072, 32_768
# cuBLAS' workspace (32 MiB on Hopper, 8 MiB elsewhere) and rotary tables, measured after loading
WORKSPACE_BYTES = int(32.2 * MIB)


def compute_budget(config: RunConfig, levers: Levers) -> Budget:
    """Return what `config` takes with `levers`; micro-batch and accumulation of `config` itself are
    not looked at."""
    return Budgets(config).of(levers)


class Budgets:
    """What `config` takes with any levers. A search looks at thousands: each part is worked out
    once for all that it does not depend on, so `config` must stay as it is meanwhile."""

    def __init__(self, config: RunConfig):
        self.config = config
        self._parts: dict[tuple[object, ...], TermGroup] = {}
        self._links: dict[tuple[object, ...], int] = {}

    def of(self, levers: Levers) -> Budget:
        """Return `compute_budget` of the run with `levers`."""
        step = (
            levers.micro_batch,
            levers.kept_layers,
            levers.compiled,
            levers.tiled_mlp,
            levers.kept_on_host,
            levers.fp8,
        )
        parts = (
            self._part(
                _list_weight_terms, levers, levers.streamed_layers, levers.embedding_on_host
            ),
            self._part(_list_dequantised_terms, levers, levers.compiled),
            self._part(_list_adapter_terms, levers, levers.paged),
            self._part(list_step_terms, levers, *step),
            self._part(_list_evaluation_terms, levers),
        )
        return Budget(levers, parts, self._link_bytes(levers))

    def _part(
        self, terms: Callable[[RunConfig, Levers], list[Term]], levers: Levers, *depends_on: object
    ) -> TermGroup:
        key = (terms, *depends_on)
        if (known := self._parts.get(key)) is None:
            found = terms(self.config, levers)
            if self.config.hardware.device is Device.cpu:
                found = [term._replace(place=Place.host) for term in found]
            known = self._parts[key] = TermGroup(found)
        return known

    def _link_bytes(self, levers: Levers) -> int:
        key = (
            levers.micro_batch,
            levers.accumulation,
            levers.streamed_layers,
            levers.waiting_layers,
            levers.paged,
        )
        if (known := self._links.get(key)) is None:
            known = self._links[key] = _link_bytes(self.config, levers)
        return known


def layer_bytes(config: RunConfig) -> tuple[int, int]:
    """Return the bytes of one frozen decoder layer: what a streamed layer leaves on the host, and
    the scales that stay on the card.

    Source: bitsandbytes' NF4 with double quantisation, a byte for two weights, a byte for 64, four
        bytes for 16,384.
    """
    shape = config.model.shape
    sizes = tuple(inputs * outputs for inputs, outputs in list_linear_sizes(shape).values())
    beside = (*list_norm_widths(shape), *list_bias_widths(shape))
    width = 0 if config.model.quantisation is Quantisation.nf4 else WIDTHS[config.hardware.dtype]
    return _layer_bytes(sizes, beside, width, config.hardware.device is Device.cpu)


@cache
def _layer_bytes(
    sizes: tuple[int, ...], vectors: tuple[int, ...], width: int, on_cpu: bool
) -> tuple[int, int]:
    """Return `layer_bytes` of matrices of these sizes, and norms and biases of these widths
    (`vectors`); `width` bytes a weight, 0 for NF4, where norms and biases have 2."""
    held = _exactly_bytes if on_cpu else round_to_allocation
    beside = sum(held((width or 2) * numbers) for numbers in vectors)
    if width:
        return sum(held(width * size) for size in sizes) + beside, 0
    weights = sum(held(size // 2) for size in sizes)
    scales = [size // NF4_BLOCK for size in sizes]
    nested = sum(held(4 * -(-scale // NESTED_BLOCK)) + 2 * ALLOCATION_UNIT for scale in scales)
    return weights + beside, sum(map(held, scales)) + nested


def _exactly_bytes(num_bytes: int) -> int:
    return num_bytes


def _casts_to_float32(config: RunConfig) -> bool:
    """Return whether PEFT, preparing NF4 weights for training, casts embedding, head and norms to
    float32; Unsloth leaves them in 16 bits."""
    return (
        config.hardware.engine is Engine.transformers
        and config.model.quantisation is Quantisation.nf4
    )


def _list_weight_terms(config: RunConfig, levers: Levers) -> list[Term]:
    shape, streamed = config.model.shape, levers.streamed_layers
    layer, scales = layer_bytes(config)
    kept = WIDTHS[config.hardware.dtype]
    width = 4 if _casts_to_float32(config) else kept
    table = width * shape.vocab * shape.hidden
    norms = (width - kept) * shape.layers * sum(list_norm_widths(shape)) + width * shape.hidden
    exact = "declared shape, exact"
    embedding_place = Place.host if levers.embedding_on_host else Place.gpu
    return [
        Term("layer weights", (shape.layers - streamed) * layer, Place.gpu, Phase.always, exact),
        Term("quantisation scales", shape.layers * scales, Place.gpu, Phase.always, exact),
        Term(
            "streamed-layer slots",
            min(PREFETCHED_SLOTS, streamed) * layer,
            Place.gpu,
            Phase.always,
            "Unsloth's pool, exact",
        ),
        Term("streamed layers", streamed * layer, Place.host, Phase.always, exact),
        Term("embedding", table, embedding_place, Phase.always, exact),
        Term("lm_head", 0 if shape.tied_embeddings else table, Place.gpu, Phase.always, exact),
        Term("final and float32 norms", norms, Place.gpu, Phase.always, exact),
        Term(
            "workspace and tables",
            0 if config.hardware.device is Device.cpu else WORKSPACE_BYTES,
            Place.gpu,
            Phase.always,
            "measured after loading",
        ),
    ]


def _list_dequantised_terms(config: RunConfig, levers: Levers) -> list[Term]:
    """Return the term of the memory in which Unsloth dequantises the weight of a product that is
    not compiled, of the largest one's size. It stays there until it is handed back after an
    evaluation (medexp.models.patches.unsloth_scratch); in training compiled layers never use it."""
    if (
        config.hardware.engine is not Engine.unsloth
        or config.model.quantisation is not Quantisation.nf4
    ):
        return []
    in_training = not (levers.compiled and unfused_memory.is_fused(config))
    phases = (
        [Phase.always]
        if in_training
        else [Phase.evaluation, *([Phase.answering] if config.evaluation.answers else [])]
    )
    scratch = dequantised_bytes(config.model.shape)
    return [
        Term("dequantised weight", scratch, Place.gpu, phase, "largest projection in 16 bits")
        for phase in phases
    ]


def _optimizer_bytes(config: RunConfig) -> int:
    parameters = count_lora_parameters(config)
    return (
        8 * parameters
        if config.training.optimizer is Optimizer.adamw_torch
        else 2 * parameters + 8 * parameters // 256
    )


def _is_paged(config: RunConfig, levers: Levers) -> bool:
    return levers.paged or config.training.optimizer is Optimizer.paged_adamw_8bit


def _list_adapter_terms(config: RunConfig, levers: Levers) -> list[Term]:
    parameters = count_lora_parameters(config)
    state_place = Place.host if _is_paged(config, levers) else Place.gpu
    return [
        Term("LoRA parameters", 4 * parameters, Place.gpu, Phase.always, "float32, exact"),
        Term("LoRA gradients", 4 * parameters, Place.gpu, Phase.training, "float32, exact"),
        Term(
            "optimizer state",
            _optimizer_bytes(config),
            state_place,
            Phase.always,
            "two moments, exact",
        ),
        Term(
            "gradients on the way to other cards",
            4 * parameters if config.hardware.cards > 1 else 0,
            Place.gpu,
            Phase.training,
            "DistributedDataParallel's buckets, exact",
        ),
    ]


def _list_evaluation_terms(config: RunConfig, _: Levers) -> list[Term]:
    shape, evaluation = config.model.shape, config.evaluation
    tokens = evaluation.batch_size * evaluation.max_seq_tokens
    # back in 16 bits for every forward pass
    head = 2 * shape.vocab * shape.hidden if _casts_to_float32(config) else 0
    logits = 10 * EVALUATION_CHUNK_TOKENS * shape.vocab
    forward = 2 * tokens * (EVALUATION_PER_HIDDEN * shape.hidden + EVALUATION_PER_FFN * shape.ffn)
    forward += 2 * tokens * count_beside_llama(shape)
    measuring = head + int(EVALUATION_FACTOR * max(logits, forward)) + EVALUATION_SLACK
    if config.lora.dora:
        measuring = max(
            measuring,
            head
            + int(unfused_memory.FORWARD_FACTOR * unfused_memory.forward_bytes(config, tokens))
            + unfused_memory.FORWARD_SLACK,
        )
    return [
        Term(
            "held-out forward pass",
            measuring,
            Place.gpu,
            Phase.evaluation,
            "measured, benchmarks/vram",
        ),
        *(_list_answering_terms(config) if evaluation.answers else []),
    ]


def fits_answering_plan(config: RunConfig, questions: int, longest: int) -> bool:
    """Return whether so many questions, the longest of `longest` tokens, take no more memory to
    answer than was planned: `evaluation.batch_size` of them, as long as `evaluation.max_seq_tokens`
    allows."""
    evaluation = config.evaluation
    needed = _answering_bytes(config, questions, longest)
    planned = _answering_bytes(config, evaluation.batch_size, evaluation.max_seq_tokens)
    return sum(needed) <= sum(planned)


def _list_answering_terms(config: RunConfig) -> list[Term]:
    """Prompts as long as `evaluation.max_seq_tokens` allows. Unsloth copies the prompt's cache into
    one that grows by blocks, and makes its rotary table once for every position a Llama or Qwen can
    have.

    Source: unsloth.models.llama; 11 measured points (benchmarks/vram), between 0 and 12 % too high.
    """
    cache, forward = _answering_bytes(
        config, config.evaluation.batch_size, config.evaluation.max_seq_tokens
    )
    rotary = (
        4 * (POSITIONS - POSITIONS_AT_FIRST) * config.model.shape.head_dim
        if _answers_with_unsloth(config)
        else 0
    )
    return [
        Term(
            "key-value cache of answers",
            cache,
            Place.gpu,
            Phase.answering,
            "for full prompts, Unsloth's source",
        ),
        Term(
            "forward pass of answers",
            forward,
            Place.gpu,
            Phase.answering,
            "measured, benchmarks/vram",
        ),
        Term(
            "rotary table of answers",
            rotary,
            Place.gpu,
            Phase.always,
            "for 131,072 positions, exact",
        ),
    ]


def _answering_bytes(config: RunConfig, questions: int, longest: int) -> tuple[int, int]:
    """Return the bytes of keys and values, and the forward pass, of `questions` answered together,
    the longest of `longest` tokens."""
    shape = config.model.shape
    new_tokens = config.evaluation.max_new_tokens
    tokens = questions * longest
    is_unsloth = _answers_with_unsloth(config)
    room = -(-new_tokens // CACHE_BLOCK_TOKENS) * CACHE_BLOCK_TOKENS if is_unsloth else new_tokens
    a_token = 4 * kv_width(shape)
    # Unsloth's own keep the whole text in every layer, Transformers' a window in those that slide.
    cache = a_token * (
        shape.layers * (2 * tokens + questions * room)
        if is_unsloth
        else questions * sum_attended(shape, longest + room)
    )
    forward = 2 * tokens * (3 * (shape.hidden + shape.ffn) + count_beside_llama(shape))
    return (
        cache,
        (unfused_memory.forward_bytes(config, tokens) if config.lora.dora else forward)
        + ANSWERING_SLACK,
    )


def _answers_with_unsloth(config: RunConfig) -> bool:
    """Return whether answers are made by Unsloth's own loop; of families without its kernels it
    leaves them to Transformers."""
    return (
        config.hardware.engine is Engine.unsloth
        and describe_family(config.model.shape).runs_fused_kernels
    )


def _link_bytes(config: RunConfig, levers: Levers) -> int:
    """Return the bytes over the host link in one optimizer step: streamed layers there twice a
    micro-batch, hidden states and the activations of kept layers out and back, a paged optimizer's
    state in and out."""
    tokens = levers.micro_batch * config.training.max_seq_tokens
    hidden = 2 * hidden_state_bytes(config.model.shape, tokens) if is_offloaded(config) else 0
    paged = 2 * _optimizer_bytes(config) if _is_paged(config, levers) else 0
    streamed = streamed_link_bytes(config, levers.streamed_layers)
    return levers.accumulation * (streamed + hidden + 2 * sent_bytes(config, levers)) + paged


def streamed_link_bytes(config: RunConfig, streamed_layers: int) -> int:
    """Return the bytes of streamed layers over the host link in one micro-batch, there for each
    pass; the last one is there already."""
    return max(0, 2 * streamed_layers - 2) * layer_bytes(config)[0]
