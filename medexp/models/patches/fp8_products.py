"""Products with frozen weights in 8-bit floating point (e4m3): several of one input, as an autograd
function, and with a part of a weight, as `mlp_pieces` asks for them (`exact_products` has the same
functions).

Every row of a product's input and every row of a weight has a scale of its own. The gradient of the
input takes the weight with the same scales: they are multiplied into the incoming gradient before
its rows are rounded, so that a weight needs no second set along its columns, which its NF4 blocks
do not give. A forward pass is rounded too, or given the exact product to take; what is computed for
the adapters is never rounded.

Source: arXiv 2209.05433 (the formats).
"""

from collections.abc import Callable
from typing import Any

import torch

from medexp.models.patches.fp8_weights import round_rows, round_weight
from medexp.models.patches.projections import (
    Projection,
    add,
    add_product,
    place_gradients,
    split,
)
from medexp.planning.pieces import Piece

# (input [tokens, inputs], weight, its state, A, B, the adapter's scale) -> [tokens, outputs]
ExactProduct = Callable[[Any, Any, Any, Any, Any, float], Any]


def _multiply_scaled(rounded: tuple[Any, Any], right: Any, right_scales: Any, dtype: Any) -> Any:
    """Return what was `rounded` [tokens, k] times the transpose of `right` [outputs, k], both in
    e4m3, in `dtype`; the scales of their rows are [tokens, 1] and [outputs]."""
    left, left_scales = rounded
    return torch._scaled_mm(
        left,
        right.t(),
        scale_a=left_scales,
        scale_b=right_scales.view(1, -1),
        out_dtype=dtype,
        use_fast_accum=True,
    )


def _multiply_back(
    rounded: tuple[Any, Any],
    made: Projection,
    dtype: Any,
    rows: Piece | None = None,
    columns: Piece | None = None,
) -> Any:
    """Return what was `rounded`, a gradient with the scales of these rows in it, times these `rows`
    and `columns` (None: all) of a frozen weight, in `dtype`."""
    weight = round_weight(
        made.weight, made.state, made.scales, transposed=True, rows=rows, columns=columns
    )
    return _multiply_scaled(rounded, weight, made.scales.new_ones(len(weight)), dtype)


def prepare(values: Any) -> Any:
    """Return the rows of `values` [tokens, inputs] in e4m3, and their scales."""
    return round_rows(values)


def prepare_gradient(gradient: Any, made: Projection) -> Any:
    """Return the rows of the `gradient` of a product's output in e4m3, and their scales."""
    return round_rows(gradient, made.scales)


def open_rows(made: Projection, piece: Piece, dtype: Any) -> Any:
    """Return nothing: the two functions below take the weight in different order."""
    return None


def multiply_by_rows(operand: Any, opened: Any, made: Projection, piece: Piece, dtype: Any) -> Any:
    """Return these outputs of the frozen product [tokens, piece]."""
    weight = round_weight(made.weight, made.state, made.scales, transposed=False, rows=piece)
    return _multiply_scaled(operand, weight, made.scales[piece.part].contiguous(), dtype)


def go_back_through_rows(
    out: Any, gradient: Any, opened: Any, made: Projection, piece: Piece
) -> Any:
    """Return the gradient of the input [tokens, inputs], to which these outputs are added; `out` is
    that of the pieces before, None for the first."""
    rounded = round_rows(gradient, made.scales[piece.part])
    return _add(out, _multiply_back(rounded, made, gradient.dtype, rows=piece))


def _add(out: Any, other: Any) -> Any:
    """Return `out` with `other` added to it; `other` if it is None."""
    if out is None:
        return other
    add(out, other)
    return out


def multiply(values: Any, made: Projection) -> Any:
    """Return the frozen product of `values` [tokens, inputs], whole."""
    weight = round_weight(made.weight, made.state, made.scales, transposed=False)
    return _multiply_scaled(round_rows(values), weight, made.scales, values.dtype)


def go_back_through_columns(operand: Any, made: Projection, piece: Piece, dtype: Any) -> Any:
    """Return the gradient of these inputs [tokens, piece]."""
    return _multiply_back(operand, made, dtype, columns=piece)


def _project(hidden: Any, made: Projection, exact: ExactProduct | None, rounded: Any) -> Any:
    """Return a product's output [tokens, outputs]: `exact`, or the frozen part in e4m3 and the
    adapter's as it is; `rounded` are the rows of `hidden` in e4m3."""
    dtype = hidden.dtype
    if exact is not None:
        out = exact(hidden, made.weight, made.state, made.a, made.b, made.scale)
        return out if made.bias is None else out.add_(made.bias.to(dtype))
    weight = round_weight(made.weight, made.state, made.scales, transposed=False)
    out = _multiply_scaled(rounded, weight, made.scales, dtype)
    add_product(out, hidden @ made.a.to(dtype).t(), made.b.to(dtype).t(), made.scale)
    return out if made.bias is None else out.add_(made.bias.to(dtype))


def _project_back(gradient: Any, made: Projection) -> tuple[Any, Any]:
    """Return the gradient of a product's input [tokens, inputs], and of what its adapter has
    between its matrices [tokens, r]."""
    dtype = gradient.dtype
    out = _multiply_back(prepare_gradient(gradient, made), made, dtype)
    narrow = gradient @ made.b.to(dtype)
    add_product(out, narrow, made.a.to(dtype), made.scale)
    return out, narrow


def _adapter_gradients(
    hidden: Any, gradient: Any, narrow: Any, made: Projection
) -> tuple[Any, ...]:
    """Return the gradients of a projection's seven fields; only those of its adapter are there.
    `narrow` is the gradient between its matrices [tokens, r]."""
    inside = hidden @ made.a.to(hidden.dtype).t()
    return place_gradients(made.scale * (narrow.t() @ hidden), made.scale * (gradient.t() @ inside))


class Products(torch.autograd.Function):  # type: ignore[misc]
    """Several products of one input [..., inputs], which is rounded once for all of them."""

    @staticmethod
    def forward(ctx: Any, hidden: Any, exact: ExactProduct | None, *flat: Any) -> Any:
        """Return the output of each [..., outputs], `exact` or rounded; `flat` are the fields of
        their `Projection`s, one after the other."""
        wide = hidden.reshape(-1, hidden.shape[-1])
        ctx.projections = flat
        ctx.save_for_backward(hidden)
        rounded = None if exact is not None else round_rows(wide)
        outs = [_project(wide, made, exact, rounded) for made in split(flat)]
        return tuple(out.view(*hidden.shape[:-1], out.shape[-1]) for out in outs)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Return the gradients of the input and of every adapter."""
        (hidden,) = ctx.saved_tensors
        wide = hidden.reshape(-1, hidden.shape[-1])
        of_input: Any = None
        of_adapters: list[Any] = []
        for made, gradient in zip(split(ctx.projections), gradients, strict=True):
            flat = gradient.reshape(-1, gradient.shape[-1])
            back, narrow = _project_back(flat, made)
            of_input = _add(of_input, back)
            of_adapters += _adapter_gradients(wide, flat, narrow, made)
        return (of_input.view(hidden.shape), None, *of_adapters)
