"""A base model with a fresh adapter on it, loaded by Unsloth or by transformers + PEFT, on one
device.
"""

import gc
import os
import re
from pathlib import Path
from typing import Any

from medexp.config.families.registry import describe_family, find_text_part
from medexp.config.families.sizes import list_linear_sizes, name_targets
from medexp.config.levers import ALL_PASSES
from medexp.config.model_shape import check_shape
from medexp.config.schema import (
    Checkpointing,
    Device,
    Engine,
    Family,
    Hardware,
    Lora,
    Model,
    Quantisation,
    RunConfig,
)
from medexp.errors import HostMemoryError, MachineError, ModelError
from medexp.models.adapter_model import ATTENTION, AdapterModel
from medexp.models.backend import Backend, capture_library_output
from medexp.models.patches.activation_offloading import HostBuffers, offload_activations
from medexp.models.patches.gradient_check import (
    LayerRecipe,
    find_difference_once,
    make_offloading_patch,
    make_rounding_patch,
    make_scratch_patch,
    make_shortening_patch,
)
from medexp.models.patches.mlp_recompute import (
    find_unknown_part,
    leave_out_last_product,
    list_decoder_layers,
    list_fused_mlps,
)
from medexp.models.tokenizer import refuse_unreadable, revision_of
from medexp.models.weights import Weights
from medexp.planning.memory_terms import Levers
from medexp.planning.step_memory import is_offloaded, is_shortened, waiting_bytes
from medexp.system import private_names


def load_model(config: RunConfig, weights: Weights, tokenizer: Any, stack: Backend) -> AdapterModel:
    """Load the model of `config` with its adapter, ready to train.

    Raises: ModelError if the weights cannot be read, or are not of the declared shape.
    """
    from safetensors import SafetensorError

    stack.transformers.set_seed(config.training.seed)
    load_with = _load_with_unsloth if stack.engine is Engine.unsloth else _load_with_peft
    with (
        capture_library_output(),
        refuse_unreadable("the weights", weights, OSError, SafetensorError),
    ):
        network, notes, scratch = load_with(config, weights, stack)
    check_shape(config.model, network.config.to_dict())
    targets = name_targets(config.model.shape.family, config.lora.target_modules)
    for peft_config in network.peft_config.values():
        # Unsloth turns them into a pattern for some families.
        if isinstance(peft_config.target_modules, str):
            peft_config.target_modules = set(targets)
        peft_config.base_model_name_or_path = weights.location
        peft_config.revision = revision_of(weights)
    biases = _copy_trained_biases(network)
    if config.lora.start_from is not None:
        _load_adapter_weights(Path(config.lora.start_from), network, stack)
    trainable = sum(
        parameter.numel() for parameter in network.parameters() if parameter.requires_grad
    )
    return AdapterModel(
        network,
        tokenizer,
        stack,
        config.hardware.dtype,
        trainable,
        biases,
        (*stack.notes, *notes),
        scratch,
    )


def _copy_trained_biases(network: Any) -> dict[str, Any]:
    """Return a copy in host memory of the base's biases that train with the adapter (lora.bias),
    while they are as the base has them."""
    trained = (
        (name, parameter)
        for name, parameter in network.named_parameters()
        if parameter.requires_grad and name.endswith(".bias")
    )
    return {name: parameter.detach().to("cpu", copy=True) for name, parameter in trained}


def _choose_dtype(hardware: Hardware) -> Any:
    import torch

    return getattr(torch, hardware.dtype.value)


def _find_device(hardware: Hardware) -> int | str:
    import torch

    return torch.cuda.current_device() if hardware.device is Device.cuda else "cpu"


def _make_quantisation_config(model: Model, hardware: Hardware, stack: Backend) -> dict[str, Any]:
    if model.quantisation is Quantisation.none:
        return {}
    settings = stack.transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=_choose_dtype(hardware),
    )
    return {"quantization_config": settings}


def _find_whole_config(model: Model, weights: Weights, stack: Backend) -> Any:
    """Return the configuration of a model of text and images, None where `weights` are a decoder
    alone."""
    if describe_family(model.shape).text_part is None:
        return None
    config = stack.transformers.AutoConfig.from_pretrained(
        weights.location, revision=revision_of(weights)
    )
    return config if find_text_part(config.to_dict()) is not None else None


def _make_text_options(model: Model, weights: Weights, stack: Backend) -> dict[str, Any]:
    """Return what makes Transformers load the decoder alone of a model of text and images; nothing
    for a decoder."""
    whole, part = _find_whole_config(model, weights, stack), describe_family(model.shape).text_part
    if whole is None or part is None:
        return {}
    text = whole.get_text_config()
    if (quantised := getattr(whole, "quantization_config", None)) is not None:
        text.quantization_config = quantised
    renamed = {f"^{re.escape(theirs)}": ours for theirs, ours in part.tensors.items()}
    return {"config": text, "key_mapping": renamed}


def _make_lora_options(lora: Lora, family: Family) -> dict[str, Any]:
    """Return the adapter's settings under PEFT's names, which are Unsloth's too."""
    return {
        "r": lora.r,
        "lora_alpha": lora.trained_alpha,
        "lora_dropout": lora.dropout,
        "bias": lora.bias.value,
        "target_modules": name_targets(family, lora.target_modules),
        "use_rslora": lora.rank_stabilised,
        "use_dora": lora.dora,
        "init_lora_weights": lora.init_lora_weights,
    }


def _load_with_peft(
    config: RunConfig, weights: Weights, stack: Backend
) -> tuple[Any, tuple[str, ...], None]:
    """Return the network, what the user should be told of it, and no scratch memory."""
    base = stack.transformers.AutoModelForCausalLM.from_pretrained(
        weights.location,
        revision=revision_of(weights),
        dtype=_choose_dtype(config.hardware),
        # Of several cards each process has made one its own.
        device_map={"": _find_device(config.hardware)},
        attn_implementation=ATTENTION,
        **_make_quantisation_config(config.model, config.hardware, stack),
        **_make_text_options(config.model, weights, stack),
    )
    checkpointing = config.training.gradient_checkpointing is not Checkpointing.off
    if config.model.quantisation is Quantisation.nf4:
        base = stack.peft.prepare_model_for_kbit_training(
            base,
            use_gradient_checkpointing=checkpointing,
            gradient_checkpointing_kwargs={"use_reentrant": False},
        )
        if config.hardware.device is Device.cpu:
            keep_cpu_weights_unpacked(base)
    lora_config = stack.peft.LoraConfig(
        **_make_lora_options(config.lora, config.model.shape.family),
        task_type="CAUSAL_LM",
    )
    return stack.peft.get_peft_model(base, lora_config), (), None


def keep_cpu_weights_unpacked(base: Any) -> None:
    """On CPUs with avx512_bf16 bitsandbytes 0.50 repacks NF4 weights at the first forward without
    gradients, and every later gradient is silently wrong.

    Raises: ModelError if bitsandbytes calls its switch otherwise, so that it cannot be kept from
        it.
    """
    repacking = [module for module in base.modules() if hasattr(module, private_names.REPACKS.last)]
    if not repacking:
        raise ModelError(
            f"{private_names.REPACKS.absence()}; install bitsandbytes==0.50.2, or set"
            " model.quantisation=none"
        )
    for module in repacking:
        setattr(module, private_names.REPACKS.last, False)


def _load_with_unsloth(
    config: RunConfig, weights: Weights, stack: Backend
) -> tuple[Any, tuple[str, ...], Any]:
    """Return the network, what the user should be told of it, and the module whose scratch memory
    may be handed back."""
    hardware, training = config.hardware, config.training
    # Before anything is loaded: it may not be had.
    pieces = _reserve_host_memory(config)
    # read at every call of a layer
    os.environ["UNSLOTH_BLOCK_COMPILE"] = "1" if hardware.compile_layers else "0"
    network, _ = stack.unsloth.FastLanguageModel.from_pretrained(
        model_name=weights.location,
        revision=revision_of(weights),
        max_seq_length=max(training.max_seq_tokens, config.evaluation.max_seq_tokens),
        dtype=_choose_dtype(hardware),
        load_in_4bit=config.model.quantisation is Quantisation.nf4,
        offload_layers=hardware.offload_layers,
        offload_embedding=hardware.offload_embedding,
        unsloth_tiled_mlp=hardware.tile_mlp is True,
        use_exact_model_name=True,
        text_only=_find_whole_config(config.model, weights, stack) is not None,
    )
    network = stack.unsloth.FastLanguageModel.get_peft_model(
        network,
        **_make_lora_options(config.lora, config.model.shape.family),
        use_gradient_checkpointing=(
            "unsloth" if training.gradient_checkpointing is Checkpointing.unsloth else True
        ),
        checkpoint_skip_layers=hardware.checkpoint_skip_layers,
        random_state=training.seed,
    )
    if hardware.offload_layers:
        find_streamer(network)
    if not describe_family(config.model.shape).runs_fused_kernels:
        # Nothing of medexp's own stands in for what such layers compute.
        return network, (), None
    kernels = stack.unsloth.kernels
    scratch_stays = find_reason_to_keep_scratch(config, network, kernels.utils, stack)
    notes = (
        round_products(config, network, kernels.fast_lora, stack)
        if hardware.fp8
        else shorten_recomputation(config, network, kernels.fast_lora, stack)
    )
    if pieces is not None:
        offload_kept_activations(config, network, pieces, stack)
    if scratch_stays is None:
        return network, notes, kernels.utils
    return (
        network,
        (
            *notes,
            (
                "what Unsloth keeps on the card after an evaluation is not handed back:"
                f" {scratch_stays}"
            ),
        ),
        None,
    )


def shorten_recomputation(
    config: RunConfig, network: Any, kernels: Any, stack: Backend
) -> tuple[str, ...]:
    """Let recomputed layers leave out their last product, if `config` is to; says where that
    cannot be had. An MLP in tiles computes it, and its plan counts on that."""
    if not is_shortened(config) or config.hardware.tile_mlp is True:
        return ()
    asked = config.model.shape.layers - config.hardware.checkpoint_skip_layers
    why = _find_reason_to_leave_whole(config, network, kernels, stack)
    whole = asked if why else asked - leave_out_last_product(network, kernels, is_kept)
    if not whole:
        return ()
    return (
        (
            f"{whole} of {asked} recomputed layers compute their last product, which nobody reads:"
            f" {why or 'their MLP is not the one that medexp knows'}. Steps take a few percent"
            " longer than planned; hardware.recompute_last_product=true plans for it"
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

    passes = fp8_layers.FP8Passes(is_recomputed, rounds_forward, shortens)
    count = fp8_layers.multiply_in_fp8(network, kernels, passes)
    asked = len(list_linear_sizes(config.model.shape)) * config.model.shape.layers
    if count == asked:
        return ()
    return (
        (
            f"{count} of {asked} products of the layers are computed in FP8, as only those with an"
            " adapter that Unsloth fuses are; steps take longer than planned"
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
    mlps = list_fused_mlps(network, kernels, is_kept)
    if not mlps:
        return None
    return find_difference_once(
        "mlp_recompute", make_shortening_patch(kernels), _make_recipe(config, mlps[0], stack)
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
    return LayerRecipe(stack, device, _choose_dtype(config.hardware), mlp)


def _reserve_host_memory(config: RunConfig) -> HostBuffers | None:
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


def find_streamer(network: Any) -> Any:
    """Return what streams the layers of `network` from the host.

    Raises: ModelError if Unsloth has none there: a step that ends in the middle could not be
        recovered from.
    """
    found = private_names.STREAMER.of(network)
    if found is None or not hasattr(found, "reset"):
        raise ModelError(private_names.STREAMER.absence())
    return found


def recover_from_failed_step(tuned: AdapterModel) -> None:
    """After a step that ended in the middle: streamed layers are put back in order, and what the
    step held is handed back.
    """
    import torch

    # None where no layer is streamed.
    swapper = private_names.STREAMER.of(tuned.network)
    if swapper is not None:
        swapper.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _load_adapter_weights(folder: Path, network: Any, stack: Backend) -> None:
    """Raises: ModelError if the adapter in `folder` and that of `network` are not of the same
    tensors.
    """
    ours = set(stack.peft.get_peft_model_state_dict(network, save_embedding_layers=False))
    weights = stack.peft.load_peft_weights(str(folder))
    if odd := sorted(ours ^ set(weights)):
        which = (
            f"{odd[0]} is {'missing there' if odd[0] in ours else 'not in this one'}, of {len(odd)}"
            " that do not match"
        )
        raise ModelError(
            f"the adapter in {folder} has other tensors than this run's ({which}); choose another"
            " lora.start_from"
        )
    stack.peft.set_peft_model_state_dict(network, weights)
