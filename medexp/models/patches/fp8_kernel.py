"""The Triton kernel that rounds rows to e4m3, imported on a CUDA card alone; `fp8_weights` says in
plain torch what it computes.

torch.compile traces it as it is. It would make what plain torch says anew for every product that
takes it, all of it in one kernel, and hold as many copies.
"""

import torch
import triton
import triton.language as tl

WIDEST_TILE = 4096


@triton.jit
def _round_rows_kernel(  # type: ignore[no-untyped-def]
    values, along_columns, out, scales, columns, stride,
    largest_number: tl.constexpr, least: tl.constexpr,
    tile: tl.constexpr, is_multiplied: tl.constexpr,
):  # fmt: skip
    """A row, read twice: for its largest number, and to be rounded. Numbers that are given are
    constants, because torch.compile would hand them over in 64 bits."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, tile)
    largest = tl.zeros([tile], dtype=tl.float32)
    for start in range(0, columns, tile):
        is_there = start + place < columns
        wide = tl.load(values + row * stride + start + place, mask=is_there, other=0).to(tl.float32)
        if is_multiplied:
            wide = wide * tl.load(along_columns + start + place, mask=is_there, other=0.0)
        largest = tl.maximum(largest, tl.abs(wide))
    scale = tl.maximum(tl.max(largest, 0), least) / largest_number
    tl.store(scales + row, scale)
    for start in range(0, columns, tile):
        is_there = start + place < columns
        wide = tl.load(values + row * stride + start + place, mask=is_there, other=0).to(tl.float32)
        if is_multiplied:
            wide = wide * tl.load(along_columns + start + place, mask=is_there, other=0.0)
        rounded = (wide / scale).to(out.dtype.element_ty)
        tl.store(out + row * columns + start + place, rounded, mask=is_there)


@torch.library.triton_op("medexp::round_rows", mutates_args=())
def round_rows_on_card(
    values: torch.Tensor, along_columns: torch.Tensor | None, largest: float, least: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rows of `values` [rows, columns], every column multiplied by its number of
    `along_columns` (None: as it is), in e4m3, whose largest number is `largest`; and their scales,
    float32 [rows, 1], no less than `least` / `largest`."""
    values = values if values.stride(1) == 1 else values.contiguous()
    rows, columns = values.shape
    out = torch.empty((rows, columns), dtype=torch.float8_e4m3fn, device=values.device)
    scales = torch.empty((rows, 1), dtype=torch.float32, device=values.device)
    torch.library.wrap_triton(_round_rows_kernel)[(rows,)](
        values, scales if along_columns is None else along_columns, out, scales, columns,
        values.stride(0), largest_number=largest, least=least,
        tile=min(WIDEST_TILE, triton.next_power_of_2(columns)),
        is_multiplied=along_columns is not None, num_warps=4,
    )  # fmt: skip
    return out, scales
