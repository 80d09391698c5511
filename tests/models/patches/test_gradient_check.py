"""A patch that changes a gradient is seen on small layers before anything is trained with it."""

from types import SimpleNamespace
from typing import Any

import bitsandbytes
import peft
import pytest
import torch
from helpers.fused_mlp import half_as_large, layers_with, make_kernels

from medexp.config.changes import change_values
from medexp.config.schema import Device, Dtype, RunConfig
from medexp.errors import HostMemoryError
from medexp.models import layer_patches
from medexp.models.patches import activation_offloading, gradient_check
from medexp.models.patches.gradient_check import (
    LayerRecipe,
    find_difference,
    make_offloading_patch,
    make_scratch_patch,
    make_shortening_patch,
)
from medexp.system import private_names

STACK: Any = SimpleNamespace(peft=peft)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def untried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known yet of the patches."""
    monkeypatch.setattr(gradient_check, "_found", {})


RIGHT, OTHER = make_kernels(), half_as_large(make_kernels())


def recipe(kernels: Any = RIGHT) -> LayerRecipe:
    return LayerRecipe(STACK, CPU, torch.float32, layers_with(kernels)[0].mlp)


def without_a_card(run: RunConfig) -> RunConfig:
    """A run that was planned for a card, as its layers are made here."""
    return change_values(run, {"hardware.device": Device.cpu, "hardware.dtype": Dtype.float32})


def kept_layers(count: int = 3) -> Any:
    """Layers that Unsloth marks as not recomputed."""
    layers = layers_with(RIGHT, count)
    for layer in layers:
        setattr(layer, private_names.KEPT_MARK.last, True)
    return layers


def loses_half(to: Any, source: Any) -> None:
    to.copy_(source)
    to[len(to) // 2 :].zero_()


def test_patches_that_are_right_change_nothing():
    made = recipe()
    assert find_difference(make_shortening_patch(RIGHT), recipe()) is None
    assert find_difference(make_offloading_patch(pinned=False), made) is None
    assert find_difference(make_scratch_patch(SimpleNamespace(_SCRATCH={}), made), made) is None


def test_activations_do_leave(monkeypatch):
    sent: list[int] = []
    copy = activation_offloading._copy
    monkeypatch.setattr(
        activation_offloading, "_copy", lambda to, source: sent.append(len(to)) or copy(to, source)
    )
    assert find_difference(make_offloading_patch(pinned=False), recipe()) is None
    assert sum(sent) > 2 * 2 * gradient_check.TOKENS * gradient_check.FFN  # there and back


def test_an_adapter_of_another_scale_is_seen():
    found = find_difference(make_shortening_patch(OTHER), recipe(OTHER))
    assert found is not None
    assert found.startswith("25 of 25 gradients of small layers were wrong with it")


def test_a_copy_that_loses_something_is_refused_and_nothing_is_patched(monkeypatch, resolved):
    run = without_a_card(resolved("hardware=rtx4050_6gb", "model.shape.layers=3"))
    run = change_values(run, {"hardware.checkpoint_skip_layers": 3})
    layers, pieces = kept_layers(), activation_offloading.HostBuffers(0, pinned=False)
    layer_patches.offload_kept_activations(run, layers, pieces, STACK)
    assert all("forward" in layer.__dict__ for layer in layers)
    monkeypatch.setattr(activation_offloading, "_copy", loses_half)
    monkeypatch.setattr(gradient_check, "_found", {})
    layers = kept_layers()
    with pytest.raises(
        HostMemoryError, match=r"were wrong with it.*set hardware\.offload_activations=false"
    ) as refused:
        layer_patches.offload_kept_activations(run, layers, pieces, STACK)
    assert refused.value.why == "activations cannot wait in host memory: gradients would be wrong"
    assert not any("forward" in layer.__dict__ for layer in layers)


def test_kept_layers_that_are_not_marked_keep_their_activations(resolved):
    run = resolved("hardware=rtx4050_6gb", "model.shape.layers=3")
    run = change_values(run, {"hardware.checkpoint_skip_layers": 2})
    with pytest.raises(HostMemoryError, match="Unsloth marks 3 layers as kept and 2 are to be"):
        layer_patches.offload_kept_activations(
            run, kept_layers(), activation_offloading.HostBuffers(0, pinned=False), STACK
        )


def test_a_release_that_changes_a_weight_is_seen(monkeypatch):
    def spoils(network: Any, _: object) -> int:
        with torch.no_grad():
            for each in network.parameters():
                each.mul_(1.1)
        return 0

    monkeypatch.setattr(gradient_check, "release_scratch", spoils)
    made = recipe()
    found = find_difference(make_scratch_patch(SimpleNamespace(), made), made)
    assert found is not None
    assert found.startswith("25 of 25 gradients")


def test_a_patch_that_fails_is_left_off_and_so_is_one_that_cannot_be_tried():
    def fails(*_: object) -> None:
        raise RuntimeError("no such kernel\nmore")

    assert (
        find_difference(fails, recipe())
        == "small layers failed with it (RuntimeError: no such kernel)"
    )
    odd = recipe()
    odd.mlp.gate_proj.base_layer = torch.nn.Identity()
    assert str(find_difference(make_shortening_patch(RIGHT), odd)).startswith(
        "it could not be tried on small layers (Attribute"
    )


def test_the_random_numbers_of_a_run_are_not_touched():
    made = recipe()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    find_difference(make_offloading_patch(pinned=False), made)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quantised_layers_are_made_like_those_of_the_run(dtype):
    layers = layers_with(RIGHT, count=1, hidden=64, ffn=64)
    mlp = layers[0].mlp
    for name in gradient_check.PROJECTIONS:
        made = bitsandbytes.nn.Linear4bit(64, 64, False, compute_dtype=dtype, quant_type="nf4").to(
            "cpu"
        )
        getattr(mlp, name).base_layer = made
    found = gradient_check._make_projection(
        mlp.gate_proj.base_layer, 256, 512, LayerRecipe(STACK, CPU, dtype, mlp)
    )
    assert type(found) is bitsandbytes.nn.Linear4bit
    assert tuple(found.weight.quant_state.shape) == (512, 256)
    assert found.weight.quant_state.nested
    assert found.weight.quant_state.dtype == dtype
