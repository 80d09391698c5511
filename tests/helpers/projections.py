"""Frozen weights with adapters, and what their products are in float32."""

from typing import Any

import torch
from torch import nn

from medexp.models.backend import load_bitsandbytes
from medexp.models.patches.fp8_weights import find_row_scales
from medexp.models.patches.projections import Projection

HIDDEN, FFN, TOKENS = 64, 384, 96


def quantise(weight: torch.Tensor) -> tuple[Any, Any, torch.Tensor]:
    """A weight in NF4, how bitsandbytes quantised it, and what it is then."""
    functional = load_bitsandbytes().functional
    packed, state = functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    return packed, state, functional.dequantize_4bit(packed, state)


def make_projection(inputs: int, outputs: int, quantised: bool, biased: bool = False) -> Projection:
    """A random frozen weight and an adapter on it that is not zero."""
    weight, state = torch.randn(outputs, inputs).bfloat16() * 0.05, None
    if quantised:
        weight, state, _ = quantise(weight)
    a, b = ((torch.randn(shape) * 0.05).requires_grad_() for shape in ((8, inputs), (outputs, 8)))
    bias = torch.randn(outputs).bfloat16() if biased else None
    return Projection(weight, state, find_row_scales(weight, state), a, b, 2.0, bias)


def compute_exact(hidden: torch.Tensor, made: Projection) -> torch.Tensor:
    """The product in float32."""
    weight = made.weight
    if made.state is not None:
        weight = load_bitsandbytes().functional.dequantize_4bit(weight, made.state)
    out = hidden @ weight.float().t() + made.scale * (hidden @ made.a.t()) @ made.b.t()
    return out if made.bias is None else out + made.bias.float()


def find_error(found: Any, expected: Any) -> float:
    found, expected = found.detach().float(), expected.detach().float()
    return float((found - expected).norm() / expected.norm())


def backward(out: torch.Tensor, leaves: list[torch.Tensor]) -> list[torch.Tensor]:
    """The gradients of `leaves` for a fixed random gradient of `out`."""
    generator = torch.Generator().manual_seed(1)
    given = torch.randn(out.shape, generator=generator).to(out.dtype)
    return list(torch.autograd.grad(out, leaves, given))


def make_mlp(quantised: bool) -> list[Projection]:
    sizes = ((HIDDEN, FFN), (HIDDEN, FFN), (FFN, HIDDEN))
    return [make_projection(*size, quantised) for size in sizes]


def compute_exact_mlp(hidden: torch.Tensor, made: list[Projection]) -> torch.Tensor:
    gate, up, down = made
    inside = nn.functional.silu(compute_exact(hidden, gate)) * compute_exact(hidden, up)
    return compute_exact(inside, down)
