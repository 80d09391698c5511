"""A recomputed layer leaves out the product that nobody reads, and its gradients are what they were."""

from collections.abc import Callable
from types import MethodType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from medexp.models import loading as model
from medexp.models.patches.mlp_recompute import INPUTS, leave_out_last_product

SIZES = {"gate_proj": (8, 24), "up_proj": (8, 24), "down_proj": (24, 8)}


def matmul_lora(X: Any, weight: Any, state: Any, a: Any, b: Any, scale: float) -> Any:
    return X @ weight.t() + scale * (X @ a.t()) @ b.t()


class LoRAMLP(torch.autograd.Function):
    """What Unsloth's function of this place computes, with its inputs and with what it keeps; the real one is compared with on a
    card and on a CPU (benchmarks/train)."""

    @staticmethod
    def forward(
        ctx, X, gateW, gateW_quant, gateA, gateB, gateS, upW, upW_quant, upA, upB, upS, downW, downW_quant, downA, downB, downS,
        _forward_function, _backward_function, inplace=True, dropout_p=None, gateBias=None, upBias=None, downBias=None,
    ):  # fmt: skip
        gate, up = matmul_lora(X, gateW, None, gateA, gateB, gateS), matmul_lora(X, upW, None, upA, upB, upS)
        ctx.custom_saved_tensors = (gateW, None, gateS, upW, None, upS, downW, None, downS, _backward_function)
        ctx.save_for_backward(gateA, gateB, upA, upB, downA, downB, X, gate, up, None, None, None)
        return matmul_lora(_forward_function(gate, up), downW, None, downA, downB, downS)

    @staticmethod
    def backward(ctx, d_out):
        gate_w, _, gate_s, up_w, _, up_s, down_w, _, down_s, _ = ctx.custom_saved_tensors
        *tensors, _, _, _ = ctx.saved_tensors
        leaves = [each.detach().requires_grad_() for each in tensors]
        gate_a, gate_b, up_a, up_b, down_a, down_b, hidden, *_ = leaves
        with torch.enable_grad():
            gate, up = matmul_lora(hidden, gate_w, None, gate_a, gate_b, gate_s), matmul_lora(hidden, up_w, None, up_a, up_b, up_s)
            out = matmul_lora(activation(gate, up), down_w, None, down_a, down_b, down_s)
        d_ga, d_gb, d_ua, d_ub, d_da, d_db, d_hidden = torch.autograd.grad(out, leaves[:7], d_out)
        none = [None] * 7
        return d_hidden, None, None, d_ga, d_gb, None, None, None, d_ua, d_ub, None, None, None, d_da, d_db, None, *none


def activation(gate: Any, up: Any) -> Any:
    return nn.functional.silu(gate) * up


def get_lora_parameters(projection: Any) -> tuple[Any, ...]:
    return projection.weight, None, projection.a, projection.b, 0.5


def apply_lora_mlp_swiglu(self: Any, X: Any, inplace: bool = True) -> Any:
    projections = [value for name in SIZES for value in get_lora_parameters(getattr(self, name))]
    return LoRAMLP.apply(X, *projections, activation, None, inplace, None, None, None, None)


@pytest.fixture
def kernels() -> SimpleNamespace:
    """The names of unsloth.kernels.fast_lora that are used."""
    return SimpleNamespace(
        LoRA_MLP=LoRAMLP,
        apply_lora_mlp_swiglu=apply_lora_mlp_swiglu,
        get_lora_parameters=get_lora_parameters,
        matmul_lora=matmul_lora,
        swiglu_fg_kernel=activation,
        swiglu_DWf_DW_dfg_kernel=None,
        torch_amp_custom_fwd=lambda function: function,
    )


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn, self.mlp, self.outputs = nn.Identity(), nn.Module(), []
        for name, (inputs, outputs) in SIZES.items():
            projection = nn.Linear(inputs, outputs, bias=False).requires_grad_(False)
            projection.a, projection.b = nn.Parameter(torch.randn(2, inputs)), nn.Parameter(torch.randn(outputs, 2))
            setattr(self.mlp, name, projection)
        self.mlp.forward = MethodType(apply_lora_mlp_swiglu, self.mlp)

    def forward(self, hidden: Any) -> Any:
        out = hidden + self.mlp(hidden)
        self.outputs.append(out.detach())
        return out


def gradients(kernels: SimpleNamespace, change: Callable[[Any], object]) -> tuple[Any, list[Any], list[Any]]:
    """Output, gradients and layers of two checkpointed layers, `change` made to them before."""
    torch.manual_seed(3)
    layers = nn.ModuleList([Layer(), Layer()])
    change(layers)
    hidden = torch.randn(1, 5, 8, requires_grad=True)
    out = hidden
    for layer in layers:
        out = torch.utils.checkpoint.checkpoint(layer, out, use_reentrant=True)
    out.square().sum().backward()
    trained = [parameter.grad for parameter in layers.parameters() if parameter.requires_grad]
    return out.detach(), [hidden.grad, *trained], list(layers)


def test_gradients_and_the_output_are_the_same_and_what_is_left_out_is_no_number(kernels):
    out, whole, _ = gradients(kernels, lambda layers: None)
    assert len(whole) == 13
    same, shortened, layers = gradients(kernels, lambda layers: leave_out_last_product(layers, kernels, lambda layer: False))
    assert torch.equal(out, same)
    assert all(torch.equal(one, other) for one, other in zip(whole, shortened, strict=True))
    for layer in layers:
        first, recomputed = layer.outputs
        assert first.isfinite().all()
        assert recomputed.isnan().all()


def test_a_kept_layer_computes_all_of_it(kernels):
    layers = nn.ModuleList([Layer(), Layer()])
    assert leave_out_last_product(layers, kernels, lambda layer: layer is layers[1]) == 1
    out = layers[1](torch.randn(1, 5, 8, requires_grad=True))
    assert out.isfinite().all()


def test_what_unsloth_does_not_fuse_is_left_alone(kernels):
    layers = nn.ModuleList([Layer()])
    del layers[0].mlp.forward
    assert leave_out_last_product(layers, kernels, lambda layer: False) == 0


def test_a_function_with_other_inputs_is_left_alone(kernels):
    class Other(LoRAMLP):
        @staticmethod
        def forward(ctx, X, something_new):
            return X

    kernels.LoRA_MLP = Other
    assert leave_out_last_product(nn.ModuleList([Layer()]), kernels, lambda layer: False) == 0
    assert len(INPUTS) == 24


def test_an_mlp_in_tiles_is_planned_whole_and_nothing_is_said(resolved, kernels):
    run = resolved("hardware=rtx4050_6gb", "model.shape.layers=2", "hardware.tile_mlp=true")
    run.hardware.checkpoint_skip_layers = 0
    layers = nn.ModuleList([Layer(), Layer()])
    for layer in layers:
        del layer.mlp.forward
    assert model.shorten(run, layers, kernels) == ()


@pytest.mark.parametrize(
    ("word", "fused", "said"),
    [
        ("hardware.recompute_last_product=false", 2, 0),
        ("hardware.recompute_last_product=false", 1, 1),
        ("hardware.recompute_last_product=true", 0, 0),
    ],
)
def test_what_a_plan_counts_on_and_the_model_does_not_do_is_said(resolved, kernels, word, fused, said):
    run = resolved("hardware=rtx4050_6gb", "model.shape.layers=2", word)
    run.hardware.checkpoint_skip_layers = 0  # as a plan sets it
    layers = nn.ModuleList([Layer(), Layer()])
    for layer in layers[fused:]:
        del layer.mlp.forward
    notes = model.shorten(run, layers, kernels)
    assert [note.partition(",")[0] for note in notes] == ["1 of 2 recomputed layers compute their last product"] * said
