"""Frozen weights in e4m3, the 8-bit floating point with 3 bits of mantissa: rows with a scale each.

    # once, as the model is loaded: a weight does not change
    scales = find_row_scales(weight, state)
    # in every product, straight from the weight's NF4 blocks
    numbers = round_weight(weight, state, scales, transposed=False)

A block of an NF4 weight is at most as large as its own scale says, and a row as its largest block.
"""

from typing import Any

import torch

# The largest number of e4m3. A row of zeros is divided by a scale that is not zero.
LARGEST, LEAST = 448.0, 1e-30


def round_rows(values: Any, along_columns: Any = None) -> tuple[Any, Any]:
    """Return `values` [rows, columns] in e4m3, after multiplying every column by its number of
    `along_columns` [columns]; and the scales of the rows, float32 [rows, 1]."""
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
        else _dequantise_scales(state).abs().amax(dim=1)
    )
    return largest.clamp(min=LEAST) / LARGEST


def round_weight(weight: Any, state: Any, scales: Any, transposed: bool) -> Any:
    """Return a frozen weight, divided by the `scales` of its rows, in e4m3: [rows, columns], or
    [columns, rows] if `transposed`."""
    if state is None:
        numbers = weight.float() / scales[:, None]
    elif weight.is_cuda:
        return _round_on_card(weight, state, scales, transposed)
    else:
        numbers = _dequantise_divided(weight, state, scales)
    rounded = numbers.to(torch.float8_e4m3fn)
    return rounded.t().contiguous() if transposed else rounded


def _dequantise_divided(weight: Any, state: Any, scales: Any) -> Any:
    rows, columns = state.shape
    # the high half of a byte is the first number
    shifts = torch.tensor([4, 0], dtype=torch.int32, device=weight.device)
    codes = (weight.view(rows, columns // 2, 1).int() >> shifts) & 15
    blocks = (_dequantise_scales(state) / scales[:, None])[..., None]
    return (state.code[codes].view(rows, -1, state.blocksize) * blocks).view(rows, columns)


def _dequantise_scales(state: Any) -> Any:
    """Return the scales of a weight's blocks, float32 [rows, blocks]; they may be quantised
    themselves."""
    rows, columns = state.shape
    scales = state.absmax
    if state.nested:
        outer = state.state2
        block = torch.arange(scales.numel(), device=scales.device) // outer.blocksize
        scales = outer.code[scales.int()] * outer.absmax[block] + state.offset
    return scales.view(rows, columns // state.blocksize)


def _round_on_card(weight: Any, state: Any, scales: Any, transposed: bool) -> Any:
    from medexp.models.patches.fp8_kernel import round_nf4

    outer = state.state2 if state.nested else None
    code2, absmax2, block2 = (
        (outer.code, outer.absmax, outer.blocksize) if outer is not None else (None, None, 1)
    )
    rows, columns = state.shape
    return round_nf4(
        weight, state.absmax, code2, absmax2, state.offset if outer is not None else None,
        state.code, scales, state.blocksize, block2, rows, columns, transposed,
    )  # fmt: skip
