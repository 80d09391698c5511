"""The Triton kernel that reads a part of an NF4 weight, imported on a CUDA card alone;
`nf4_weights` and `fp8_weights` say in plain torch what it computes.

It reads half a byte for every number that it writes, in one launch, as the weight lies or
transposed. torch.compile traces it as it is, so that it lies on the stream of the graph around it.
"""

import torch
import triton
import triton.language as tl
from triton.language.extra import libdevice

ROWS = 128


@triton.jit
def _read_kernel(  # type: ignore[no-untyped-def]
    packed, absmax, code2, absmax2, offset, code, scales, out, width, first_row, first_block,
    rows, columns, tile: tl.constexpr, block: tl.constexpr, block2: tl.constexpr,
    is_nested: tl.constexpr, is_divided: tl.constexpr, is_transposed: tl.constexpr,
):  # fmt: skip
    """A tile of rows by one quantisation block, whose scale is decoded once a row; the scales
    themselves are quantised in blocks of `block2`. `width` numbers are a row of the weight; `rows`
    and `columns` are those of the part."""
    row = tl.program_id(0).to(tl.int64) * tile + tl.arange(0, tile)
    is_there = row < rows
    place = (row + first_row) * (width // block) + tl.program_id(1) + first_block
    scale = tl.load(absmax + place, mask=is_there, other=0)
    if is_nested:
        outer = tl.load(absmax2 + place // block2, mask=is_there, other=0.0)
        # rounded before the sum, as bitsandbytes does
        scale = libdevice.mul_rn(tl.load(code2 + scale.to(tl.int32)), outer) + tl.load(offset)
    if is_divided:
        scale = scale / tl.load(scales + row + first_row, mask=is_there, other=1.0)
    byte = tl.arange(0, block // 2)
    both = tl.load(
        packed + place[:, None] * (block // 2) + byte[None, :], mask=is_there[:, None], other=0
    ).to(tl.int32)
    # the high half of a byte is the first number
    first = tl.load(code + (both >> 4), eviction_policy="evict_last")
    second = tl.load(code + (both & 15), eviction_policy="evict_last")
    numbers = (tl.interleave(first, second) * scale[:, None]).to(out.dtype.element_ty)
    column = tl.program_id(1) * block + tl.arange(0, block)
    if is_transposed:
        there = column[:, None].to(tl.int64) * rows + row[None, :]
        tl.store(out + there, tl.trans(numbers), mask=is_there[None, :])
    else:
        there = row[:, None] * columns + column[None, :]
        tl.store(out + there, numbers, mask=is_there[:, None])


@torch.library.triton_op("medexp::read_nf4", mutates_args=())
def read_nf4(
    packed: torch.Tensor,
    absmax: torch.Tensor,
    code2: torch.Tensor | None,
    absmax2: torch.Tensor | None,
    offset: torch.Tensor | None,
    code: torch.Tensor,
    scales: torch.Tensor | None,
    block: int,
    block2: int,
    width: int,
    rows: list[int],
    columns: list[int],
    dtype: torch.dtype,
    transposed: bool,
) -> torch.Tensor:
    """Return the part of an NF4 weight of these `rows` and `columns` (first, one after the last),
    divided by the `scales` of its rows, in `dtype`; [columns, rows] if `transposed`. `code2`,
    `absmax2` and `offset` are None where the scales of its blocks are not quantised themselves,
    `scales` where nothing is divided."""
    height, breadth = rows[1] - rows[0], columns[1] - columns[0]
    shape = (breadth, height) if transposed else (height, breadth)
    out = torch.empty(shape, dtype=dtype, device=packed.device)
    torch.library.wrap_triton(_read_kernel)[(triton.cdiv(height, ROWS), breadth // block)](
        packed, absmax,
        absmax if code2 is None else code2,
        absmax if absmax2 is None else absmax2,
        absmax if offset is None else offset,
        code,
        absmax if scales is None else scales,
        out, width, rows[0], columns[0] // block, height, breadth,
        tile=ROWS, block=block, block2=block2, is_nested=code2 is not None,
        is_divided=scales is not None, is_transposed=transposed, num_warps=4,
    )  # fmt: skip
    return out
