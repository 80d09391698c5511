"""Which of medexp's patches the layers of a loaded model take, and what is said where one that a
plan counts on cannot be had.
"""

from typing import Any

from medexp.config.families.sizes import list_linear_sizes
from medexp.config.levers import ALL_PASSES
from medexp.config.schema import Device, Quantisation, RunConfig
from medexp.errors import HostMemoryError, MachineError
from medexp.models.backend import Backend
from medexp.models.patches.activation_offloading import HostBuffers, offload_activations
from medexp.models.patches.fused_mlp import (
    find_unknown_part,
    list_decoder_layers,
    list_fused_layers,
    patch_fused_mlps,
)
from medexp.models.patches.gradient_check import (
    LayerRecipe,
    find_difference_once,
    make_offloading_patch,
    make_rounding_patch,
    make_scratch_patch,
    make_shortening_patch,
)
from medexp.planning.memory_terms import Levers
from medexp.planning.pieces import count_pieces
from medexp.planning.step_memory import is_offloaded, is_shortened, waiting_bytes
from medexp.system import private_names


def shorten_recomputation(
    config: RunConfig, network: Any, kernels: Any, stack: Backend
) -> tuple[str, ...]:
    """Let MLPs be computed in pieces, and of those of recomputed layers what is read, if `config`
    is to; says where that cannot be had. An MLP in Unsloth's tiles is computed whole, and its plan
    counts on that."""
    if not is_shortened(config) or config.hardware.tile_mlp is True:
        return ()
    asked = config.model.shape.layers - config.hardware.checkpoint_skip_layers
    why = _find_reason_to_leave_whole(config, network, kernels, stack)
    whole = asked
    if why is None:
        whole -= patch_fused_mlps(network, kernels, is_kept, count_pieces(config.model.shape))
    if not whole:
        _release_outputs(network)
        return ()
    return (
        (
            f"{whole} of {asked} recomputed layers compute their last product, which nobody reads:"
            f" {why or 'their MLP is not the one that medexp knows'}. Steps take a few percent"
            " longer and more memory than planned; hardware.recompute_last_product=true plans for"
            " it"
        ),
    )


def round_products(
    config: RunConfig, network: Any, kernels: Any, stack: Backend
) -> tuple[str, ...]:
    """Let the layers of `network` compute their products in FP8; returns what the user should be
    told: also that this card or this Unsloth cannot, where the plan chose it.

    Raises: MachineError where they cannot and it was asked for.
    """
    from medexp.models.patches import fp8_layers

    rounds_forward, shortens = config.hardware.fp8 == ALL_PASSES, is_shortened(config)
    why = fp8_layers.find_reason_against_fp8(kernels) or find_difference_once(
        f"fp8_products, {config.hardware.fp8}",
        make_rounding_patch(kernels, rounds_forward, shortens),
        _make_recipe(config, list_decoder_layers(network)[0].mlp, stack),
        fp8_layers.TOLERANCE,
    )
    if why is not None and config.asked.get("hardware.fp8") == "auto":
        note = (
            f"products cannot be computed in FP8: {why}; all products are computed in 16 bits, and"
            " steps take longer than planned"
        )
        return (note, *shorten_recomputation(config, network, kernels, stack))
    if why is not None:
        raise MachineError(f"products cannot be computed in FP8: {why}; set hardware.fp8=false")

    def is_recomputed(layer: Any) -> bool:
        return is_offloaded(config) and not is_kept(layer)

    pieces = count_pieces(config.model.shape)
    passes = fp8_layers.FP8Passes(is_recomputed, rounds_forward, shortens, pieces)
    count = fp8_layers.multiply_in_fp8(network, kernels, passes)
    if shortens:
        _release_outputs(network)
    asked = len(list_linear_sizes(config.model.shape)) * config.model.shape.layers
    if count == asked:
        return ()
    return (
        (
            f"{count} of {asked} products of the layers are computed in FP8, as only those with an"
            " adapter that Unsloth fuses are; steps take longer than planned"
        ),
    )


def _release_outputs(network: Any) -> None:
    from medexp.models.patches.spent_tensors import release_outputs

    release_outputs(layer for layer in list_decoder_layers(network) if not is_kept(layer))


def group_heads(config: RunConfig, dispatch: Any) -> tuple[str, ...]:
    """Let attention go back through a group of its heads at a time; says where that cannot be had.
    `dispatch` is unsloth.utils.attention_dispatch."""
    import torch

    from medexp.models.patches.grouped_attention import Heads, patch_attention

    shape, hardware = config.model.shape, config.hardware
    if hardware.device is not Device.cuda:
        return ()
    why = patch_attention(
        dispatch,
        Heads(shape.heads, shape.kv_heads, shape.head_dim),
        torch.device("cuda", torch.cuda.current_device()),
        getattr(torch, hardware.dtype.value),
    )
    if why is None:
        return ()
    return (
        (
            f"attention goes back through all of its heads at once: {why}; steps take more memory"
            " than planned"
        ),
    )


def _find_reason_to_leave_whole(
    config: RunConfig, network: Any, kernels: Any, stack: Backend
) -> str | None:
    """Return why no layer may leave its last product out, None where they may."""
    if (unknown := find_unknown_part(kernels)) is not None:
        return unknown
    if (marked := sum(map(is_kept, network.modules()))) != config.hardware.checkpoint_skip_layers:
        return (
            f"Unsloth marks {marked} layers as kept and"
            f" {config.hardware.checkpoint_skip_layers} are to be"
        )
    fused = list_fused_layers(network, kernels)
    if not fused:
        return None
    return find_difference_once(
        "fused_mlp", make_shortening_patch(kernels), _make_recipe(config, fused[0].mlp, stack)
    )


def offload_kept_activations(
    config: RunConfig, network: Any, pieces: HostBuffers, stack: Backend
) -> None:
    """Raises: HostMemoryError where gradients would not be the same."""
    kept = list_kept_layers(network, config.hardware.checkpoint_skip_layers)
    recipe = _make_recipe(config, kept[0].mlp, stack)
    wrong = find_difference_once(
        "activation_offloading",
        make_offloading_patch(pinned=config.hardware.device is Device.cuda),
        recipe,
    )
    if wrong is not None:
        raise HostMemoryError(
            f"activations of kept layers cannot wait in host memory here: {wrong}; set"
            " hardware.offload_activations=false",
            "activations cannot wait in host memory: gradients would be wrong",
        )
    offload_activations(network, kept, pieces)


def find_reason_to_keep_scratch(
    config: RunConfig, network: Any, kernels: Any, stack: Backend
) -> str | None:
    """Return why what an evaluation leaves on the card is not to be released, None where it
    may be."""
    if config.hardware.device is not Device.cuda or config.model.quantisation is Quantisation.none:
        # Nothing is dequantised on a card.
        return None
    if not isinstance(private_names.SCRATCH.of(kernels), dict):
        return private_names.SCRATCH.absence()
    recipe = _make_recipe(config, list_decoder_layers(network)[0].mlp, stack)
    return find_difference_once("unsloth_scratch", make_scratch_patch(kernels, recipe), recipe)


def _make_recipe(config: RunConfig, mlp: Any, stack: Backend) -> LayerRecipe:
    import torch

    device = (
        torch.device("cuda", 0) if config.hardware.device is Device.cuda else torch.device("cpu")
    )
    return LayerRecipe(stack, device, getattr(torch, config.hardware.dtype.value), mlp)


def reserve_host_memory(config: RunConfig) -> HostBuffers | None:
    """Return the pinned memory for the activations of kept layers, if these wait on the host."""
    kept = config.hardware.checkpoint_skip_layers
    if config.hardware.offload_activations is not True or not kept:
        return None
    return HostBuffers(
        waiting_bytes(
            config, Levers(config.training.micro_batch, 1, kept_layers=kept, kept_on_host=True)
        ),
        pinned=True,
    )


def list_kept_layers(network: Any, asked: int) -> list[Any]:
    """Return the decoder layers that Unsloth does not recompute, in their order.

    Raises: HostMemoryError if it marks another number than were `asked` for.
    """
    kept = [*filter(is_kept, network.modules())]
    if len(kept) != asked:
        why = f"Unsloth marks {len(kept)} layers as kept and {asked} are to be"
        raise HostMemoryError(
            f"{why} (medexp was run with unsloth {private_names.TESTED['unsloth']}); set"
            " hardware.offload_activations=false",
            why,
        )
    return kept


def is_kept(layer: Any) -> bool:
    """Return whether `layer` is one that Unsloth does not recompute."""
    return layer.__dict__.get(private_names.KEPT_MARK.last) is True
