"""Every byte a run needs, from the model's declared shape and the run's levers. Arithmetic only; milliseconds.

What is held for the whole run is exact (within 0.5 MiB of what torch allocates, benchmarks/vram). What a training step adds was
fitted on measured peaks; the constants below say on which, and with what error.
"""

from dataclasses import dataclass, replace
from enum import Enum

from medexp.config.schema import Checkpointing, Device, Engine, Family, ModelShape, Optimizer, Quantisation, RunConfig
from medexp.units import MIB

ALLOCATION_UNIT = 512  # torch's caching allocator rounds every tensor up to this
NF4_BLOCK, NESTED_BLOCK = 64, 256  # bitsandbytes: weights a scale, scales a nested scale
PREFETCHED_SLOTS = 3  # Unsloth keeps three layers of a streamed stack on the card: one in use, two on their way
EVALUATION_CHUNK_TOKENS = 256  # as in medexp.evaluation.losses

# Fitted on 34 points of benchmarks/vram/results/2026-11-22_h200.json (all but kept layers, attention_only and the transformers
# engine) as the smallest largest error that is nowhere below -0.6 %: reserved bytes of a training step, N = micro-batch x sequence.
STEP_PER_HIDDEN, STEP_PER_FFN, STEP_PER_WIDTH = 11.65, 6.44, 65_350
KEPT_SLACK = 1.1  # a kept layer saves 5 hidden + 2 ffn a token; small micro-batches of 7 points showed up to a tenth more
# How much of it tensors take (the rest is what the allocator cannot hand back), from the slope between N = 2,048 and 16,384.
LAYER_PER_HIDDEN, LAYER_PER_KV, LAYER_PER_FFN = 9.0, 3.0, 6.4
# transformers + PEFT + TRL: a cautious fit on the eleven points of both files, between -1.3 and +6.3 %, hidden states included.
PLAIN_PER_HIDDEN, PLAIN_PER_WEIGHT, PLAIN_FIXED = 83.6, 13.25, 369 * MIB
# Held-out loss without gradients: 124 KiB a token on the 8B shape, measured.
EVALUATION_PER_WIDTH, EVALUATION_SLACK = 4.0, 230 * MIB
# An adapter that leaves the MLP alone saves fewer of its activations: three points of the 8B shape.
FFN_WITHOUT_ADAPTER = 2.0
WORKSPACE_BYTES = int(32.2 * MIB)  # cuBLAS' workspace (32 MiB on Hopper, 8 MiB elsewhere) and rotary tables, measured after loading


class Place(Enum):
    """Where bytes lie."""

    gpu = "GPU"
    host = "host"


class Phase(Enum):
    """When bytes are held: for the whole run, only in training steps, or only while held-out cases are measured and answered."""

    always = "always"
    training = "training step"
    evaluation = "evaluation"


@dataclass(frozen=True)
class Levers:
    """What can be traded for memory at the same result: micro-batch x accumulation stays the effective batch."""

    micro_batch: int
    accumulation: int
    streamed_layers: int = 0
    embedding_on_host: bool = False
    kept_layers: int = 0


@dataclass(frozen=True)
class Term:
    """One thing that takes memory: how many bytes, where, when, and how that is known."""

    name: str
    num_bytes: int
    place: Place
    phase: Phase
    source: str


@dataclass(frozen=True)
class Budget:
    """All terms of a run with given levers."""

    levers: Levers
    terms: tuple[Term, ...]
    link_bytes: int

    def gpu_bytes(self, phase: Phase) -> int:
        """Bytes on the card that are held in `phase` only."""
        return sum(term.num_bytes for term in self.terms if term.place is Place.gpu and term.phase is phase)

    @property
    def peak_bytes(self) -> int:
        """The most the allocator reserves: what is always there and the larger of a training step and an evaluation."""
        return self.gpu_bytes(Phase.always) + max(self.gpu_bytes(Phase.training), self.gpu_bytes(Phase.evaluation))

    @property
    def host_bytes(self) -> int:
        """Pinned and pageable host memory."""
        return sum(term.num_bytes for term in self.terms if term.place is Place.host)

    def largest(self) -> Term:
        """The term that takes most of the card."""
        return max((term for term in self.terms if term.place is Place.gpu), key=lambda term: term.num_bytes)


def budget(run: RunConfig, levers: Levers) -> Budget:
    """What `run` takes with `levers`; micro-batch and accumulation of `run` itself are not looked at."""
    tokens = levers.micro_batch * run.training.max_seq_tokens
    unsloth = run.hardware.engine is Engine.unsloth
    step = _unsloth_step(run, levers, tokens) if unsloth else _plain_step(run, tokens)
    terms = [*_weights(run, levers), *_adapter(run), *step, *_evaluation(run)]
    if run.hardware.device is Device.cpu:
        terms = [replace(term, place=Place.host) for term in terms]
    return Budget(levers, tuple(term for term in terms if term.num_bytes > 0), _link_bytes(run, levers, tokens))


def linear_sizes(shape: ModelShape) -> dict[str, tuple[int, int]]:
    """(in, out) of every projection of a decoder layer."""
    query, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    return {
        "q_proj": (shape.hidden, query),
        "k_proj": (shape.hidden, kv),
        "v_proj": (shape.hidden, kv),
        "o_proj": (query, shape.hidden),
        "gate_proj": (shape.hidden, shape.ffn),
        "up_proj": (shape.hidden, shape.ffn),
        "down_proj": (shape.ffn, shape.hidden),
    }


def layer_parameters(shape: ModelShape) -> int:
    """Weights of the projections of one decoder layer."""
    return sum(inputs * outputs for inputs, outputs in linear_sizes(shape).values())


def lora_parameters(run: RunConfig) -> int:
    """Trained parameters: r x (in + out) a projection, and a magnitude an output with DoRA."""
    sizes = [size for name, size in linear_sizes(run.model.shape).items() if name in run.lora.target_modules]
    magnitudes = sum(outputs for _, outputs in sizes) if run.lora.dora else 0
    return run.model.shape.layers * (run.lora.r * sum(map(sum, sizes)) + magnitudes)


def layer_bytes(run: RunConfig) -> tuple[int, int]:
    """Bytes of one frozen decoder layer: what a streamed layer leaves on the host, and the scales that stay on the card.

    Source: bitsandbytes' NF4 with double quantisation, a byte for two weights, a byte for 64, four bytes for 16,384.
    """
    shape = run.model.shape
    sizes = [inputs * outputs for inputs, outputs in linear_sizes(shape).values()]
    kv = shape.kv_heads * shape.head_dim
    norms = 2 * _rounded(2 * shape.hidden)
    biases = _rounded(2 * shape.heads * shape.head_dim) + 2 * _rounded(2 * kv) if shape.family is Family.qwen2 else 0
    if run.model.quantisation is Quantisation.none:
        return sum(_rounded(2 * size) for size in sizes) + norms + biases, 0
    weights = sum(_rounded(size // 2) for size in sizes)
    scales = [size // NF4_BLOCK for size in sizes]
    nested = sum(_rounded(4 * scale // NESTED_BLOCK) + 2 * ALLOCATION_UNIT for scale in scales)
    return weights + norms + biases, sum(map(_rounded, scales)) + nested


def _rounded(num_bytes: int) -> int:
    return -(-num_bytes // ALLOCATION_UNIT) * ALLOCATION_UNIT


def _casts_to_float32(run: RunConfig) -> bool:
    """Preparing NF4 weights for training, PEFT casts embedding, head and norms to float32; Unsloth leaves them in 16 bits."""
    return run.hardware.engine is Engine.transformers and run.model.quantisation is Quantisation.nf4


def _hidden_state_bytes(shape: ModelShape, tokens: int) -> int:
    """The input of every decoder layer for `tokens`, in 16 bits: what checkpointing keeps for the backward pass."""
    return shape.layers * 2 * tokens * shape.hidden


def _weights(run: RunConfig, levers: Levers) -> list[Term]:
    shape, streamed = run.model.shape, levers.streamed_layers
    layer, scales = layer_bytes(run)
    width = 4 if _casts_to_float32(run) else 2
    table = width * shape.vocab * shape.hidden
    norms = (width - 2) * 2 * shape.layers * shape.hidden + width * shape.hidden
    exact = "declared shape, exact"
    embedding_place = Place.host if levers.embedding_on_host else Place.gpu
    return [
        Term("layer weights", (shape.layers - streamed) * layer, Place.gpu, Phase.always, exact),
        Term("quantisation scales", shape.layers * scales, Place.gpu, Phase.always, exact),
        Term("streamed-layer slots", min(PREFETCHED_SLOTS, streamed) * layer, Place.gpu, Phase.always, "Unsloth's pool, exact"),
        Term("streamed layers", streamed * layer, Place.host, Phase.always, exact),
        Term("embedding", table, embedding_place, Phase.always, exact),
        Term("lm_head", 0 if shape.tied_embeddings else table, Place.gpu, Phase.always, exact),
        Term("final and float32 norms", norms, Place.gpu, Phase.always, exact),
        Term("workspace and tables", WORKSPACE_BYTES, Place.gpu, Phase.always, "measured after loading"),
    ]


def _adapter(run: RunConfig) -> list[Term]:
    parameters, optimizer = lora_parameters(run), run.training.optimizer
    state = 8 * parameters if optimizer is Optimizer.adamw_torch else 2 * parameters + 8 * parameters // 256
    state_place = Place.host if optimizer is Optimizer.paged_adamw_8bit else Place.gpu
    return [
        Term("LoRA parameters", 4 * parameters, Place.gpu, Phase.always, "float32, exact"),
        Term("LoRA gradients", 4 * parameters, Place.gpu, Phase.training, "float32, exact"),
        Term("optimizer state", state, state_place, Phase.always, "two moments, exact"),
    ]


def _unsloth_step(run: RunConfig, levers: Levers, tokens: int) -> list[Term]:
    shape = run.model.shape
    kv = shape.kv_heads * shape.head_dim
    standard = run.training.gradient_checkpointing is not Checkpointing.unsloth
    hidden_states = _hidden_state_bytes(shape, tokens)
    recompute = int(2 * tokens * (LAYER_PER_HIDDEN * shape.hidden + LAYER_PER_KV * kv + LAYER_PER_FFN * shape.ffn))
    loss = 72 * MIB + 4096 * shape.hidden
    in_mlp = {"gate_proj", "up_proj", "down_proj"} & set(run.lora.target_modules)
    per_ffn = STEP_PER_FFN - (0 if in_mlp else FFN_WITHOUT_ADAPTER)
    fitted = int(2 * tokens * (STEP_PER_HIDDEN * shape.hidden + per_ffn * shape.ffn) + STEP_PER_WIDTH * shape.hidden)
    kept = levers.kept_layers
    kept_bytes = int(2 * tokens * (kept * KEPT_SLACK * (5 * shape.hidden + 2 * shape.ffn) + 2 * shape.ffn)) if kept else 0
    place = Place.gpu if standard else Place.host
    training = Phase.training
    return [
        Term("dequantised weight", 2 * shape.ffn * shape.hidden, Place.gpu, Phase.always, "largest projection in 16 bits"),
        Term("hidden states kept for backward", hidden_states, place, training, "a layer's input each, arXiv:1604.06174"),
        Term("recompute peak of a layer", recompute, Place.gpu, training, "fitted slope, benchmarks/vram"),
        Term("layers kept un-recomputed", kept_bytes, Place.gpu, training, "fitted on seven points, benchmarks/vram"),
        Term("loss chunk", loss, Place.gpu, training, "Unsloth's fused loss, 64 MiB tile"),
        Term("allocator slack", max(0, fitted - recompute - loss), Place.gpu, training, "fitted, benchmarks/vram"),
    ]


def _plain_step(run: RunConfig, tokens: int) -> list[Term]:
    shape, training = run.model.shape, Phase.training
    hidden_states = _hidden_state_bytes(shape, tokens)
    if run.training.gradient_checkpointing is Checkpointing.off:
        activations = int(2 * tokens * LAYER_PER_FFN * (shape.hidden + shape.ffn)) * shape.layers
        return [Term("activations of all layers", activations, Place.gpu, training, "estimate, not measured")]
    activations = max(0, int(2 * tokens * PLAIN_PER_HIDDEN * shape.hidden) - hidden_states)
    fixed = int(2 * PLAIN_PER_WEIGHT * shape.hidden * shape.ffn) + PLAIN_FIXED
    return [
        Term("hidden states kept for backward", hidden_states, Place.gpu, training, "exact, arXiv:1604.06174"),
        Term("activations of a layer", activations, Place.gpu, training, "cautious fit, benchmarks/vram"),
        Term("16-bit copies, loss chunk and slack", fixed, Place.gpu, training, "cautious fit, benchmarks/vram"),
    ]


def _evaluation(run: RunConfig) -> list[Term]:
    shape, evaluation = run.model.shape, run.evaluation
    tokens = evaluation.batch_size * evaluation.max_seq_tokens
    head = 2 * shape.vocab * shape.hidden if _casts_to_float32(run) else 0  # back in 16 bits for every forward pass
    logits = 10 * EVALUATION_CHUNK_TOKENS * shape.vocab
    forward = int(2 * tokens * EVALUATION_PER_WIDTH * (shape.hidden + shape.ffn))
    answered = evaluation.batch_size * (evaluation.max_seq_tokens + evaluation.max_new_tokens) if evaluation.answers else 0
    cache = 4 * shape.layers * shape.kv_heads * shape.head_dim * answered
    return [
        Term(
            "held-out forward pass",
            head + max(logits, forward) + EVALUATION_SLACK,
            Place.gpu,
            Phase.evaluation,
            "measured, benchmarks/vram",
        ),
        Term("key-value cache of answers", cache, Place.gpu, Phase.evaluation, "exact for full prompts"),
    ]


def _link_bytes(run: RunConfig, levers: Levers, tokens: int) -> int:
    """Bytes over the host link in one optimizer step: streamed layers there twice a micro-batch, hidden states out and back."""
    layer, _ = layer_bytes(run)
    streamed = max(0, 2 * levers.streamed_layers - 2) * layer
    offloaded = run.hardware.engine is Engine.unsloth and run.training.gradient_checkpointing is Checkpointing.unsloth
    hidden = 2 * _hidden_state_bytes(run.model.shape, tokens) if offloaded else 0
    return levers.accumulation * (streamed + hidden)
