"""A gated MLP with SwiGLU that is computed a piece of its width at a time, forward and backward.

In its backward pass a piece is there at a time of every tensor as wide as the MLP, where Unsloth's
compiled layers hold six whole ones, and of every dequantised weight, which serves the product and
its backward pass. Nothing is computed twice for it. The output is the same product as that of a
whole MLP; the gradient of the input is added up a piece at a time.

    # of a recomputed layer; the first pass is without gradients, and read
    again = make_mlp_function(exact_products, exact_products, pieces, is_read=False)
    out = again.apply(hidden, *gate, *up, *down)  # three Projections

Gradient checkpointing runs a layer again for what its backward pass needs of the inside. The
layer's output is not among it, and so neither is the MLP's, which is not computed then (`is_read`):
its last product is a quarter of what would be computed again. NaN stands in its place: whoever
reads it after all ends the run by its loss, instead of training on a wrong number. torch's own
checkpointing stops early for that reason; Unsloth's runs the layer to its end.

Source: the forward and backward pass of `unsloth.kernels.fast_lora.LoRA_MLP`.
"""

import math
from typing import Any

import torch

from medexp.models.patches.projections import Projection, add_product, place_gradients, split
from medexp.models.patches.swiglu import put_swiglu, swiglu_backward, swiglu_backward_
from medexp.planning.pieces import Piece, count_in_step, cut


def make_mlp_function(
    forward_products: Any,
    backward_products: Any,
    pieces: int,
    *,
    keeps: bool = False,
    is_read: bool = True,
) -> Any:
    """Return the autograd function of an MLP whose products are computed by these modules
    (`exact_products` or `fp8_products`), in so many `pieces` where a step is not long.

    It takes the input [..., inputs] and the fields of the `Projection`s of gate, up and down, and
    returns the output [..., inputs]. It saves its input, and the outputs of gate and up, a tensor
    a piece, if it `keeps` them: they are computed again otherwise, with `backward_products`.
    """

    class Mlp(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, hidden: Any, *flat: Any) -> Any:
            ctx.projections = flat
            if not is_read:
                ctx.save_for_backward(hidden)
                return torch.full_like(hidden, math.nan)
            wide = _flatten(hidden, flat)
            out, kept = _go_forward(forward_products, wide, split(flat), pieces, keeps)
            ctx.save_for_backward(hidden, *kept)
            return out.view(hidden.shape)

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            hidden, *kept = ctx.saved_tensors
            wide = _flatten(hidden, ctx.projections)
            flat = gradient.reshape(-1, gradient.shape[-1]).to(wide.dtype)
            of_input, of_adapters = _go_back(
                backward_products, wide, flat, split(ctx.projections), pieces, kept
            )
            return (of_input.view(hidden.shape), *of_adapters)

    return Mlp


def _go_forward(
    products: Any, wide: Any, made: list[Projection], pieces: int, keeps: bool
) -> tuple[Any, list[Any]]:
    """Return the output [tokens, inputs], and the outputs of gate and up, a piece after the other,
    if it `keeps` them."""
    gate_made, up_made, down_made = made
    read = _Reader(products, wide, gate_made, up_made)
    inside, kept = wide.new_empty(len(wide), _width(gate_made)), []
    for piece in cut(_width(gate_made), count_in_step(pieces, len(wide))):
        gate, up, _, _ = read.open(piece)
        put_swiglu(inside, piece.start, gate, up)
        if keeps:
            kept += [gate, up]
    out = products.multiply(inside, down_made)
    if down_made.a is not None:
        narrow = _narrow(inside, down_made)
        add_product(out, narrow, down_made.b.to(out.dtype).t(), down_made.scale)
    if down_made.bias is not None:
        out.add_(down_made.bias.to(out.dtype))
    return out, kept


def _go_back(
    products: Any, wide: Any, gradient: Any, made: list[Projection], pieces: int, kept: list[Any]
) -> tuple[Any, tuple[Any, ...]]:
    """Return the gradients of the input [tokens, inputs] and of the projections' fields, for the
    `gradient` of the output; `kept` are the outputs of gate and up, if they were."""
    gate_made, up_made, down_made = made
    dtype = wide.dtype
    read = _Reader(products, wide, gate_made, up_made)
    operand = products.prepare_gradient(gradient, down_made)
    # between the matrices of the adapters: [tokens, r]
    of_down = gradient @ down_made.b.to(dtype)
    gate_narrow: Any = None
    up_narrow: Any = None
    down_narrow: Any = None
    out: Any = None
    of_gate_b, of_up_b, of_down_a = [], [], []
    widths = cut(_width(gate_made), count_in_step(pieces, len(wide)))
    for place, piece in enumerate(widths):
        known = kept[2 * place : 2 * place + 2]
        gate, up, gate_opened, up_opened = read.open(piece, known)
        inside = products.go_back_through_columns(operand, down_made, piece, dtype)
        down_a = down_made.a[:, piece.part].to(dtype)
        add_product(inside, of_down, down_a, down_made.scale)
        if kept:
            inside, gate, up = swiglu_backward(inside, gate, up)
        else:
            swiglu_backward_(inside, gate, up)
        # From here on `inside` is SwiGLU, and `gate` and `up` are gradients.
        of_down_a.append(of_down.t() @ inside)
        of_gate_b.append(gate.t() @ read.gate_narrow)
        of_up_b.append(up.t() @ read.up_narrow)
        down_narrow = _sum(down_narrow, inside @ down_a.t())
        gate_narrow = _sum(gate_narrow, gate @ gate_made.b[piece.part].to(dtype))
        up_narrow = _sum(up_narrow, up @ up_made.b[piece.part].to(dtype))
        out = products.go_back_through_rows(out, gate, gate_opened, gate_made, piece)
        out = products.go_back_through_rows(out, up, up_opened, up_made, piece)
    add_product(out, gate_narrow, gate_made.a.to(dtype), gate_made.scale)
    add_product(out, up_narrow, up_made.a.to(dtype), up_made.scale)
    return out, (
        *_scale(gate_made, gate_narrow.t() @ wide, torch.cat(of_gate_b)),
        *_scale(up_made, up_narrow.t() @ wide, torch.cat(of_up_b)),
        *_scale(down_made, torch.cat(of_down_a, 1), gradient.t() @ down_narrow),
    )


class _Reader:
    """Reads the inside of an MLP a piece at a time."""

    def __init__(self, products: Any, wide: Any, gate: Projection, up: Projection):
        self.products, self.wide, self.gate, self.up = products, wide, gate, up
        self.operand = products.prepare(wide)
        self.gate_narrow, self.up_narrow = _narrow(wide, gate), _narrow(wide, up)

    def open(self, piece: Piece, kept: Any = ()) -> tuple[Any, Any, Any, Any]:
        """Return the outputs of gate and up [tokens, piece] and their weights as `products` opened
        them; the outputs are `kept` ones, if there are any."""
        dtype = self.wide.dtype
        gate_opened, up_opened = (
            self.products.open_rows(made, piece, dtype) for made in (self.gate, self.up)
        )
        if kept:
            return *kept, gate_opened, up_opened
        gate = self._multiply(self.gate, self.gate_narrow, gate_opened, piece)
        up = self._multiply(self.up, self.up_narrow, up_opened, piece)
        return gate, up, gate_opened, up_opened

    def _multiply(self, made: Projection, narrow: Any, opened: Any, piece: Piece) -> Any:
        dtype = self.wide.dtype
        out = self.products.multiply_by_rows(self.operand, opened, made, piece, dtype)
        if narrow is not None:
            add_product(out, narrow, made.b[piece.part].to(dtype).t(), made.scale)
        return out if made.bias is None else out.add_(made.bias[piece.part].to(dtype))


def _narrow(wide: Any, made: Projection) -> Any:
    """Return what an adapter has of its input between its matrices [tokens, r]; None without."""
    return None if made.a is None else wide @ made.a.to(wide.dtype).t()


def _sum(before: Any, added: Any) -> Any:
    return added if before is None else before + added


def _scale(made: Projection, of_a: Any, of_b: Any) -> tuple[Any, ...]:
    return place_gradients(made.scale * of_a, made.scale * of_b)


def _width(made: Projection) -> int:
    """Return how many outputs a projection has; a weight in NF4 is packed."""
    weight = made.weight if made.state is None else made.state
    width: int = weight.shape[0]
    return width


def _flatten(hidden: Any, flat: tuple[Any, ...]) -> Any:
    """Return `hidden` as [tokens, inputs] in the precision of its products: 16 bits, where norms
    came out wider under autocast."""
    wide = hidden.reshape(-1, hidden.shape[-1])
    weight, state = flat[:2]
    return wide.to((state or weight).dtype) if wide.dtype is torch.float32 else wide
