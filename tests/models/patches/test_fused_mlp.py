"""A recomputed layer leaves out the product that nobody reads, and its gradients are what they
were.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
from helpers.fused_mlp import (
    half_as_large,
    layers_with,
    make_kernels,
    plan_two_layers,
)
from torch import nn

from medexp.config.changes import change_values
from medexp.config.schema import Dtype, RunConfig
from medexp.models import layer_patches
from medexp.models.patches import gradient_check
from medexp.models.patches.fused_mlp import patch_fused_mlps
from medexp.system import private_names

STACK: Any = SimpleNamespace(peft=peft)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The names of unsloth.kernels.fast_lora that are used; nothing is known yet of the patch."""
    monkeypatch.setattr(gradient_check, "_found", {})
    return make_kernels()


def patch(
    layers: Any, kernels: SimpleNamespace, is_kept: Callable[[Any], bool] = lambda layer: False
) -> int:
    return patch_fused_mlps(layers, kernels, is_kept, pieces=2)


def planned(resolved: Callable[..., RunConfig], *words: str) -> RunConfig:
    return plan_two_layers(resolved, Dtype.float32, *words)


def gradients(
    kernels: SimpleNamespace, change: Callable[[Any], object]
) -> tuple[Any, list[Any], list[Any]]:
    """Output, gradients and layers of two checkpointed layers, `change` made to them before."""
    torch.manual_seed(3)
    layers = layers_with(kernels)
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
    same, shortened, layers = gradients(kernels, lambda layers: patch(layers, kernels))
    assert torch.allclose(out, same)
    assert all(torch.allclose(one, other) for one, other in zip(whole, shortened, strict=True))
    for layer in layers:
        first, recomputed = layer.outputs
        assert first.isfinite().all()
        assert recomputed.isnan().all()


def test_a_kept_layer_computes_all_of_it(kernels):
    layers = layers_with(kernels)
    assert patch(layers, kernels, lambda layer: layer is layers[1]) == 1
    out = layers[1](torch.randn(1, 5, 8, requires_grad=True))
    assert out.isfinite().all()


def test_what_unsloth_does_not_fuse_is_left_alone(kernels):
    layers = layers_with(kernels, count=1)
    del layers[0].mlp.forward
    assert patch(layers, kernels) == 0


def test_weights_that_are_quantised_otherwise_are_left_alone(kernels):
    layers = layers_with(kernels)
    layers[0].mlp.up_proj.base_layer.weight.quant_state = SimpleNamespace(quant_type="fp4")
    assert patch(layers, kernels) == 1


def test_an_mlp_in_tiles_is_planned_whole_and_nothing_is_said(resolved, kernels):
    layers = layers_with(kernels)
    for layer in layers:
        del layer.mlp.forward
    assert (
        layer_patches.shorten_recomputation(
            planned(resolved, "hardware.tile_mlp=true"), layers, kernels, STACK
        )
        == ()
    )


@pytest.mark.parametrize(
    ("word", "fused", "said"),
    [
        ("hardware.recompute_last_product=false", 2, 0),
        ("hardware.recompute_last_product=false", 1, 1),
        ("hardware.recompute_last_product=true", 0, 0),
    ],
)
def test_what_a_plan_counts_on_and_the_model_does_not_do_is_said(
    resolved, kernels, word, fused, said
):
    run = planned(resolved, word)
    layers = layers_with(kernels)
    for layer in layers[fused:]:
        del layer.mlp.forward
    notes = layer_patches.shorten_recomputation(run, layers, kernels, STACK)
    assert [note.partition(",")[0] for note in notes] == [
        "1 of 2 recomputed layers compute their last product"
    ] * said


def note(
    resolved: Any, layers: nn.ModuleList, kernels: SimpleNamespace, *words: str, kept: int = 0
) -> str:
    """What is said of two layers that are both to leave it out; none of them does."""
    run = planned(resolved, *words)
    run = change_values(run, {"hardware.checkpoint_skip_layers": kept})
    before = [layer.mlp.forward for layer in layers]
    (said,) = layer_patches.shorten_recomputation(run, layers, kernels, STACK)
    assert [layer.mlp.forward for layer in layers] == before
    return said


def test_a_library_that_means_something_else_is_found_and_left_alone(resolved, kernels):
    other = half_as_large(make_kernels())
    whole = gradients(other, lambda layers: None)[1]
    wrong = gradients(other, lambda layers: patch(layers, other))[1]
    assert all(each.isfinite().all() for each in wrong)  # nobody would notice
    assert not any(torch.allclose(one, each) for one, each in zip(whole, wrong, strict=True))
    said = note(resolved, layers_with(other), other)
    assert said.startswith(
        "2 of 2 recomputed layers compute their last product, which nobody reads: "
    )
    assert "gradients of small layers were wrong with it" in said
    assert "hardware.recompute_last_product=true plans for it" in said


def test_it_is_tried_once_a_process(resolved, kernels, monkeypatch):
    tried: list[object] = []
    difference = gradient_check.find_difference
    monkeypatch.setattr(
        gradient_check, "find_difference", lambda *given: tried.append(given) or difference(*given)
    )
    run = planned(resolved)
    assert layer_patches.shorten_recomputation(run, layers_with(kernels), kernels, STACK) == ()
    assert layer_patches.shorten_recomputation(run, layers_with(kernels), kernels, STACK) == ()
    assert len(tried) == 1


@pytest.mark.parametrize(
    "name",
    [
        each.last
        for each in private_names.NAMES
        if "fast_lora" in each.name and "last product" in each.without
    ],
)
def test_a_name_that_is_gone_is_said(resolved, kernels, name):
    layers = layers_with(kernels)
    delattr(kernels, name)
    assert f"has no kernels.fast_lora.{name}, which unsloth 2026.10.6 to 2026.10.9 had" in note(
        resolved, layers, kernels
    )


def test_kept_layers_that_are_not_marked_are_said(resolved, kernels):
    layers = layers_with(kernels)
    said = note(resolved, layers, kernels, "hardware.offload_activations=false", kept=1)
    assert "Unsloth marks 0 layers as kept and 1 are to be" in said


def test_an_mlp_in_tiles_computes_it_as_planned(resolved, kernels):
    run = planned(resolved)
    run = change_values(run, {"hardware.tile_mlp": True})
    assert layer_patches.shorten_recomputation(run, layers_with(kernels), kernels, STACK) == ()
