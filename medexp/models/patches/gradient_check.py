"""Is a patch right with the libraries that are installed? Small random layers, made as those of the
run are, go forward and backward with it and without it; gradients must be the same within rounding,
or the patch is left off.

A patch stands in for the inside of a library, and another version may have another inside behind
the same names: a function that saves its tensors in another order gives wrong gradients that are
finite, and nobody notices.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any

from medexp.models.backend import Backend, load_bitsandbytes
from medexp.models.patches.activation_offloading import HostBuffers, offload_activations
from medexp.models.patches.fused_mlp import patch_fused_mlps
from medexp.models.patches.unsloth_scratch import release_scratch

# what an MLP saves is large enough to leave for the host: 1 MiB
HIDDEN, FFN, TOKENS, LAYERS, RANK = 256, 512, 1088, 4, 8
# of an MLP, two
PIECES = 2
# As in a run, layers that are recomputed lie between those that are not.
KEPT = (1, 3)
PROJECTIONS = {"gate_proj": (HIDDEN, FFN), "up_proj": (HIDDEN, FFN), "down_proj": (FFN, HIDDEN)}

# changes layers; the second are those of them that are not recomputed
Patch = Callable[[Any, Sequence[Any]], object]


@dataclass(frozen=True)
class LayerRecipe:
    """What small layers have of a run's: the card, the precision of its products, and the MLP of
    one of its layers.
    """

    stack: Backend
    device: Any
    dtype: Any
    mlp: Any

    @property
    def key(self) -> tuple[object, ...]:
        """The same for recipes of layers that compute in the same way."""
        return (
            str(self.device),
            self.dtype,
            *(_kind(getattr(self.mlp, name)) for name in PROJECTIONS),
        )


def make_shortening_patch(kernels: Any) -> Patch:
    """Return the patch by which MLPs are computed in pieces, and of recomputed layers what is read;
    `kernels` is unsloth.kernels.fast_lora."""

    def patch(layers: Any, kept: Sequence[Any]) -> None:
        from medexp.models.patches.spent_tensors import release_outputs

        count = patch_fused_mlps(layers, kernels, lambda layer: _is_among(layer, kept), PIECES)
        assert count == len(layers) - len(kept), f"{count} small layers took it"
        release_outputs(layer for layer in layers if not _is_among(layer, kept))

    return patch


def make_rounding_patch(kernels: Any, rounds_forward: bool, shortens: bool) -> Patch:
    """Return the patch by which layers compute their products in FP8; `kernels` is
    unsloth.kernels.fast_lora."""

    def patch(layers: Any, kept: Sequence[Any]) -> None:
        from medexp.models.patches.fp8_layers import FP8Passes, multiply_in_fp8
        from medexp.models.patches.spent_tensors import release_outputs

        def is_recomputed(layer: Any) -> bool:
            return not _is_among(layer, kept)

        passes = FP8Passes(is_recomputed, rounds_forward, shortens, PIECES)
        count = multiply_in_fp8(layers, kernels, passes)
        assert count == len(PROJECTIONS) * len(layers), f"{count} small products took it"
        if shortens:
            release_outputs(filter(is_recomputed, layers))

    return patch


def _is_among(layer: Any, layers: Sequence[Any]) -> bool:
    return any(layer is other for other in layers)


def make_offloading_patch(pinned: bool) -> Patch:
    """Return the patch by which what kept layers save waits on the host."""

    def patch(layers: Any, kept: Sequence[Any]) -> None:
        offload_activations(layers, kept, HostBuffers(0, pinned))

    return patch


def make_scratch_patch(kernels: Any, recipe: "LayerRecipe") -> Patch:
    """Return the patch that releases before the step what an evaluation leaves on the card;
    `kernels` is unsloth.kernels.utils."""

    def patch(layers: Any, _: Sequence[Any]) -> None:
        import torch

        hidden = torch.ones(1, TOKENS, HIDDEN, device=recipe.device, dtype=recipe.dtype)
        for _again in range(2):
            with torch.no_grad():
                for layer in layers:
                    hidden = _run_forward(layer, recipe)(hidden)
            release_scratch(layers, kernels)

    return patch


_found: dict[tuple[object, ...], str | None] = {}


def find_difference_once(
    name: str, patch: Patch, recipe: LayerRecipe, tolerance: float | None = None
) -> str | None:
    """Return `find_difference` of the patch of this name, computed once a process for layers of a
    kind."""
    key = (name, *recipe.key)
    if key not in _found:
        _found[key] = find_difference(patch, recipe, tolerance)
    return _found[key]


def find_difference(
    patch: Patch, recipe: LayerRecipe, tolerance: float | None = None
) -> str | None:
    """Return what `patch` changes in gradients that it should not, in words; None where they are
    the same within `tolerance` of their norm, by default the rounding of the layers' own numbers.

    The random numbers of this process are not touched.
    """
    import torch

    with torch.random.fork_rng([recipe.device] if recipe.device.type == "cuda" else []):
        try:
            expected = _compute_gradients(recipe, lambda *_: None)
        except Exception as error:
            return f"it could not be tried on small layers ({_describe_error(error)})"
        try:
            found = _compute_gradients(recipe, patch)
        except Exception as error:
            return f"small layers failed with it ({_describe_error(error)})"
    if tolerance is None:
        tolerance = max(2 * torch.finfo(recipe.dtype).eps, 1e-4)
    wrong = [name for name in expected if not _is_close(found[name], expected[name], tolerance)]
    if not wrong:
        return None
    return (
        f"{len(wrong)} of {len(expected)} gradients of small layers were wrong with it ({wrong[0]}"
        " first)"
    )


def _compute_gradients(recipe: LayerRecipe, patch: Patch) -> dict[str, Any]:
    """Return the gradients of small layers, and of what goes into them, after `patch`; always of
    the same layers and input."""
    import torch

    torch.manual_seed(0)
    layers = _make_layers(recipe)
    hidden = torch.randn(1, TOKENS, HIDDEN, device=recipe.device).to(recipe.dtype).requires_grad_()
    patch(layers, [layers[place] for place in KEPT])
    out = hidden
    for place, layer in enumerate(layers):
        out = (
            _run_forward(layer, recipe)(out)
            if place in KEPT
            else _recompute(_run_forward(layer, recipe), out)
        )
    out.float().square().mean().backward()
    trained = {
        name: parameter.grad
        for name, parameter in layers.named_parameters()
        if parameter.requires_grad
    }
    return {"the input": hidden.grad} | trained


def _is_close(found: Any, expected: Any, tolerance: float) -> bool:
    if found is None or expected is None:
        return found is expected
    apart = float((found.float() - expected.float()).norm())
    return math.isfinite(apart) and apart <= tolerance * float(expected.float().norm())


def _run_forward(layer: Any, recipe: LayerRecipe) -> Callable[[Any], Any]:
    """Return the forward pass of `layer` in the precision of training."""
    import torch

    def forward(hidden: Any) -> Any:
        with torch.autocast(
            recipe.device.type, recipe.dtype, enabled=recipe.dtype != torch.float32
        ):
            return layer(hidden)

    return forward


def _recompute(forward: Callable[[Any], Any], hidden: Any) -> Any:
    """Compute what gradient checkpointing does, to the end of the layer, without the buffers and
    counters of Unsloth's own."""
    import torch

    class Recomputed(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, hidden: Any) -> Any:
            ctx.save_for_backward(hidden)
            with torch.no_grad():
                return forward(hidden)

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            (saved,) = ctx.saved_tensors
            again = saved.detach().requires_grad_()
            with torch.enable_grad():
                out = forward(again)
            torch.autograd.backward(out, gradient)
            return again.grad

    return Recomputed.apply(hidden)  # type: ignore[no-untyped-call]


def _make_layers(recipe: LayerRecipe) -> Any:
    """Return small layers with random weights and an adapter whose gradients are none of
    them zero."""
    import torch

    class Layer(torch.nn.Module):  # type: ignore[misc]
        def __init__(self, mlp: Any) -> None:
            super().__init__()
            self.self_attn, self.mlp = torch.nn.Identity(), mlp

        def forward(self, hidden: Any) -> Any:
            return hidden + self.mlp(torch.nn.functional.rms_norm(hidden, hidden.shape[-1:]))

    layers = torch.nn.ModuleList([Layer(_make_bare_mlp(recipe)) for _ in range(LAYERS)])
    adapted = [name for name in PROJECTIONS if _has_adapter(getattr(recipe.mlp, name))]
    if adapted:
        # PEFT asks for it.
        layers.is_loaded_in_4bit = _is_quantised(recipe.mlp.gate_proj)
        config = recipe.stack.peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=adapted)
        recipe.stack.peft.inject_adapter_in_model(config, layers)
    for layer in layers:
        for name in adapted:
            _fill_adapter(getattr(layer.mlp, name), like=getattr(recipe.mlp, name))
        function = getattr(recipe.mlp.__dict__.get("forward"), "__func__", type(recipe.mlp).forward)
        layer.mlp.forward = MethodType(function, layer.mlp)
    layers.to(recipe.device).train()
    if hasattr(recipe.mlp.gate_proj, "fp8_scales"):
        # The run's function reads them.
        from medexp.models.patches.fp8_layers import keep_row_scales

        for layer in layers:
            keep_row_scales(layer.mlp, tuple(PROJECTIONS))
    return layers


def _fill_adapter(projection: Any, like: Any) -> None:
    """Random numbers for both matrices, of the type that the run's have."""
    import torch

    for side in ("lora_A", "lora_B"):
        (matrix,), (model, *_) = getattr(projection, side).values(), getattr(like, side).values()
        matrix.to(dtype=model.weight.dtype)
        torch.nn.init.normal_(matrix.weight, std=0.05)


def _make_bare_mlp(recipe: LayerRecipe) -> Any:
    import torch

    mlp = torch.nn.Module()
    mlp.act_fn = recipe.mlp.act_fn
    for name, (inputs, outputs) in PROJECTIONS.items():
        setattr(
            mlp, name, _make_projection(_base(getattr(recipe.mlp, name)), inputs, outputs, recipe)
        )
    return mlp


def _make_projection(like: Any, inputs: int, outputs: int, recipe: LayerRecipe) -> Any:
    """Return a frozen product with random weights, quantised where that of the run is."""
    import torch

    has_bias, weight = like.bias is not None, like.weight
    if _is_quantised(like):
        made = load_bitsandbytes().nn.Linear4bit(
            inputs, outputs, has_bias,
            compute_dtype=like.compute_dtype, quant_type=weight.quant_type,
            compress_statistics=weight.compress_statistics,
        )  # fmt: skip
        made.support_avx512bf16_for_cpu = False
        made = made.to(dtype=recipe.dtype)
    else:
        made = torch.nn.Linear(inputs, outputs, has_bias, dtype=weight.dtype)
    return made.requires_grad_(False).to(recipe.device)


def _base(projection: Any) -> Any:
    """Return what a product is without its adapter."""
    return getattr(projection, "base_layer", projection)


def _has_adapter(projection: Any) -> bool:
    return bool(getattr(projection, "lora_A", None))


def _is_quantised(projection: Any) -> bool:
    return getattr(_base(projection).weight, "quant_state", None) is not None


def _kind(projection: Any) -> tuple[object, ...]:
    base = _base(projection)
    adapters = (
        [str(matrix.weight.dtype) for matrix in projection.lora_A.values()]
        if _has_adapter(projection)
        else []
    )
    return (
        type(projection),
        type(base),
        _is_quantised(projection),
        base.bias is not None,
        *adapters,
    )


def _describe_error(error: Exception) -> str:
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0][:160]}" if said else type(error).__name__
