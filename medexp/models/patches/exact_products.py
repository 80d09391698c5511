"""Products with a part of a frozen weight in the precision of their input, as `mlp_pieces` asks
for them; `fp8_products` has the same functions in 8 bits.

A part of an NF4 weight is dequantised where it is used, and no more of it.
"""

from typing import Any

from medexp.models.patches.nf4_weights import dequantise
from medexp.models.patches.projections import Projection, add_product
from medexp.planning.pieces import Piece


def prepare(values: Any) -> Any:
    """Return `values` [tokens, inputs] as these products take them: as they are."""
    return values


def prepare_gradient(gradient: Any, made: Projection) -> Any:
    """Return the `gradient` of a product's output as these products take it: as it is."""
    return gradient


def open_rows(made: Projection, piece: Piece, dtype: Any) -> Any:
    """Return the weight of these outputs [piece, inputs], for the two functions below."""
    return dequantise(made.weight, made.state, piece, None, dtype)


def multiply_by_rows(operand: Any, opened: Any, made: Projection, piece: Piece, dtype: Any) -> Any:
    """Return these outputs of the frozen product [tokens, piece]."""
    return operand @ opened.t()


def go_back_through_rows(
    out: Any, gradient: Any, opened: Any, made: Projection, piece: Piece
) -> Any:
    """Return the gradient of the input [tokens, inputs], to which these outputs are added; `out` is
    that of the pieces before, None for the first."""
    if out is None:
        return gradient @ opened
    add_product(out, gradient, opened, 1.0)
    return out


def multiply(values: Any, made: Projection) -> Any:
    """Return the frozen product of `values` [tokens, inputs], whole."""
    return values @ dequantise(made.weight, made.state, None, None, values.dtype).t()


def go_back_through_columns(operand: Any, made: Projection, piece: Piece, dtype: Any) -> Any:
    """Return the gradient of these inputs [tokens, piece]."""
    return operand @ dequantise(made.weight, made.state, None, piece, dtype)
