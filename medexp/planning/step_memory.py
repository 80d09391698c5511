"""What a training step adds to what is always there: activations, recomputation, loss, and what the
allocator cannot hand back.

The formulas were fitted on measured reserved peaks as the smallest largest error that is nowhere
below -0.6 % (benchmarks/vram says on which points, and the error on the others). N = micro-batch x
sequence.
"""

from medexp.config.families.sizes import (
    count_beside_llama,
    is_on_whole_mlp,
    kv_width,
    query_width,
)
from medexp.config.schema import Checkpointing, Device, Engine, RunConfig
from medexp.planning.memory_terms import (
    WIDTHS,
    Levers,
    Phase,
    Place,
    Term,
    count_lora_parameters,
    dequantised_bytes,
    hidden_state_bytes,
)
from medexp.planning.pieces_memory import count_saved_numbers, count_step_bytes
from medexp.planning.step_correction import find_factor, find_measured
from medexp.planning.unfused_memory import (
    EAGER_FACTOR,
    compiled_step_bytes,
    is_fused,
    is_in_mlp,
    product_bytes,
)
from medexp.system.units import MIB

KEPT_LAYERS = "layers kept un-recomputed"
# Compiled layers, the tensors: to 0.6 % of the peak on 62 points of 1,024 tokens and more, 1B to
# 32B shapes (2026-11-26_h100*). The peak is where a layer is computed again, or in its backward
# pass, where a dequantised weight is there too.
FORWARD_PER_HIDDEN, FORWARD_PER_FFN = 12.05, 6.16
BACKWARD_PER_HIDDEN, BACKWARD_PER_FFN = 12.4, 3.0
# ... with an adapter that leaves the MLP alone, and a dequantised weight
ATTENTION_ALONE_PER_FFN = 3.9
# of Unsloth's fused loss, in bytes; there at the peak of every shape
LOSS_LEAVES, LOSS_LEAVES_PER_WIDTH = 35 * MIB, 4096
# ... and what products in FP8 take more than that, by numbers a token as wide as the model or its
# queries: the rows of an input and of a gradient in 8 bits, and a product before it is added.
FP8_PER_WIDTH = 2.0
# What the allocator keeps over them, by hidden numbers a token, dequantised weights, bytes: fitted
# on the sixteen points of 2026-11-26_h100.json that are called s_... and keep no layer; with the
# last product on twelve of ..._whole.json called o_...
SLACK, SLACK_WITH_LAST_PRODUCT = (2.91, 0.453, 26 * MIB), (3.7, 0.946, 0)
# Dequantised weights: steps of 256 and 512 tokens, 7B to 32B shapes.
LEAST_SLACK = 1.1
# What a step takes at least beside the loss: of compiled layers, 1B to 8B shapes at 256 to 1,024
# tokens; of others a 1B at 512.
SMALLEST_COMPILED_STEP, SMALLEST_STEP = 320 * MIB, 293 * MIB
# Layers that are not compiled: 21 points of 2026-11-22_h200_double_buffer.json; backward, a
# dequantised weight is made anew.
EAGER_PER_HIDDEN, EAGER_PER_FFN, EAGER_PER_WEIGHT, EAGER_FIXED = 15.2, 2.58, 1.459, 122 * MIB
# ... with a tiled MLP: six points of it, 2 x 2,048 to 16,384 tokens of the 8B shape.
TILED_PER_HIDDEN, TILED_PER_FFN = 16.96, 1.423
# A kept layer saves 5 hidden + 2 ffn a token by the source; six points, 3 to 20 layers, showed a
# quarter more.
KEPT_EACH = 1.24
# ... or waits on the host, and only one layer's more than without is on the card: four points of
# the 8B shape; five of 1B and 3B.
WAITING_ONCE, WAITING_FIXED = 1.1, 32 * MIB
# ... with an MLP in pieces, of what a layer saves, of those that wait on the host: two points of
# the 8B (2026-12-01_h200_groups.json).
WAITING_IN_PIECES = 1.6
# The size of the pieces that medexp.models.patches.activation_offloading moves.
WAITING_PIECE = 8 * MIB
# Attention pads a case by a block of so many tokens.
PADDED_TOKENS = 128
# How much of it tensors take, from the slope of allocated bytes over N; staging buffers of hidden
# states come on top.
EAGER_SLOPE_HIDDEN, EAGER_SLOPE_FFN = 10.0, 3.0
# transformers + PEFT + TRL peak in the loss, before there are gradients, or in a layer's backward
# pass: fitted on the eleven points of 2026-11-22, -0.4 to +1.6 %; seven more, -0.5 to +4.0 %. The
# head's weights are copied to 16 bits for the loss.
LOSS_PER_HEAD, LOSS_PER_HIDDEN, LOSS_FIXED = 1.506, 32.87, 384 * MIB
PLAIN_PER_HIDDEN, PLAIN_PER_FFN, PLAIN_PER_WEIGHT, PLAIN_FIXED = 57.87, 6.82, 1.913, 16 * MIB
# Of DoRA's product that is there at the peak: three points, +0.3 to +4.8 %.
PLAIN_DORA_SHARE = 0.25
# The same without a card: ten points of the embedded model (benchmarks/vram/on_cpu.py). Logits are
# whole there, in 32 bits, and so is their gradient; what malloc keeps differs from point to point.
CPU_PER_LAYER, CPU_PER_LOGIT, CPU_FIXED = 6.4, 8, 400 * MIB


def list_step_terms(config: RunConfig, levers: Levers) -> list[Term]:
    """Return the terms of a training step of `config` with `levers`, gradients and optimizer left
    out: what the formulas say, times what measured steps say of them."""
    tokens = levers.micro_batch * config.training.max_seq_tokens
    terms = _list_formula_terms(config, levers, tokens)
    on_card = [term for term in terms if term.place is Place.gpu]
    same = find_measured(config, levers, tokens, sum(term.num_bytes for term in on_card))
    if same is not None:
        # What the allocator keeps differs from step to step by a tensor of this size.
        fragments = 2 * tokens * config.model.shape.hidden
        factor = (same.measured_bytes + fragments) / same.planned_bytes
        source = f"measured on {same.date}"
    else:
        factor, source = find_factor(config, levers)
        on_card = [term for term in on_card if term.name != KEPT_LAYERS]
    if factor == 1:
        return terms
    moved = [
        term._replace(num_bytes=int(factor * term.num_bytes), source=source) for term in on_card
    ]
    return moved + [term for term in terms if term not in on_card]


def count_formula_bytes(config: RunConfig, levers: Levers) -> int:
    """Return what the formulas say that a step takes on the card, measured or not."""
    tokens = levers.micro_batch * config.training.max_seq_tokens
    terms = _list_formula_terms(config, levers, tokens)
    return sum(term.num_bytes for term in terms if term.place is Place.gpu)


def _list_formula_terms(config: RunConfig, levers: Levers, tokens: int) -> list[Term]:
    return (
        _list_unsloth_terms(config, levers, tokens)
        if config.hardware.engine is Engine.unsloth
        else _list_plain_terms(config, tokens)
    )


def is_offloaded(config: RunConfig) -> bool:
    """Return whether hidden states wait for the backward pass in host memory."""
    return (
        config.hardware.engine is Engine.unsloth
        and config.training.gradient_checkpointing is Checkpointing.unsloth
    )


def is_shortened(config: RunConfig) -> bool:
    """Return whether recomputed layers leave out the last product of their MLP; an MLP in tiles
    does not.

    Source: medexp.models.patches.fused_mlp."""
    is_plain = (
        is_fused(config)
        and config.lora.dropout == 0
        and is_on_whole_mlp(config.model.shape.family, config.lora.target_modules)
    )
    return is_offloaded(config) and is_plain and not config.hardware.recompute_last_product


def _list_unsloth_terms(config: RunConfig, levers: Levers, tokens: int) -> list[Term]:
    training = Phase.training
    recompute, fitted = (
        _compiled_bytes(config, levers, tokens)
        if levers.compiled
        else _eager_bytes(config, levers, tokens)
    )
    staging = _staging_bytes(config, tokens) if is_offloaded(config) else 0
    loss = _loss_bytes(config)
    slack = max(0, max(fitted, SMALLEST_STEP + loss) - recompute - loss - staging)
    return [
        _make_hidden_state_term(config, tokens),
        Term(
            "staging of hidden states", staging, Place.gpu, training, "Unsloth's two buffers, exact"
        ),
        Term(
            "recompute peak of a layer",
            recompute,
            Place.gpu,
            training,
            "fitted slope, benchmarks/vram",
        ),
        Term(
            KEPT_LAYERS,
            _kept_bytes(config, levers, tokens),
            Place.gpu,
            training,
            "fitted, benchmarks/vram",
        ),
        Term(
            "activations of kept layers",
            waiting_bytes(config, levers),
            Place.host,
            training,
            "what a layer saves, in 8 MiB pieces",
        ),
        Term("loss chunk", loss, Place.gpu, training, "left of Unsloth's fused loss, measured"),
        Term("allocator slack", slack, Place.gpu, training, "fitted, benchmarks/vram"),
    ]


def _make_hidden_state_term(config: RunConfig, tokens: int) -> Term:
    """Return a layer's input each: exact on the card, in blocks of a power of two on the host."""
    layers, whole = config.model.shape.layers, hidden_state_bytes(config.model.shape, tokens)
    if not is_offloaded(config):
        return Term(
            "hidden states kept for backward",
            whole,
            Place.gpu,
            Phase.training,
            "exact, arXiv:1604.06174",
        )
    block = 1 << (whole // layers - 1).bit_length()
    return Term(
        "hidden states kept for backward",
        layers * block,
        Place.host,
        Phase.training,
        "a layer's input each, arXiv:1604.06174",
    )


def _compiled_bytes(config: RunConfig, levers: Levers, tokens: int) -> tuple[int, int]:
    """Return what tensors take beside staging and loss, and what the allocator reserves for all of
    it."""
    if not is_fused(config):
        return compiled_step_bytes(config, tokens)
    layer, slack = (
        count_step_bytes(config, tokens, in_fp8=bool(levers.fp8))
        if is_shortened(config)
        else _whole_layer_bytes(config, levers, tokens)
    )
    return int(layer) - _staging_bytes(config, tokens), int(
        max(layer + slack, SMALLEST_COMPILED_STEP) + _loss_bytes(config)
    )


def _whole_layer_bytes(config: RunConfig, levers: Levers, tokens: int) -> tuple[float, float]:
    """Return what tensors take in a layer that is computed as a whole, and what the allocator keeps
    over them."""
    shape = config.model.shape
    weight, beside = dequantised_bytes(shape), 2 * tokens * count_beside_llama(shape)
    if is_in_mlp(config):
        again = (
            2 * tokens * (FORWARD_PER_HIDDEN * shape.hidden + FORWARD_PER_FFN * shape.ffn) + beside
        )
        backward = (
            2 * tokens * (BACKWARD_PER_HIDDEN * shape.hidden + BACKWARD_PER_FFN * shape.ffn)
            + weight
            + beside
        )
        layer = max(again, backward)
        per_hidden, weights, fixed = SLACK_WITH_LAST_PRODUCT
    else:
        layer = (
            2 * tokens * (FORWARD_PER_HIDDEN * shape.hidden + ATTENTION_ALONE_PER_FFN * shape.ffn)
            + weight
            + beside
        )
        per_hidden, weights, fixed = SLACK
    layer += _rounding_bytes(config, levers, tokens)
    slack = max(
        2 * tokens * per_hidden * shape.hidden + weights * weight + fixed, LEAST_SLACK * weight
    )
    return layer, slack


def _rounding_bytes(config: RunConfig, levers: Levers, tokens: int) -> float:
    """Return what a layer takes more whose products are in FP8."""
    if not levers.fp8:
        return 0.0
    widest = max(config.model.shape.hidden, query_width(config.model.shape))
    return 2 * tokens * FP8_PER_WIDTH * widest


def _staging_bytes(config: RunConfig, tokens: int) -> int:
    """Return the bytes of two buffers of hidden states in 16 bits."""
    return 4 * tokens * config.model.shape.hidden


def _loss_bytes(config: RunConfig) -> int:
    return LOSS_LEAVES + LOSS_LEAVES_PER_WIDTH * config.model.shape.hidden


def _eager_bytes(config: RunConfig, levers: Levers, tokens: int) -> tuple[int, int]:
    shape = config.model.shape
    per_hidden, per_ffn = (
        (TILED_PER_HIDDEN, TILED_PER_FFN) if levers.tiled_mlp else (EAGER_PER_HIDDEN, EAGER_PER_FFN)
    )
    tile = count_largest_tile(shape.hidden, tokens) if levers.tiled_mlp else tokens
    beside = 2 * tokens * count_beside_llama(shape)
    slope = int(
        2 * (EAGER_SLOPE_HIDDEN * tokens * shape.hidden + EAGER_SLOPE_FFN * tile * shape.ffn)
        + beside
    )
    fixed = EAGER_PER_WEIGHT * dequantised_bytes(shape) + EAGER_FIXED + beside
    fitted = int(2 * (per_hidden * tokens * shape.hidden + per_ffn * tile * shape.ffn) + fixed)
    return slope, (
        fitted if is_fused(config) else int(EAGER_FACTOR * fitted) + product_bytes(config, tokens)
    )


def count_largest_tile(hidden: int, tokens: int) -> int:
    """Return the tokens in the largest tile of a tiled MLP: Unsloth cuts `hidden` tokens at a time,
    and the rest is a tile of its own.

    Source: unsloth_zoo.tiled_mlp ("arctic"), where a comment says that the rest is added to the
        last, and the code does not.
    """
    return min(tokens, hidden)


def _kept_bytes(config: RunConfig, levers: Levers, tokens: int) -> int:
    if not levers.kept_layers:
        return 0
    saved = 2 * sum(_count_saved_numbers(config, tokens))
    in_pieces = is_shortened(config)
    if levers.waiting_layers:
        return int(WAITING_IN_PIECES * saved if in_pieces else WAITING_ONCE * saved + WAITING_FIXED)
    if in_pieces:
        return levers.kept_layers * saved
    beside_llama = count_beside_llama(config.model.shape)
    layer_bytes = (
        2 * tokens * (5 * config.model.shape.hidden + 2 * config.model.shape.ffn + beside_llama)
        if is_fused(config)
        else compiled_step_bytes(config, tokens)[0]
    )
    return int(KEPT_EACH * levers.kept_layers * layer_bytes)


def _count_saved_numbers(config: RunConfig, tokens: int) -> list[int]:
    """Return how many 16-bit numbers the tensors hold that autograd saves of a compiled layer: five
    as wide as the model, keys before and after rotation, queries and attention's output and keys
    and values padded by a block, two as wide as the MLP or as each of its pieces.

    Source: what it was seen to save of a Llama layer, byte for byte (benchmarks/train).
    """
    shape = config.model.shape
    if is_shortened(config):
        return count_saved_numbers(shape, tokens)
    limit = config.training.max_seq_tokens
    padded = count_attended_tokens(tokens // limit, limit)
    query, kv = query_width(shape), kv_width(shape)
    return (
        [tokens * shape.hidden] * 5
        + [tokens * kv] * 2
        + [padded * query] * 2
        + [padded * kv] * 2
        + [tokens * shape.ffn] * 2
        + [tokens * beside for beside in (count_beside_llama(shape),) if beside]
    )


def count_attended_tokens(cases: int, longest: int) -> int:
    """Return the tokens of a batch as attention takes them, every case padded to the longest and by
    a block: many short cases are more."""
    return cases * (longest + PADDED_TOKENS)


def sent_bytes(config: RunConfig, levers: Levers) -> int:
    """Return the bytes that the waiting layers save in a micro-batch, which cross the link."""
    if not levers.waiting_layers:
        return 0
    tokens = levers.micro_batch * config.training.max_seq_tokens
    return 2 * levers.waiting_layers * sum(_count_saved_numbers(config, tokens))


def waiting_bytes(config: RunConfig, levers: Levers) -> int:
    """Return the pinned host memory for what the waiting layers save."""
    if not levers.waiting_layers:
        return 0
    tokens = levers.micro_batch * config.training.max_seq_tokens
    pieces = sum(
        -(-2 * numbers // WAITING_PIECE) for numbers in _count_saved_numbers(config, tokens)
    )
    return levers.waiting_layers * pieces * WAITING_PIECE


def _list_plain_terms(config: RunConfig, tokens: int) -> list[Term]:
    if (
        config.hardware.device is Device.cpu
        or config.training.gradient_checkpointing is Checkpointing.off
    ):
        return _list_unchunked_terms(config, tokens)
    shape, training = config.model.shape, Phase.training
    hidden_states, gradients = hidden_state_bytes(shape, tokens), 4 * count_lora_parameters(config)
    loss_fixed = int(2 * LOSS_PER_HEAD * shape.vocab * shape.hidden) + LOSS_FIXED - gradients
    layer_fixed = int(2 * PLAIN_PER_WEIGHT * shape.hidden * shape.ffn) + PLAIN_FIXED
    in_loss = (int(2 * tokens * LOSS_PER_HIDDEN * shape.hidden), max(0, loss_fixed))
    in_layer = (
        int(
            2
            * tokens
            * (
                PLAIN_PER_HIDDEN * shape.hidden
                + PLAIN_PER_FFN * shape.ffn
                + count_beside_llama(shape)
            )
        ),
        layer_fixed,
    )
    activations, fixed = max(in_loss, in_layer, key=sum)
    fixed += int(PLAIN_DORA_SHARE * product_bytes(config, 0))
    return [
        _make_hidden_states_term(hidden_states),
        Term(
            "activations of the loss or a layer",
            activations,
            Place.gpu,
            training,
            "fitted, benchmarks/vram",
        ),
        Term("16-bit copies and slack", fixed, Place.gpu, training, "fitted, benchmarks/vram"),
    ]


def _make_hidden_states_term(num_bytes: int) -> Term:
    source = "exact, arXiv:1604.06174"
    return Term("hidden states kept for backward", num_bytes, Place.gpu, Phase.training, source)


def _list_unchunked_terms(config: RunConfig, tokens: int) -> list[Term]:
    """Return a step on a CPU, or on a card without gradient checkpointing, which was not measured
    and is taken to need as much."""
    shape, training, width = config.model.shape, Phase.training, WIDTHS[config.hardware.dtype]
    is_off = config.training.gradient_checkpointing is Checkpointing.off
    saved = EAGER_FACTOR if config.lora.dora else 1
    per_token = CPU_PER_LAYER * (shape.hidden + shape.ffn) + count_beside_llama(shape)
    a_layer = int(saved * width * tokens * per_token)
    hidden_states = 0 if is_off else width * shape.layers * tokens * shape.hidden
    measured = "fitted on a CPU, benchmarks/vram"
    return [
        _make_hidden_states_term(hidden_states),
        Term(
            "activations of all layers",
            a_layer * shape.layers if is_off else 0,
            Place.gpu,
            training,
            measured,
        ),
        Term("activations of a layer", 0 if is_off else a_layer, Place.gpu, training, measured),
        Term(
            "logits and their gradient",
            CPU_PER_LOGIT * tokens * shape.vocab,
            Place.gpu,
            training,
            measured,
        ),
        Term("what malloc keeps", CPU_FIXED, Place.gpu, training, measured),
    ]
