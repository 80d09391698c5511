"""The Triton kernels of SwiGLU, imported on a CUDA card alone; `swiglu` says in plain
torch what they compute.
"""

import torch
import triton
import triton.language as tl

NUMBERS = 1024


@triton.jit
def _swiglu_kernel(  # type: ignore[no-untyped-def]
    out, gate, up, columns, width, first, tile: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * tile + tl.arange(0, tile)
    is_there = column < columns
    place = row * columns + column
    wide = tl.load(gate + place, mask=is_there, other=0).to(tl.float32)
    factor = tl.load(up + place, mask=is_there, other=0)
    inside = (wide * tl.sigmoid(wide)).to(factor.dtype) * factor
    tl.store(out + row * width + first + column, inside, mask=is_there)


@triton.jit
def _swiglu_backward_kernel(  # type: ignore[no-untyped-def]
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


def run_swiglu(out: torch.Tensor, first: int, gate: torch.Tensor, up: torch.Tensor) -> None:
    """Do what `swiglu.put_swiglu` says."""
    rows, columns = gate.shape
    with torch.cuda.device(gate.device):
        _swiglu_kernel[(rows, triton.cdiv(columns, NUMBERS))](
            out, gate, up, columns, out.shape[1], first, tile=NUMBERS
        )


def run_swiglu_backward(gradient: torch.Tensor, gate: torch.Tensor, up: torch.Tensor) -> None:
    """Do what `swiglu.swiglu_backward_` says."""
    count = gradient.numel()
    with torch.cuda.device(gradient.device):
        _swiglu_backward_kernel[(triton.cdiv(count, NUMBERS),)](
            gradient, gate, up, count, tile=NUMBERS
        )
