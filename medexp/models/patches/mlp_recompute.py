"""What a layer need not compute a second time: the last product of its MLP, whose value nobody
reads.

Gradient checkpointing runs a layer again for what its backward pass needs of the inside. The
layer's output is not among it, and so neither is the product that the output is made of: a quarter
of what is computed again (59 of 218 million weights in a layer of the 8B). torch's own
checkpointing stops early for that reason; Unsloth's runs the layer to its end.

NaN stands in its place: whoever reads it after all ends the run by its loss, instead of training on
a wrong number.

Source: the forward and backward pass of `unsloth.kernels.fast_lora.LoRA_MLP`, whose backward pass
    is used as it is.
"""

import inspect
import math
from collections.abc import Callable
from types import MethodType
from typing import Any

from medexp.system import private_names

_PARTS = (
    *(
        private_names.LORA_MLP,
        private_names.FUSED_MLP,
        private_names.LORA_PARAMETERS,
        private_names.LORA_PRODUCT,
    ),
    *(private_names.SWIGLU, private_names.SWIGLU_BACKWARD, private_names.AMP_FORWARD),
)
INPUTS = (  # of LoRA_MLP.forward, as they were read; another version may have others
    *("ctx", "X"),
    *(
        f"{name}{part}"
        for name in ("gate", "up", "down")
        for part in ("W", "W_quant", "A", "B", "S")
    ),
    *(
        "_forward_function",
        "_backward_function",
        "inplace",
        "dropout_p",
        "gateBias",
        "upBias",
        "downBias",
    ),
)


def leave_out_last_product(network: Any, kernels: Any, is_kept: Callable[[Any], bool]) -> int:
    """Let the layers of `network` that are recomputed leave out what nobody reads; returns how many
    do.

    `kernels` is unsloth.kernels.fast_lora; layers for which `is_kept` are not recomputed, and need
    all of it. Left alone are MLPs without Unsloth's fused function, and all where that function has
    other inputs than those known here.
    """
    found = list_fused_mlps(network, kernels, is_kept)
    if not found:
        return 0
    shortened = _make_short_forward(kernels)
    for mlp in found:
        mlp.forward = MethodType(shortened, mlp)
    return len(found)


def list_fused_mlps(network: Any, kernels: Any, is_kept: Callable[[Any], bool]) -> list[Any]:
    """Return the MLPs of `network` that are recomputed and could leave it out."""
    if find_unknown_part(kernels):
        return []
    fused = kernels.apply_lora_mlp_swiglu
    return [
        layer.mlp
        for layer in list_decoder_layers(network)
        if not is_kept(layer) and _function(layer.mlp) is fused
    ]


def find_unknown_part(kernels: Any) -> str | None:
    """Return what of `kernels` is not as medexp knows it, in words; None where all is."""
    for part in _PARTS:
        if part.of(kernels) is None:
            return part.absence()
    if tuple(inspect.signature(private_names.LORA_MLP.of(kernels).forward).parameters) != INPUTS:
        return (
            f"{private_names.LORA_MLP.name} takes other inputs than it did in unsloth"
            f" {private_names.TESTED['unsloth']}"
        )
    return None


def list_decoder_layers(network: Any) -> list[Any]:
    """Return the layers of `network` that have an attention and an MLP, in their order."""
    return [
        module
        for module in network.modules()
        if hasattr(module, "mlp") and hasattr(module, "self_attn")
    ]


def _function(mlp: Any) -> Any:
    """Return what get_peft_model put in the place of this MLP's forward pass, if anything."""
    return getattr(mlp.__dict__.get("forward"), "__func__", None)


def _make_short_forward(kernels: Any) -> Callable[..., Any]:
    """Return the forward pass of an MLP in a recomputed layer. Its first pass is without gradients,
    and whole."""
    import torch

    whole, unread = kernels.apply_lora_mlp_swiglu, _make_unread_mlp(kernels)
    parameters = kernels.get_lora_parameters
    activation = kernels.swiglu_fg_kernel
    backward = kernels.swiglu_DWf_DW_dfg_kernel

    def forward(self: Any, hidden: Any, inplace: bool = True) -> Any:
        if not torch.is_grad_enabled():
            return whole(self, hidden, inplace)
        projections = (
            *parameters(self.gate_proj),
            *parameters(self.up_proj),
            *parameters(self.down_proj),
        )
        return unread.apply(
            hidden, *projections, activation, backward, inplace, None, None, None, None
        )

    return forward


def _make_unread_mlp(kernels: Any) -> Any:
    """Return LoRA_MLP, with an output that is not computed."""
    import torch

    class Unread(kernels.LoRA_MLP):  # type: ignore[misc]
        @staticmethod
        @kernels.torch_amp_custom_fwd  # type: ignore[untyped-decorator]
        def forward(
            ctx: Any, X: Any, gateW: Any, gateW_quant: Any, gateA: Any, gateB: Any, gateS: Any,
            upW: Any, upW_quant: Any, upA: Any, upB: Any, upS: Any, downW: Any, downW_quant: Any,
            downA: Any, downB: Any, downS: Any, _forward_function: Any, _backward_function: Any,
            inplace: bool, *_: None,
        ) -> Any:  # fmt: skip
            gate = kernels.matmul_lora(X, gateW, gateW_quant, gateA, gateB, gateS)
            up = kernels.matmul_lora(X, upW, upW_quant, upA, upB, upS)
            weights = (gateW, gateW_quant, gateS, upW, upW_quant, upS, downW, downW_quant, downS)
            ctx.custom_saved_tensors = (*weights, _backward_function)
            ctx.save_for_backward(
                gateA, gateB, upA, upB, downA, downB, X, gate, up, None, None, None
            )
            ctx.inplace = inplace
            ctx.dropout_p = (0.0,) * 3
            ctx.biases = (False,) * 3
            ctx.global_buffer = True
            return torch.full_like(X, math.nan)

    return Unread
