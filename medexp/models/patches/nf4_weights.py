"""Parts of a frozen weight that bitsandbytes quantised to NF4, dequantised as it does."""

from typing import Any

import torch

from medexp.models.backend import load_bitsandbytes
from medexp.planning.pieces import Piece


def dequantise(
    weight: Any, state: Any, rows: Piece | None, columns: Piece | None, dtype: Any
) -> Any:
    """Return these `rows` and `columns` (None: all) of a frozen weight [rows, columns] in `dtype`;
    `state` is bitsandbytes' of a weight in NF4, None of one that is not quantised.

    On a card nothing but that part is made; pieces of columns are whole blocks of 64.
    """
    if state is None:
        return take_part(weight, rows, columns).to(dtype)
    if weight.is_cuda:
        return read_on_card(weight, state, None, rows, columns, dtype)
    dense = load_bitsandbytes().functional.dequantize_4bit(weight, state)
    return take_part(dense, rows, columns).to(dtype)


def take_part(numbers: Any, rows: Piece | None, columns: Piece | None) -> Any:
    """Return these `rows` and `columns` (None: all) of `numbers` [rows, columns], not copied."""
    return numbers[
        slice(None) if rows is None else rows.part,
        slice(None) if columns is None else columns.part,
    ]


def dequantise_scales(state: Any) -> Any:
    """Return the scales of a weight's blocks, float32 [rows, blocks]; they may be quantised
    themselves."""
    rows, columns = state.shape
    scales = state.absmax
    if state.nested:
        outer = state.state2
        block = torch.arange(scales.numel(), device=scales.device) // outer.blocksize
        scales = outer.code[scales.int()] * outer.absmax[block] + state.offset
    return scales.view(rows, columns // state.blocksize)


def read_codes(weight: Any, state: Any) -> Any:
    """Return the numbers of an NF4 weight before they are scaled, float32 [rows, blocks, block]."""
    rows, columns = state.shape
    # the high half of a byte is the first number
    shifts = torch.tensor([4, 0], dtype=torch.int32, device=weight.device)
    codes = (weight.view(rows, columns // 2, 1).int() >> shifts) & 15
    return state.code[codes].view(rows, -1, state.blocksize)


def read_on_card(
    weight: Any,
    state: Any,
    scales: Any,
    rows: Piece | None,
    columns: Piece | None,
    dtype: Any,
    transposed: bool = False,
) -> Any:
    """Return a part of an NF4 weight on a CUDA card, every row divided by its number of `scales`
    [all rows] (None: as it is), in `dtype`; [columns, rows] if `transposed`."""
    from medexp.models.patches.nf4_kernel import read_nf4

    outer = state.state2 if state.nested else None
    code2, absmax2, block2 = (
        (outer.code, outer.absmax, outer.blocksize) if outer is not None else (None, None, 1)
    )
    height, width = state.shape
    rows, columns = rows or Piece(0, height), columns or Piece(0, width)
    return read_nf4(
        weight, state.absmax, code2, absmax2, state.offset if outer is not None else None,
        state.code, scales, state.blocksize, block2, width, [*rows], [*columns], dtype, transposed,
    )  # fmt: skip
