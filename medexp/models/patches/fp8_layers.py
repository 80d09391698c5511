"""Decoder layers that compute their products with frozen weights in 8-bit floating point (e4m3)
while they are trained, where the card multiplies such numbers twice as fast as bfloat16.

    # from now on; evaluation is as it was
    passes = FP8Passes(is_recomputed, rounds_forward=False, shortens=True, pieces=4)
    count = multiply_in_fp8(network, kernels, passes)

A forward pass in e4m3 goes wrong a little more in every layer, and the gradient of the last pays
for all of them; what is computed again, and gradients, only for their own layer (benchmarks/train
has the figures). So the forward pass stays exact unless it is asked for. Attention, norms, adapters
and the head compute as they did, and so does everything while no step is trained.

MLPs are computed a piece of their width at a time (`mlp_pieces` says why).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import MethodType
from typing import Any

import torch

from medexp.models.patches import exact_products, fp8_products
from medexp.models.patches.fp8_products import ExactProduct, Products
from medexp.models.patches.fp8_weights import find_row_scales
from medexp.models.patches.fused_mlp import (
    PROJECTIONS,
    get_function,
    list_decoder_layers,
    read_projections,
)
from medexp.models.patches.mlp_pieces import make_mlp_function
from medexp.system import private_names
from medexp.system.machine import FIRST_WITH_FP8

# Gradients of four small layers differ from exact ones by less of their norm: 5 to 10 % on a CPU.
TOLERANCE = 0.15
# torch._scaled_mm takes no other widths; a block of an NF4 weight is as wide at least.
UNIT = 16
ATTENTION, OUTPUT, MLP = ("q_proj", "k_proj", "v_proj"), ("o_proj",), PROJECTIONS
_PARTS = (
    private_names.FUSED_MLP,
    private_names.FUSED_ATTENTION,
    private_names.FUSED_OUTPUT,
    private_names.PROJECTION,
    private_names.LORA_PRODUCT,
)


@dataclass(frozen=True)
class FP8Passes:
    """Which passes of a layer are rounded, beside that of its gradients: those that compute it
    again, of layers that are recomputed, and with `rounds_forward` every other. Where it `shortens`
    them, recomputed layers leave out what nobody reads; MLPs are computed in so many `pieces`."""

    is_recomputed: Callable[[Any], bool]
    rounds_forward: bool
    shortens: bool
    pieces: int


def find_reason_against_fp8(kernels: Any) -> str | None:
    """Return why this card or these `kernels` (unsloth.kernels.fast_lora) cannot do it, in words;
    None where they can."""
    if torch.cuda.is_available():
        capability = torch.cuda.get_device_capability()
        if capability < FIRST_WITH_FP8:
            name, have = torch.cuda.get_device_name(), ".".join(map(str, capability))
            return (
                f"{name} (compute capability {have}) multiplies no 8-bit floating point; cards of"
                " the RTX 40 series and later do"
            )
    return next((part.absence() for part in _PARTS if part.of(kernels) is None), None)


def multiply_in_fp8(network: Any, kernels: Any, passes: FP8Passes) -> int:
    """Let the decoder layers of `network` round the products of these `passes`; returns how many
    products are rounded.

    `kernels` is unsloth.kernels.fast_lora. Left alone are products without a plain adapter, those
    whose sides are no multiple of 16, and what Unsloth neither fuses nor asks a layer's attention
    for.
    """
    # Compiled layers share what stands in the place of a function: one of each kind.
    maker = _Maker(kernels, passes)
    make, make_mlp = cache(maker.make), cache(maker.make_mlp)
    count = 0
    for layer in list_decoder_layers(network):
        is_recomputed = passes.is_recomputed(layer)
        for slot, names in (
            (private_names.ATTENTION_SLOT, ATTENTION),
            (private_names.OUTPUT_SLOT, OUTPUT),
        ):
            exact = slot.of(layer.self_attn)
            if exact is not None and _are_plain(layer.self_attn, names):
                keep_row_scales(layer.self_attn, names)
                setattr(layer.self_attn, slot.last, make(names, exact, is_recomputed))
                count += len(names)
        fused = get_function(layer.mlp)
        if fused is kernels.apply_lora_mlp_swiglu and _are_plain(layer.mlp, MLP):
            keep_row_scales(layer.mlp, MLP)
            layer.mlp.forward = MethodType(make_mlp(is_recomputed), layer.mlp)
            count += len(MLP)
    return count


def keep_row_scales(owner: Any, names: tuple[str, ...]) -> None:
    """Find the scales of the rows of these weights of `owner`: a weight does not change. Those of a
    layer that is streamed lie on the card with its adapter."""
    for name in names:
        projection = getattr(owner, name)
        weight = projection.base_layer.weight
        scales = find_row_scales(weight.detach(), getattr(weight, "quant_state", None))
        (adapter,) = projection.lora_A.values()
        projection.fp8_scales = scales.to(adapter.weight.device)


@dataclass(frozen=True)
class _Maker:
    """Makes the functions that stand in the place of Unsloth's."""

    kernels: Any
    passes: FP8Passes

    def make(
        self, names: tuple[str, ...], exact: Callable[..., Any], is_recomputed: bool
    ) -> Callable[..., Any]:
        """Return the forward pass of these projections of a layer in the place of `exact`, which
        goes on computing the passes that are not rounded and have no gradients."""
        kernels, rounds_forward = self.kernels, self.passes.rounds_forward
        product: ExactProduct | None = (
            None if is_recomputed or rounds_forward else kernels.matmul_lora
        )

        def forward(self: Any, hidden: Any, *others: Any, **named: Any) -> Any:
            if not _is_trained(self, hidden) or not (torch.is_grad_enabled() or rounds_forward):
                return exact(self, hidden, *others, **named)
            outs = Products.apply(hidden, product, *read_projections(self, names, kernels))
            return outs if len(names) > 1 else outs[0]

        return forward

    def make_mlp(self, is_recomputed: bool) -> Callable[..., Any]:
        """Return the forward pass of an MLP."""
        kernels, pieces = self.kernels, self.passes.pieces
        rounds_forward = self.passes.rounds_forward
        exact = make_mlp_function(exact_products, exact_products, pieces)
        first = make_mlp_function(
            fp8_products if rounds_forward else exact_products, fp8_products, pieces
        )
        trained = make_mlp_function(
            fp8_products if is_recomputed or rounds_forward else exact_products,
            fp8_products,
            pieces,
            keeps=not is_recomputed,
            is_read=not (is_recomputed and self.passes.shortens),
        )

        def forward(self: Any, hidden: Any, inplace: bool = True) -> Any:
            flat = read_projections(self, MLP, kernels)
            if not _is_trained(self, hidden):
                return exact.apply(hidden, *flat)
            return (trained if torch.is_grad_enabled() else first).apply(hidden, *flat)

        return forward


def _is_trained(owner: Any, hidden: Any) -> bool:
    return owner.training and hidden.dtype is torch.bfloat16


def _are_plain(owner: Any, names: tuple[str, ...]) -> bool:
    """Return whether the projections all have one adapter without dropout, and sides that can be
    multiplied."""
    return all(_is_plain(getattr(owner, name, None)) for name in names)


def _is_plain(projection: Any) -> bool:
    adapters = getattr(projection, "lora_A", None)
    if not adapters or len(adapters) != 1:
        return False
    has_dropout = any(
        not isinstance(dropout, torch.nn.Identity) for dropout in projection.lora_dropout.values()
    )
    magnitudes = getattr(projection, "lora_magnitude_vector", None)
    base = projection.base_layer
    state = getattr(base.weight, "quant_state", None)
    blocks = UNIT if state is None else max(UNIT, state.blocksize)
    is_wide = base.in_features % blocks == 0 and base.out_features % UNIT == 0
    return is_wide and not has_dropout and not magnitudes
