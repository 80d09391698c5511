"""What a training step takes whose MLPs are computed in pieces, and whose attention goes back in
groups of its heads: the tensors of a layer at their largest, by the source, and what the allocator
keeps over them, fitted.

Tensors were counted at the peak of an 8B on a card, by the lines that made them; benchmarks/vram
has the error on other shapes and lengths. N = micro-batch x sequence; numbers have 16 bits.
"""

from typing import NamedTuple

from medexp.config.families.registry import describe_family
from medexp.config.families.sizes import kv_width, query_width
from medexp.config.schema import Dtype, ModelShape, RunConfig
from medexp.planning.pieces import count_groups, count_in_step, count_pieces, cut
from medexp.system.units import MIB

# All that lies there while a layer goes back: two staging buffers, the gradient of its output, its
# normalised input, the sum after its attention, that sum normalised, and the gradient of it.
IN_MLP = 7
# ... and where its attention goes back: without the last two, and with the gradient of the sum.
IN_ATTENTION = 5
# ... and in a forward pass, with the embedded tokens; the output of the MLP comes to it.
IN_FORWARD = 6
# Beside gradients attention's kernels hold so many numbers as wide as the queries: sums in 32 bits,
# and gradients of keys and values for every head of the queries. FlashAttention 2's, which a
# laptop's card runs; cuDNN's are 7.2 (benchmarks/train).
ATTENTION_KERNEL = 9.1
# What the allocator keeps over them: thirty points of 1B to 8B shapes, 512 to 24,576 tokens
# (2026-12-01_h200_groups.json).
SLACK_PER_HIDDEN, SLACK_FIXED = 0.6, 48 * MIB


class StepBytes(NamedTuple):
    """The most that tensors take in a layer, and what the allocator reserves over them."""

    tensors: int
    slack: int


def count_step_bytes(config: RunConfig, tokens: int, in_fp8: bool) -> StepBytes:
    """Return what a layer takes in a step of so many `tokens`, staging buffers included."""
    shape = config.model.shape
    # Cards without bfloat16 have no FlashAttention either, and go back through all heads at once.
    groups = 1 if config.hardware.dtype is Dtype.float16 else count_groups(shape.kv_heads, tokens)
    peaks = (
        _count_mlp_bytes(shape, tokens, in_fp8),
        _count_attention_bytes(shape, tokens, groups),
        _count_forward_bytes(shape, tokens),
    )
    slack = 2 * tokens * SLACK_PER_HIDDEN * shape.hidden + SLACK_FIXED
    return StepBytes(int(max(peaks)), int(slack))


def count_saved_numbers(shape: ModelShape, tokens: int) -> list[int]:
    """Return how many numbers the tensors hold that autograd saves of a layer that is kept: its
    input, normalised input, queries before and after rotation, attention's output, the sum after
    it, that sum normalised; keys before and after rotation, values; gate and up, piece by piece."""
    query, kv = query_width(shape), kv_width(shape)
    pieces = cut(shape.ffn, count_in_step(count_pieces(shape), tokens))
    widths = [piece.stop - piece.start for piece in pieces]
    each = [*[shape.hidden] * 3, *[query] * 3, *[kv] * 3, *widths * 2]
    normalised = _count_beside_norms(shape)
    return [tokens * width for width in (*each, *([normalised] if normalised else []))]


def _count_mlp_bytes(shape: ModelShape, tokens: int, in_fp8: bool) -> float:
    """Return what lies there where an MLP goes back: a piece of gate, of up, and of the gradient of
    what is between them, with their parts of the weights."""
    piece = _count_piece(shape, tokens)
    numbers = IN_MLP * shape.hidden + _count_attention_inputs(shape)
    if not in_fp8:
        weights = 3 * 2 * shape.hidden * piece
        return 2.0 * tokens * (numbers + 3 * piece) + weights
    # Its input and the gradient of its output in 8 bits. Later, one piece is rounded, and its
    # product is there before it is added.
    numbers += shape.hidden
    later = 2.5 * piece + shape.hidden
    return 2.0 * tokens * (numbers + max(3 * piece, later)) + shape.hidden * piece


def _count_attention_bytes(shape: ModelShape, tokens: int, groups: int) -> float:
    """Return what lies there where attention goes back: its inputs and output, their gradients,
    and what its kernels hold for one of so many `groups` of heads."""
    held = ATTENTION_KERNEL / groups * query_width(shape)
    numbers = IN_ATTENTION * shape.hidden + 2 * _count_attention_inputs(shape) + held
    return 2.0 * tokens * (numbers - _count_beside_norms(shape))


def _count_forward_bytes(shape: ModelShape, tokens: int) -> float:
    """Return what lies there in a forward pass: what is between gate, up and down as a whole."""
    piece = _count_piece(shape, tokens)
    numbers = IN_FORWARD * shape.hidden + shape.ffn
    inside = 2.0 * tokens * (numbers + 2 * piece) + 2 * 2 * shape.hidden * piece
    after = 2.0 * tokens * (numbers + shape.hidden) + 2 * shape.hidden * shape.ffn
    return max(inside, after)


def _count_attention_inputs(shape: ModelShape) -> int:
    """Return how many numbers a token what a layer's attention saves has: rotated queries and keys,
    values, its output."""
    return 2 * query_width(shape) + 2 * kv_width(shape) + _count_beside_norms(shape)


def _count_beside_norms(shape: ModelShape) -> int:
    """Return how many more it has where queries and keys are normalised: what goes into the norms,
    and normalised queries."""
    if not describe_family(shape).norms_each_head:
        return 0
    return 2 * query_width(shape) + kv_width(shape)


def _count_piece(shape: ModelShape, tokens: int) -> int:
    """Return how wide a piece of the MLP is."""
    first = cut(shape.ffn, count_in_step(count_pieces(shape), tokens))[0]
    return first.stop - first.start
