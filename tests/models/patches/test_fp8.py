"""Products in FP8: what is rounded is within the format's precision, what is not is exact, and
gradients are those of the exact layers but for it.
"""

import copy
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
from helpers.fused_mlp import (
    apply_lora_o,
    apply_lora_qkv,
    half_as_large,
    layers_with,
    make_kernels,
    plan_two_layers,
)
from helpers.projections import (
    FFN,
    HIDDEN,
    TOKENS,
    backward,
    compute_exact,
    compute_exact_mlp,
    find_error,
    make_mlp,
    make_projection,
    quantise,
)
from torch import nn

from medexp.config.changes import change_values
from medexp.config.schema import Dtype
from medexp.errors import MachineError
from medexp.models import layer_patches
from medexp.models.patches import fp8_products, gradient_check
from medexp.models.patches.fp8_layers import FP8Passes, multiply_in_fp8
from medexp.models.patches.fp8_products import Products
from medexp.models.patches.fp8_weights import LARGEST, find_row_scales, round_rows, round_weight
from medexp.models.patches.fused_mlp import patch_fused_mlps
from medexp.models.patches.gradient_check import (
    LayerRecipe,
    find_difference,
    make_offloading_patch,
)
from medexp.models.patches.mlp_pieces import make_mlp_function
from medexp.models.patches.projections import Projection

STACK: Any = SimpleNamespace(peft=peft)
# Of e4m3: three bits of mantissa.
ROUNDING = 2**-4


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.setattr(gradient_check, "_found", {})
    return make_kernels()


def test_a_weight_in_nf4_is_rounded_as_its_numbers_are():
    torch.manual_seed(0)
    weight = torch.randn(48, 192) * torch.logspace(-3, 1, 48)[:, None]
    packed, state, dense = quantise(weight)
    scales = find_row_scales(packed, state)
    rounded = round_weight(packed, state, scales, transposed=False).float()
    assert rounded.abs().max() <= LARGEST
    again = rounded * scales[:, None]
    assert ((again - dense).abs() <= ROUNDING * dense.abs() + scales[:, None] * 2**-9).all()
    assert torch.equal(round_weight(packed, state, scales, transposed=True).float(), rounded.t())


def test_a_weight_that_is_not_quantised_is_rounded_by_its_own_rows():
    weight = torch.randn(32, 64).bfloat16()
    scales = find_row_scales(weight, None)
    rounded = round_weight(weight, None, scales, transposed=False).float()
    assert torch.equal(rounded.abs().amax(1), torch.full((32,), LARGEST))
    assert torch.allclose(rounded * scales[:, None], weight.float(), rtol=ROUNDING, atol=1e-3)


def test_rows_of_zeros_stay_zeros_and_no_number_stays_no_number():
    values = torch.zeros(3, 32)
    values[1, 4], values[2] = float("nan"), 1e-12
    rounded, scales = round_rows(values, torch.full((32,), 1e-6))
    again = rounded.float() * scales
    assert torch.equal(again[0], values[0])
    assert again[1].isnan().any()
    assert torch.allclose(again[2], values[2] * 1e-6, rtol=1e-3, atol=0)


@pytest.mark.parametrize("quantised", [True, False])
@pytest.mark.parametrize("is_exact", [True, False])
def test_products_of_one_input_and_their_gradients(quantised, is_exact):
    torch.manual_seed(0)
    made = [
        make_projection(HIDDEN, outputs, quantised, biased=outputs == 32) for outputs in (64, 32)
    ]
    hidden = torch.randn(2, TOKENS, HIDDEN).bfloat16().requires_grad_()

    def product(hidden, weight, state, a, b, scale):
        return compute_exact(hidden.float(), Projection(weight, state, None, a, b, scale, None)).to(
            hidden.dtype
        )

    outs = Products.apply(hidden, product if is_exact else None, *made[0], *made[1])
    expected = [compute_exact(hidden.float(), one) for one in made]
    for out, right in zip(outs, expected, strict=True):
        assert out.shape == right.shape
        assert find_error(out, right) < (0.005 if is_exact else 0.04)
    leaves = [hidden, *(leaf for one in made for leaf in (one.a, one.b))]
    found = backward(torch.cat(outs, -1), leaves)
    right = backward(torch.cat(expected, -1).bfloat16(), leaves)
    for one, other in zip(found, right, strict=True):
        assert find_error(one, other) < 0.05
    # Only the gradient of the input goes through a frozen weight.
    assert find_error(found[0], right[0]) > 0.005


@pytest.mark.parametrize("quantised", [True, False])
@pytest.mark.parametrize("is_read", [True, False])
def test_an_mlp_and_its_gradients(quantised, is_read):
    torch.manual_seed(0)
    made = make_mlp(quantised)
    hidden = torch.randn(1, TOKENS, HIDDEN).bfloat16().requires_grad_()
    function = make_mlp_function(fp8_products, fp8_products, 2, is_read=is_read)
    out = function.apply(hidden, *(value for one in made for value in one))
    expected = compute_exact_mlp(hidden.float(), made)
    if is_read:
        assert find_error(out, expected) < 0.09
    else:
        assert out.isnan().all()
    leaves = [hidden, *(leaf for one in made for leaf in (one.a, one.b))]
    for one, other in zip(
        backward(out, leaves), backward(expected.bfloat16(), leaves), strict=True
    ):
        assert find_error(one, other) < 0.12


def test_torch_compile_traces_an_mlp_as_it_is():
    torch.manual_seed(0)
    made = make_mlp(quantised=True)
    hidden = torch.randn(1, TOKENS, HIDDEN).bfloat16().requires_grad_()
    flat = [value for one in made for value in one]
    function = make_mlp_function(fp8_products, fp8_products, 2)

    def run(hidden):
        return function.apply(hidden, *flat)

    leaves = [hidden, *(leaf for one in made for leaf in (one.a, one.b))]
    plain = backward(run(hidden), leaves)
    traced = backward(torch.compile(run, backend="aot_eager", fullgraph=True)(hidden), leaves)
    for one, other in zip(traced, plain, strict=True):
        assert find_error(one, other) < 0.02


class Attention(nn.Module):
    """What Unsloth asks for its products: only the two slots are used."""

    def __init__(self, is_fused: bool = True) -> None:
        super().__init__()
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(self, name, nn.Linear(HIDDEN, HIDDEN, bias=False))
        if is_fused:
            self.apply_qkv, self.apply_o = apply_lora_qkv, apply_lora_o

    def forward(self, hidden: Any) -> Any:
        q, k, v = self.apply_qkv(self, hidden)
        return self.apply_o(self, q * k.sigmoid() + v)


class Layer(nn.Module):
    def __init__(self, attention: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.self_attn, self.mlp = attention, mlp

    def forward(self, hidden: Any) -> Any:
        hidden = hidden + self.self_attn(hidden)
        return hidden + self.mlp(nn.functional.rms_norm(hidden, hidden.shape[-1:]))


def make_layers(kernels: SimpleNamespace, dropout: float = 0.0) -> nn.ModuleList:
    """Two layers with attention, as Unsloth leaves them."""
    torch.manual_seed(0)
    made = layers_with(kernels, hidden=HIDDEN, ffn=FFN)
    attentions = nn.ModuleList([Attention() for _ in made])
    names = ["q_proj", "k_proj", "v_proj", "o_proj"]
    config = peft.LoraConfig(r=2, lora_alpha=1, lora_dropout=dropout, target_modules=names)
    peft.inject_adapter_in_model(config, attentions)
    layers = nn.ModuleList(
        [Layer(attention, layer.mlp) for attention, layer in zip(attentions, made, strict=True)]
    )
    for name, parameter in layers.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.05)
    return layers.to(torch.bfloat16).train()


def run_layers(layers: Any, recompute: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Output and gradients."""
    torch.manual_seed(1)
    hidden = torch.randn(1, TOKENS, HIDDEN).bfloat16().requires_grad_()
    out = hidden
    for layer in layers:
        out = (
            torch.utils.checkpoint.checkpoint(layer, out, use_reentrant=True)
            if recompute
            else layer(out)
        )
    leaves = [value for value in layers.parameters() if value.requires_grad]
    out.float().square().mean().backward()
    found = [hidden.grad, *(leaf.grad for leaf in leaves)]
    layers.zero_grad()
    return out.detach(), found


def compute_in_pieces(layers: Any, kernels: SimpleNamespace, recompute: bool) -> Any:
    """A copy of `layers` whose MLPs are computed in 16 bits, in as many pieces as those in FP8."""
    copied = copy.deepcopy(layers)
    assert patch_fused_mlps(copied, kernels, lambda _: not recompute, pieces=2) == 2 * recompute
    return copied


def passes(recompute: bool, rounds_forward: bool) -> FP8Passes:
    return FP8Passes(lambda _: recompute, rounds_forward, shortens=True, pieces=2)


@pytest.mark.parametrize("recompute", [True, False])
def test_the_forward_pass_is_exact_and_gradients_are_close(kernels, recompute):
    layers = make_layers(kernels)
    exact, right = run_layers(compute_in_pieces(layers, kernels, recompute), recompute)
    assert multiply_in_fp8(layers, kernels, passes(recompute, rounds_forward=False)) == 14
    out, found = run_layers(layers, recompute)
    assert torch.equal(out, exact)
    assert max(map(find_error, found, right)) < 0.1
    assert find_error(found[0], right[0]) > 0.005


@pytest.mark.parametrize("recompute", [True, False])
def test_all_passes_are_rounded_where_that_is_asked_for(kernels, recompute):
    layers = make_layers(kernels)
    exact, right = run_layers(layers, recompute)
    multiply_in_fp8(layers, kernels, passes(recompute, rounds_forward=True))
    out, found = run_layers(layers, recompute)
    assert 0.001 < find_error(out, exact) < 0.05
    assert max(map(find_error, found, right)) < 0.15


def test_activations_of_rounded_layers_may_wait_on_the_host(kernels):
    layers = make_layers(kernels)
    multiply_in_fp8(layers, kernels, passes(recompute=False, rounds_forward=False))
    recipe = LayerRecipe(STACK, torch.device("cpu"), torch.bfloat16, layers[0].mlp)
    assert find_difference(make_offloading_patch(pinned=False), recipe) is None


def test_an_evaluation_is_exact(kernels):
    layers = make_layers(kernels).eval()
    exact, _ = run_layers(compute_in_pieces(layers, kernels, recompute=False), recompute=False)
    multiply_in_fp8(layers, kernels, passes(recompute=True, rounds_forward=True))
    out, _ = run_layers(layers, recompute=False)
    assert torch.equal(out, exact)


def test_what_unsloth_does_not_fuse_and_adapters_with_dropout_are_left_alone(kernels):
    layers = make_layers(kernels, dropout=0.1)
    del layers[1].mlp.forward
    assert multiply_in_fp8(layers, kernels, passes(recompute=True, rounds_forward=False)) == 3
    assert layers[0].self_attn.apply_qkv is apply_lora_qkv


def test_layers_with_sides_that_cannot_be_multiplied_are_left_alone(kernels):
    layers = layers_with(kernels, hidden=HIDDEN, ffn=FFN + 8)
    assert multiply_in_fp8(layers, kernels, passes(recompute=True, rounds_forward=False)) == 0


def planned(resolved: Any, *words: str) -> Any:
    return plan_two_layers(resolved, Dtype.bfloat16, *words)


@pytest.mark.parametrize("value", ["true", "all"])
def test_a_run_says_how_many_products_are_rounded_where_not_all_are(resolved, kernels, value):
    run = planned(resolved, f"hardware.fp8={value}")
    layers = make_layers(kernels)
    assert layer_patches.round_products(run, layers, kernels, STACK) == ()
    layers = make_layers(kernels)
    del layers[1].self_attn.apply_qkv
    (note,) = layer_patches.round_products(run, layers, kernels, STACK)
    assert note.startswith("11 of 14 products of the layers are computed in FP8")


def test_a_card_that_cannot_is_refused_and_left_exact_where_the_plan_chose(
    resolved, kernels, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 6))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA GeForce RTX 3060")
    run, layers = planned(resolved, "hardware.fp8=true"), make_layers(kernels)
    before = layers[0].self_attn.apply_qkv
    with pytest.raises(MachineError, match=r"RTX 3060 \(compute capability 8\.6\) multiplies no"):
        layer_patches.round_products(run, layers, kernels, STACK)
    run = change_values(run, {"asked": {"hardware.fp8": "auto"}})
    note, *_ = layer_patches.round_products(run, layers, kernels, STACK)
    assert note.endswith("all products are computed in 16 bits, and steps take longer than planned")
    assert layers[0].self_attn.apply_qkv is before


def test_a_library_that_has_another_inside_is_refused(resolved, kernels):
    run = planned(resolved, "hardware.fp8=true")
    half_as_large(kernels)
    with pytest.raises(MachineError, match=r"gradients of small layers were wrong.*fp8=false"):
        layer_patches.round_products(run, make_layers(kernels), kernels, STACK)
    del kernels.apply_lora_o
    with pytest.raises(MachineError, match=r"has no kernels\.fast_lora\.apply_lora_o"):
        layer_patches.round_products(run, make_layers(kernels), kernels, STACK)
