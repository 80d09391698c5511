"""The Triton kernels of products in FP8, imported on a CUDA card alone; `fp8_weights` and
`fp8_products` say in plain torch what each computes.

`round_nf4` reads half a byte of an NF4 weight for every byte of e4m3 that it writes, in one launch,
as it lies or transposed. torch.compile traces it as it is, so that it lies on the stream of the
graph around it.
"""

import torch
import triton
import triton.language as tl

ROWS = 128
NUMBERS = 1024


@triton.jit
def _round_kernel(  # type: ignore[no-untyped-def]
    packed, absmax, code2, absmax2, offset, code, scales, out, rows, columns,
    tile: tl.constexpr, width: tl.constexpr, width2: tl.constexpr, is_nested: tl.constexpr,
    is_transposed: tl.constexpr,
):  # fmt: skip
    """A tile of rows by one quantisation block of `width` numbers, whose scale is decoded once a
    row; the scales themselves are quantised in blocks of `width2`."""
    row = tl.program_id(0).to(tl.int64) * tile + tl.arange(0, tile)
    is_there = row < rows
    block = row * (columns // width) + tl.program_id(1)
    scale = tl.load(absmax + block, mask=is_there, other=0)
    if is_nested:
        outer = tl.load(absmax2 + block // width2, mask=is_there, other=0.0)
        scale = tl.load(code2 + scale.to(tl.int32)) * outer + tl.load(offset)
    scale = scale / tl.load(scales + row, mask=is_there, other=1.0)
    byte = tl.program_id(1) * (width // 2) + tl.arange(0, width // 2)
    both = tl.load(
        packed + row[:, None] * (columns // 2) + byte[None, :], mask=is_there[:, None], other=0
    ).to(tl.int32)
    # the high half of a byte is the first number
    first = tl.load(code + (both >> 4), eviction_policy="evict_last")
    second = tl.load(code + (both & 15), eviction_policy="evict_last")
    numbers = (tl.interleave(first, second) * scale[:, None]).to(tl.float8e4nv)
    column = tl.program_id(1) * width + tl.arange(0, width)
    if is_transposed:
        place = column[:, None].to(tl.int64) * rows + row[None, :]
        tl.store(out + place, tl.trans(numbers), mask=is_there[None, :])
    else:
        tl.store(out + row[:, None] * columns + column[None, :], numbers, mask=is_there[:, None])


@torch.library.triton_op("medexp::round_nf4", mutates_args=())
def round_nf4(
    packed: torch.Tensor,
    absmax: torch.Tensor,
    code2: torch.Tensor | None,
    absmax2: torch.Tensor | None,
    offset: torch.Tensor | None,
    code: torch.Tensor,
    scales: torch.Tensor,
    block: int,
    block2: int,
    rows: int,
    columns: int,
    transposed: bool,
) -> torch.Tensor:
    """Return an NF4 weight [rows, columns], divided by the `scales` of its rows, in e4m3;
    [columns, rows] if `transposed`. `code2`, `absmax2` and `offset` are None where the scales of
    its blocks are not quantised themselves."""
    shape = (columns, rows) if transposed else (rows, columns)
    out = torch.empty(shape, dtype=torch.float8_e4m3fn, device=packed.device)
    torch.library.wrap_triton(_round_kernel)[(triton.cdiv(rows, ROWS), columns // block)](
        packed, absmax,
        absmax if code2 is None else code2,
        absmax if absmax2 is None else absmax2,
        absmax if offset is None else offset,
        code, scales, out, rows, columns,
        tile=ROWS, width=block, width2=block2, is_nested=code2 is not None,
        is_transposed=transposed, num_warps=4,
    )  # fmt: skip
    return out


@triton.jit
def _gate_back_kernel(  # type: ignore[no-untyped-def]
    gradient, gate, up, count, tile: tl.constexpr
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64) * tile + tl.arange(0, tile)
    is_there = place < count
    wide = tl.load(gate + place, mask=is_there, other=0).to(tl.float32)
    of_product = tl.load(gradient + place, mask=is_there, other=0)
    factor = tl.load(up + place, mask=is_there, other=0)
    sigmoid = tl.sigmoid(wide)
    gated = (sigmoid * wide).to(factor.dtype)
    of_gate = (of_product * factor).to(tl.float32) * sigmoid * (1 + wide * (1 - sigmoid))
    tl.store(gradient + place, gated * factor, mask=is_there)
    tl.store(gate + place, of_gate.to(factor.dtype), mask=is_there)
    tl.store(up + place, of_product * gated, mask=is_there)


def gate_back_on_card(gradient: torch.Tensor, gate: torch.Tensor, up: torch.Tensor) -> None:
    """Do in place what `fp8_products.gate_back` says, of contiguous tensors."""
    count = gradient.numel()
    with torch.cuda.device(gradient.device):
        _gate_back_kernel[(triton.cdiv(count, NUMBERS),)](gradient, gate, up, count, tile=NUMBERS)
