"""Frozen weights in e4m3, the 8-bit floating point with 3 bits of mantissa: rows with a scale each.

    # once, as the model is loaded: a weight does not change
    scales = find_row_scales(weight, state)
    # in every product, straight from the weight's NF4 blocks
    numbers = round_weight(weight, state, scales, transposed=False)

A block of an NF4 weight is at most as large as its own scale says, and a row as its largest block.
"""

from typing import Any

import torch

from medexp.models.patches.nf4_weights import dequantise_scales, read_codes, read_on_card, take_part
from medexp.planning.pieces import Piece

# The largest number of e4m3. A row of zeros is divided by a scale that is not zero.
LARGEST, LEAST = 448.0, 1e-30


def round_rows(values: Any, along_columns: Any = None) -> tuple[Any, Any]:
    """Return `values` [rows, columns] in e4m3, after multiplying every column by its number of
    `along_columns` [columns]; and the scales of the rows, float32 [rows, 1]."""
    if values.is_cuda:
        from medexp.models.patches.fp8_kernel import round_rows_on_card

        rounded: tuple[Any, Any] = round_rows_on_card(values, along_columns, LARGEST, LEAST)
        return rounded
    wide = values.float()
    if along_columns is not None:
        wide = wide * along_columns
    scales = wide.abs().amax(dim=1, keepdim=True).clamp(min=LEAST) / LARGEST
    return (wide / scales).to(torch.float8_e4m3fn), scales


def find_row_scales(weight: Any, state: Any) -> Any:
    """Return the scale of every row of a frozen weight, float32 [rows]; `state` is bitsandbytes'
    of a weight in NF4, None of one that is not quantised."""
    largest = (
        weight.float().abs().amax(dim=1)
        if state is None
        else dequantise_scales(state).abs().amax(dim=1)
    )
    return largest.clamp(min=LEAST) / LARGEST


def round_weight(
    weight: Any,
    state: Any,
    scales: Any,
    transposed: bool,
    rows: Piece | None = None,
    columns: Piece | None = None,
) -> Any:
    """Return these `rows` and `columns` (None: all) of a frozen weight, divided by the `scales` of
    its rows, in e4m3: [rows, columns], or [columns, rows] if `transposed`."""
    if state is not None and weight.is_cuda:
        return read_on_card(weight, state, scales, rows, columns, torch.float8_e4m3fn, transposed)
    if state is None:
        numbers = weight.float() / scales[:, None]
    else:
        blocks = (dequantise_scales(state) / scales[:, None])[..., None]
        numbers = (read_codes(weight, state) * blocks).view(*state.shape)
    rounded = take_part(numbers, rows, columns).to(torch.float8_e4m3fn)
    return rounded.t().contiguous() if transposed else rounded.contiguous()
