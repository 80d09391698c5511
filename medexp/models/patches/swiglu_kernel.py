"""The Triton kernels of SwiGLU in place, imported on a CUDA card alone; `swiglu` says in plain
torch what they compute.
"""

import torch
import triton
import triton.language as tl

NUMBERS = 1024


@triton.jit
def _swiglu_kernel(gate, up, count, tile: tl.constexpr):  # type: ignore[no-untyped-def]
    place = tl.program_id(0).to(tl.int64) * tile + tl.arange(0, tile)
    is_there = place < count
    wide = tl.load(gate + place, mask=is_there, other=0).to(tl.float32)
    factor = tl.load(up + place, mask=is_there, other=0)
    tl.store(gate + place, (wide * tl.sigmoid(wide)).to(factor.dtype) * factor, mask=is_there)


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


def run_swiglu(gate: torch.Tensor, up: torch.Tensor) -> None:
    """Do what `swiglu.swiglu_` says."""
    count = gate.numel()
    with torch.cuda.device(gate.device):
        _swiglu_kernel[(triton.cdiv(count, NUMBERS),)](gate, up, count, tile=NUMBERS)


def run_swiglu_backward(gradient: torch.Tensor, gate: torch.Tensor, up: torch.Tensor) -> None:
    """Do what `swiglu.swiglu_backward_` says."""
    count = gradient.numel()
    with torch.cuda.device(gradient.device):
        _swiglu_backward_kernel[(triton.cdiv(count, NUMBERS),)](
            gradient, gate, up, count, tile=NUMBERS
        )
