"""Unsloth's fused MLPs in the place of which `mlp_pieces` stands: which they are, and what a layer
has of it.
"""

from collections.abc import Callable
from types import MethodType
from typing import Any

from medexp.system import private_names

_PARTS = (private_names.FUSED_MLP, private_names.PROJECTION)
PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


def patch_fused_mlps(
    network: Any, kernels: Any, is_kept: Callable[[Any], bool], pieces: int
) -> int:
    """Let the layers of `network` compute their MLP in so many `pieces`, and those that are
    recomputed leave out what nobody reads; returns how many leave it out.

    `kernels` is unsloth.kernels.fast_lora; layers for which `is_kept` are not recomputed, and keep
    the inside of their MLP. Left alone are MLPs without Unsloth's fused function.
    """
    found = list_fused_layers(network, kernels)
    if not found:
        return 0
    kept_forward = _make_forward(kernels, pieces, is_kept=True)
    forward = _make_forward(kernels, pieces, is_kept=False)
    recomputed = 0
    for layer in found:
        kept = is_kept(layer)
        layer.mlp.forward = MethodType(kept_forward if kept else forward, layer.mlp)
        recomputed += not kept
    return recomputed


def list_fused_layers(network: Any, kernels: Any) -> list[Any]:
    """Return the decoder layers of `network` whose MLP runs in Unsloth's fused function, on weights
    of 16 bits and more or in NF4."""
    if find_unknown_part(kernels):
        return []
    fused = kernels.apply_lora_mlp_swiglu
    return [
        layer
        for layer in list_decoder_layers(network)
        if get_function(layer.mlp) is fused and _has_known_weights(layer.mlp)
    ]


def find_unknown_part(kernels: Any) -> str | None:
    """Return what of `kernels` is not as medexp knows it, in words; None where all is."""
    return next((part.absence() for part in _PARTS if part.of(kernels) is None), None)


def list_decoder_layers(network: Any) -> list[Any]:
    """Return the layers of `network` that have an attention and an MLP, in their order."""
    return [
        module
        for module in network.modules()
        if hasattr(module, "mlp") and hasattr(module, "self_attn")
    ]


def get_function(mlp: Any) -> Any:
    """Return what get_peft_model put in the place of this MLP's forward pass, if anything."""
    return getattr(mlp.__dict__.get("forward"), "__func__", None)


def read_projections(owner: Any, names: tuple[str, ...], kernels: Any) -> list[Any]:
    """Return the fields of the `Projection`s of `owner` by these names, one after the other, as
    autograd functions are given them; of weights with scales for FP8, these too."""
    flat: list[Any] = []
    for name in names:
        projection = getattr(owner, name)
        weight, state, *rest = kernels.get_lora_parameters_bias(projection)
        flat += [weight, state, getattr(projection, "fp8_scales", None), *rest]
    return flat


def _has_known_weights(mlp: Any) -> bool:
    weights = [getattr(mlp, name).base_layer.weight for name in PROJECTIONS]
    states = [getattr(weight, "quant_state", None) for weight in weights]
    return all(
        weight.dtype.itemsize >= 2 if state is None else state.quant_type == "nf4"
        for weight, state in zip(weights, states, strict=True)
    )


def _make_forward(kernels: Any, pieces: int, is_kept: bool) -> Callable[..., Any]:
    """Return the forward pass of an MLP whose layer is kept or recomputed. A recomputed layer's
    first pass is without gradients."""
    import torch

    from medexp.models.patches import exact_products
    from medexp.models.patches.mlp_pieces import make_mlp_function

    exact = (exact_products, exact_products, pieces)
    whole = make_mlp_function(*exact)
    trained = make_mlp_function(*exact, keeps=is_kept, is_read=is_kept)

    def forward(self: Any, hidden: Any, inplace: bool = True) -> Any:
        flat = read_projections(self, PROJECTIONS, kernels)
        return (trained if torch.is_grad_enabled() else whole).apply(hidden, *flat)

    return forward
