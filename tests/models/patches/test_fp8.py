"""Products in FP8: what is rounded is within the format's precision, what is not is exact, and
gradients are those of the exact layers but for it.
"""

from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
from helpers.fused_mlp import (
    LoRAMLP,
    apply_lora_o,
    apply_lora_qkv,
    kernels_with,
    layers_with,
    plan_two_layers,
)
from torch import nn

from medexp.config.changes import change_values
from medexp.config.schema import Dtype
from medexp.errors import MachineError
from medexp.models import loading as model_loading
from medexp.models.backend import load_bitsandbytes
from medexp.models.patches import gradient_check
from medexp.models.patches.fp8_layers import FP8Passes, multiply_in_fp8
from medexp.models.patches.fp8_products import Mlp, Products, Projection, gate_back
from medexp.models.patches.fp8_weights import LARGEST, find_row_scales, round_rows, round_weight

STACK: Any = SimpleNamespace(peft=peft)
# Of e4m3: three bits of mantissa.
ROUNDING = 2**-4
HIDDEN, FFN, TOKENS = 64, 128, 96


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.setattr(gradient_check, "_found", {})
    return kernels_with(LoRAMLP)


def quantise(weight: torch.Tensor) -> tuple[Any, Any, torch.Tensor]:
    """A weight in NF4, how bitsandbytes quantised it, and what it is then."""
    functional = load_bitsandbytes().functional
    packed, state = functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    return packed, state, functional.dequantize_4bit(packed, state)


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


def make_mlp(quantised: bool) -> list[Projection]:
    sizes = ((HIDDEN, FFN), (HIDDEN, FFN), (FFN, HIDDEN))
    return [make_projection(*size, quantised) for size in sizes]


def compute_exact_mlp(hidden: torch.Tensor, made: list[Projection]) -> torch.Tensor:
    gate, up, down = made
    inside = nn.functional.silu(compute_exact(hidden, gate)) * compute_exact(hidden, up)
    return compute_exact(inside, down)


@pytest.mark.parametrize("quantised", [True, False])
@pytest.mark.parametrize("is_read", [True, False])
def test_an_mlp_and_its_gradients(quantised, is_read):
    torch.manual_seed(0)
    made = make_mlp(quantised)
    hidden = torch.randn(1, TOKENS, HIDDEN).bfloat16().requires_grad_()
    out = Mlp.apply(hidden, None, is_read, *(value for one in made for value in one))
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

    def run(hidden):
        return Mlp.apply(hidden, None, True, *flat)

    leaves = [hidden, *(leaf for one in made for leaf in (one.a, one.b))]
    plain = backward(run(hidden), leaves)
    traced = backward(torch.compile(run, backend="aot_eager", fullgraph=True)(hidden), leaves)
    for one, other in zip(traced, plain, strict=True):
        assert find_error(one, other) < 0.02


def test_swiglu_and_its_gradients_take_the_places_of_what_they_are_made_of():
    torch.manual_seed(0)
    gradient, gate, up = (torch.randn(7, 24) for _ in range(3))
    gate.requires_grad_()
    up.requires_grad_()
    inside = nn.functional.silu(gate) * up
    of_gate, of_up = torch.autograd.grad(inside, [gate, up], gradient)
    places = [value.detach().clone() for value in (gradient, gate, up)]
    gate_back(*places)
    for found, right in zip(places, (inside, of_gate, of_up), strict=True):
        assert torch.allclose(found, right, atol=1e-6)


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


def passes(recompute: bool, rounds_forward: bool) -> FP8Passes:
    return FP8Passes(lambda _: recompute, rounds_forward, shortens=True)


@pytest.mark.parametrize("recompute", [True, False])
def test_the_forward_pass_is_exact_and_gradients_are_close(kernels, recompute):
    layers = make_layers(kernels)
    exact, right = run_layers(layers, recompute)
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


def test_an_evaluation_is_exact(kernels):
    layers = make_layers(kernels).eval()
    exact, _ = run_layers(layers, recompute=False)
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
    assert model_loading.round_products(run, layers, kernels, STACK) == ()
    layers = make_layers(kernels)
    del layers[1].self_attn.apply_qkv
    (note,) = model_loading.round_products(run, layers, kernels, STACK)
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
        model_loading.round_products(run, layers, kernels, STACK)
    run = change_values(run, {"asked": {"hardware.fp8": "auto"}})
    note, *_ = model_loading.round_products(run, layers, kernels, STACK)
    assert note.endswith("all products are computed in 16 bits, and steps take longer than planned")
    assert layers[0].self_attn.apply_qkv is before


def test_a_library_that_has_another_inside_is_refused(resolved, kernels):
    run = planned(resolved, "hardware.fp8=true")
    plain = kernels.get_lora_parameters_bias

    def half_as_large(projection: Any) -> Any:
        weight, state, a, b, scale, bias = plain(projection)
        return weight, state, a, b, scale / 2, bias

    kernels.get_lora_parameters_bias = half_as_large
    with pytest.raises(MachineError, match=r"gradients of small layers were wrong.*fp8=false"):
        model_loading.round_products(run, make_layers(kernels), kernels, STACK)
    del kernels.apply_lora_o
    with pytest.raises(MachineError, match=r"has no kernels\.fast_lora\.apply_lora_o"):
        model_loading.round_products(run, make_layers(kernels), kernels, STACK)
