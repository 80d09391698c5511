"""A stand-in for unsloth.kernels.fast_lora that needs no card, with its names, its inputs and what
it keeps between its passes; the real one is compared with on a card
(benchmarks/train/check_patches.py)."""

from collections.abc import Callable
from types import MethodType, SimpleNamespace
from typing import Any

import peft
import torch
from torch import nn

from medexp.config.changes import change_values
from medexp.config.schema import Device, Dtype, RunConfig

NAMES = ("gate_proj", "up_proj", "down_proj")


def matmul_lora(X: Any, weight: Any, state: Any, a: Any, b: Any, scale: float) -> Any:
    return X @ weight.t() + scale * (X @ a.t()) @ b.t()


def activation(gate: Any, up: Any) -> Any:
    return nn.functional.silu(gate) * up


def activation_backward(gradient: Any, gate: Any, up: Any) -> tuple[Any, Any, Any]:
    """What goes out of `activation`, and the gradients of `up` and of `gate`, in new memory."""
    with torch.enable_grad():
        leaves = [each.detach().requires_grad_() for each in (gate, up)]
        inside = activation(*leaves)
    of_gate, of_up = torch.autograd.grad(inside, leaves, gradient)
    return inside.detach(), of_up, of_gate


def lora_gradients(hidden: Any, gradient: Any, a: Any, b: Any, scale: float) -> tuple[Any, Any]:
    hidden, gradient = (each.reshape(-1, each.shape[-1]) for each in (hidden, gradient))
    return scale * (gradient @ b).t() @ hidden, scale * gradient.t() @ (hidden @ a.t())


class LoRAMLP(torch.autograd.Function):
    """What Unsloth's function of this place computes."""

    @staticmethod
    def forward(
        ctx, X, gateW, gateW_quant, gateA, gateB, gateS, upW, upW_quant, upA, upB, upS, downW,
        downW_quant, downA, downB, downS, _forward_function, _backward_function, inplace=True,
        dropout_p=None, gateBias=None, upBias=None, downBias=None,
    ):  # fmt: skip
        gate, up = (
            matmul_lora(X, gateW, None, gateA, gateB, gateS),
            matmul_lora(X, upW, None, upA, upB, upS),
        )
        ctx.custom_saved_tensors = (
            gateW,
            None,
            gateS,
            upW,
            None,
            upS,
            downW,
            None,
            downS,
            _backward_function,
        )
        ctx.save_for_backward(gateA, gateB, upA, upB, downA, downB, X, gate, up, None, None, None)
        return matmul_lora(_forward_function(gate, up), downW, None, downA, downB, downS)

    @staticmethod
    def backward(ctx, d_out):
        gate_w, _, gate_s, up_w, _, up_s, down_w, _, down_s, swiglu_backward = (
            ctx.custom_saved_tensors
        )
        gate_a, gate_b, up_a, up_b, down_a, down_b, hidden, gate, up, *_ = ctx.saved_tensors
        d_inside = matmul_lora(d_out, down_w.t(), None, down_b.t(), down_a.t(), down_s)
        inside, d_up, d_gate = swiglu_backward(d_inside, gate, up)
        d_hidden = matmul_lora(d_up, up_w.t(), None, up_b.t(), up_a.t(), up_s)
        d_hidden += matmul_lora(d_gate, gate_w.t(), None, gate_b.t(), gate_a.t(), gate_s)
        d_da, d_db = lora_gradients(inside, d_out, down_a, down_b, down_s)
        d_ua, d_ub = lora_gradients(hidden, d_up, up_a, up_b, up_s)
        d_ga, d_gb = lora_gradients(hidden, d_gate, gate_a, gate_b, gate_s)
        none = [None] * 7
        return (
            d_hidden,
            None,
            None,
            d_ga,
            d_gb,
            None,
            None,
            None,
            d_ua,
            d_ub,
            None,
            None,
            None,
            d_da,
            d_db,
            None,
            *none,
        )


def get_lora_parameters(projection: Any) -> tuple[Any, ...]:
    (name,) = projection.active_adapters
    a, b = projection.lora_A[name].weight, projection.lora_B[name].weight
    return projection.base_layer.weight, None, a, b, projection.scaling[name]


def apply_lora_qkv(attention: Any, X: Any) -> Any:
    return tuple(getattr(attention, name)(X) for name in ("q_proj", "k_proj", "v_proj"))


def apply_lora_o(attention: Any, X: Any) -> Any:
    return attention.o_proj(X)


def make_kernels() -> SimpleNamespace:
    """The names of unsloth.kernels.fast_lora that are used."""

    def apply_lora_mlp_swiglu(self: Any, X: Any, inplace: bool = True) -> Any:
        projections = [
            value for name in NAMES for value in get_lora_parameters(getattr(self, name))
        ]
        return LoRAMLP.apply(
            X, *projections, activation, activation_backward, inplace, None, None, None, None
        )

    return SimpleNamespace(
        apply_lora_mlp_swiglu=apply_lora_mlp_swiglu,
        get_lora_parameters_bias=lambda projection: (*get_lora_parameters(projection), None),
        apply_lora_qkv=apply_lora_qkv,
        apply_lora_o=apply_lora_o,
        matmul_lora=matmul_lora,
    )


def half_as_large(kernels: SimpleNamespace) -> SimpleNamespace:
    """`kernels` that give an adapter's scale in another unit, under the same name."""
    plain = kernels.get_lora_parameters_bias

    def get_lora_parameters_bias(projection: Any) -> Any:
        weight, state, a, b, scale, bias = plain(projection)
        return weight, state, a, b, scale / 2, bias

    kernels.get_lora_parameters_bias = get_lora_parameters_bias
    return kernels


class Layer(nn.Module):
    """A decoder layer without attention, which notes what it computed."""

    def __init__(self, hidden: int, ffn: int) -> None:
        super().__init__()
        self.self_attn, self.mlp, self.outputs = nn.Identity(), nn.Module(), []
        self.mlp.act_fn = nn.SiLU()
        for name, (inputs, outputs) in zip(
            NAMES, ((hidden, ffn), (hidden, ffn), (ffn, hidden)), strict=True
        ):
            setattr(self.mlp, name, nn.Linear(inputs, outputs, bias=False))

    def forward(self, hidden: Any) -> Any:
        out = hidden + self.mlp(hidden)
        self.outputs.append(out.detach())
        return out


def layers_with(
    kernels: SimpleNamespace, count: int = 2, hidden: int = 8, ffn: int = 24
) -> nn.ModuleList:
    """Layers with an adapter, whose MLPs run in `kernels`, as Unsloth leaves them."""
    layers = nn.ModuleList([Layer(hidden, ffn) for _ in range(count)])
    peft.inject_adapter_in_model(
        peft.LoraConfig(r=2, lora_alpha=1, target_modules=[*NAMES]), layers
    )
    for layer in layers:
        for name in NAMES:
            for side in ("lora_A", "lora_B"):
                nn.init.normal_(getattr(getattr(layer.mlp, name), side)["default"].weight)
        layer.mlp.forward = MethodType(kernels.apply_lora_mlp_swiglu, layer.mlp)
    return layers


def plan_two_layers(resolved: Callable[..., RunConfig], dtype: Dtype, *words: str) -> RunConfig:
    """A run of two recomputed layers that was planned for a card; small ones are made on the CPU in
    `dtype`."""
    run = resolved("hardware=rtx4050_6gb", "model.shape.layers=2", *words)
    return change_values(
        run,
        {
            "hardware.checkpoint_skip_layers": 0,
            "hardware.device": Device.cpu,
            "hardware.dtype": dtype,
        },
    )
