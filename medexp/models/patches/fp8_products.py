"""Products with frozen weights in 8-bit floating point (e4m3), as autograd functions: several of
one input, and an MLP with SwiGLU.

Every row of a product's input and every row of a weight has a scale of its own. The gradient of the
input takes the weight with the same scales: they are multiplied into the incoming gradient before
its rows are rounded, so that a weight needs no second set along its columns, which its NF4 blocks
do not give. A forward pass is rounded too, or given the exact product to take; what is computed for
the adapters is never rounded.

An MLP keeps its input and the two halves of its inside for the backward pass, as Unsloth's does.

Source: arXiv 2209.05433 (the formats); `unsloth.kernels.fast_lora` for what is kept.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from medexp.models.patches.fp8_weights import round_rows, round_weight

# (input [tokens, inputs], weight, its state, A, B, the adapter's scale) -> [tokens, outputs]
ExactProduct = Callable[[Any, Any, Any, Any, Any, float], Any]


class Projection(NamedTuple):
    """A frozen weight [outputs, inputs], how it is quantised (None where it is not), the scales of
    its rows, and its adapter: A [r, inputs], B [outputs, r], their scale; the weight's bias."""

    weight: Any
    state: Any
    scales: Any
    a: Any
    b: Any
    scale: float
    bias: Any


def multiply(left: Any, left_scales: Any, right: Any, right_scales: Any, dtype: Any) -> Any:
    """Return `left` [tokens, k] times the transpose of `right` [outputs, k], both in e4m3, in
    `dtype`; the scales are of their rows, [tokens, 1] and [outputs]."""
    return torch._scaled_mm(
        left,
        right.t(),
        scale_a=left_scales,
        scale_b=right_scales.view(1, -1),
        out_dtype=dtype,
        use_fast_accum=True,
    )


@torch.library.custom_op("medexp::add_product_", mutates_args=("out",))
def add_product(out: torch.Tensor, left: torch.Tensor, right: torch.Tensor, scale: float) -> None:
    """Add `scale` times `left` @ `right` to `out`, without gradients. Traced by torch.compile,
    `addmm_` would copy `out` first."""
    out.addmm_(left, right, alpha=scale)


def _project(hidden: Any, made: Projection, exact: ExactProduct | None, rounded: Any = None) -> Any:
    """Return a product's output [tokens, outputs]: `exact`, or the frozen part in e4m3 and the
    adapter's as it is; `rounded` are the rows of `hidden` in e4m3, where they are known."""
    dtype = hidden.dtype
    if exact is not None:
        out = exact(hidden, made.weight, made.state, made.a, made.b, made.scale)
        return out if made.bias is None else out.add_(made.bias.to(dtype))
    numbers, scales = rounded or round_rows(hidden)
    weight = round_weight(made.weight, made.state, made.scales, transposed=False)
    out = multiply(numbers, scales, weight, made.scales, dtype)
    add_product(out, hidden @ made.a.to(dtype).t(), made.b.to(dtype).t(), made.scale)
    return out if made.bias is None else out.add_(made.bias.to(dtype))


def _project_back(gradient: Any, made: Projection) -> tuple[Any, Any]:
    """Return the gradient of a product's input [tokens, inputs], and of what its adapter has
    between its matrices [tokens, r]."""
    dtype = gradient.dtype
    rounded = round_rows(gradient, made.scales)
    weight = round_weight(made.weight, made.state, made.scales, transposed=True)
    out = multiply(*rounded, weight, made.scales.new_ones(len(weight)), dtype)
    narrow = gradient @ made.b.to(dtype)
    add_product(out, narrow, made.a.to(dtype), made.scale)
    return out, narrow


def _adapter_gradients(
    hidden: Any, gradient: Any, narrow: Any, made: Projection
) -> tuple[Any, ...]:
    """Return the gradients of a projection's seven fields; only those of its adapter are there."""
    inside = hidden @ made.a.to(hidden.dtype).t()
    return (
        None,
        None,
        None,
        made.scale * (narrow.t() @ hidden),
        made.scale * (gradient.t() @ inside),
        None,
        None,
    )


def _gate(gate: Any, up: Any) -> Any:
    """Return SwiGLU, rounded where Unsloth's kernel rounds."""
    return torch.nn.functional.silu(gate.float()).to(gate.dtype) * up


@torch.library.custom_op("medexp::gate_back_", mutates_args=("gradient", "gate", "up"))
def gate_back(gradient: torch.Tensor, gate: torch.Tensor, up: torch.Tensor) -> None:
    """Put SwiGLU in the place of its `gradient`, and the gradients of `gate` and `up` in theirs:
    three tensors as wide as the MLP where six would be the peak of a layer."""
    if gradient.is_cuda:
        from medexp.models.patches.fp8_kernel import gate_back_on_card

        gate_back_on_card(gradient, gate, up)
        return
    wide = gate.float()
    sigmoid = torch.sigmoid(wide)
    gated = (sigmoid * wide).to(gate.dtype)
    inside, of_up = gated * up, gradient * gated
    of_gate = (gradient * up).float() * sigmoid * (1 + wide * (1 - sigmoid))
    gradient.copy_(inside)
    gate.copy_(of_gate)
    up.copy_(of_up)


def _split(flat: tuple[Any, ...]) -> list[Projection]:
    size = len(Projection._fields)
    return [Projection(*flat[start : start + size]) for start in range(0, len(flat), size)]


class Products(torch.autograd.Function):  # type: ignore[misc]
    """Several products of one input [..., inputs], which is rounded once for all of them."""

    @staticmethod
    def forward(ctx: Any, hidden: Any, exact: ExactProduct | None, *flat: Any) -> Any:
        """Return the output of each [..., outputs], `exact` or rounded; `flat` are the fields of
        their `Projection`s, one after the other."""
        wide = hidden.reshape(-1, hidden.shape[-1])
        ctx.projections = flat
        ctx.save_for_backward(hidden)
        rounded = None if exact is not None else round_rows(wide)
        outs = [_project(wide, made, exact, rounded) for made in _split(flat)]
        return tuple(out.view(*hidden.shape[:-1], out.shape[-1]) for out in outs)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Return the gradients of the input and of every adapter."""
        (hidden,) = ctx.saved_tensors
        wide = hidden.reshape(-1, hidden.shape[-1])
        of_input: list[Any] = []
        of_adapters: list[Any] = []
        for made, gradient in zip(_split(ctx.projections), gradients, strict=True):
            flat = gradient.reshape(-1, gradient.shape[-1])
            back, narrow = _project_back(flat, made)
            of_input.append(back)
            of_adapters += _adapter_gradients(wide, flat, narrow, made)
        return (sum(of_input[1:], of_input[0]).view(hidden.shape), None, *of_adapters)


class Mlp(torch.autograd.Function):  # type: ignore[misc]
    """A gated MLP with SwiGLU."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Any, exact: ExactProduct | None, is_read: bool, *flat: Any
    ) -> Any:
        """Return the output, `exact` or rounded, and NaN unless it `is_read`; `flat` are the
        fields of the `Projection`s of gate, up and down."""
        gate_made, up_made, down_made = _split(flat)
        wide = hidden.reshape(-1, hidden.shape[-1])
        rounded = None if exact is not None else round_rows(wide)
        gate, up = (_project(wide, made, exact, rounded) for made in (gate_made, up_made))
        ctx.projections = flat
        ctx.save_for_backward(hidden, gate, up)
        if not is_read:
            return torch.full_like(hidden, math.nan)
        return _project(_gate(gate, up), down_made, exact).view(hidden.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        """Return the gradients of the input and of every adapter."""
        hidden, gate, up = ctx.saved_tensors
        gate_made, up_made, down_made = _split(ctx.projections)
        wide = hidden.reshape(-1, hidden.shape[-1])
        flat = gradient.reshape(-1, gradient.shape[-1])
        inside, narrow = _project_back(flat, down_made)
        # From here on `inside` is SwiGLU, and `gate` and `up` are gradients.
        gate_back(inside, gate, up)
        of_down = _adapter_gradients(inside, flat, narrow, down_made)
        back_up, narrow_up = _project_back(up, up_made)
        back_gate, narrow_gate = _project_back(gate, gate_made)
        return (
            (back_up + back_gate).view(hidden.shape),
            None,
            None,
            *_adapter_gradients(wide, gate, narrow_gate, gate_made),
            *_adapter_gradients(wide, up, narrow_up, up_made),
            *of_down,
        )
