"""A base model with a fresh adapter on it, loaded by Unsloth or by transformers + PEFT, on one
device.
"""

import os
import re
from pathlib import Path
from typing import Any

from medexp.config.families.registry import describe_family, find_text_part
from medexp.config.families.sizes import name_targets
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
from medexp.errors import ModelError
from medexp.models import memory_guard
from medexp.models.adapter_model import ATTENTION, AdapterModel
from medexp.models.backend import Backend, capture_library_output
from medexp.models.layer_patches import (
    find_reason_to_keep_scratch,
    group_heads,
    offload_kept_activations,
    reserve_host_memory,
    round_products,
    shorten_recomputation,
)
from medexp.models.tokenizer import refuse_unreadable, revision_of
from medexp.models.weights import Weights
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
    from medexp.models.patches.spent_tensors import release_embedded

    hardware, training = config.hardware, config.training
    # Before anything is loaded: it may not be had.
    pieces = reserve_host_memory(config)
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
    grouped = group_heads(config, stack.unsloth.utils.attention_dispatch)
    release_embedded(network)
    scratch_stays = find_reason_to_keep_scratch(config, network, kernels.utils, stack)
    notes = (
        round_products(config, network, kernels.fast_lora, stack)
        if hardware.fp8
        else shorten_recomputation(config, network, kernels.fast_lora, stack)
    )
    if pieces is not None:
        offload_kept_activations(config, network, pieces, stack)
    if scratch_stays is None:
        return network, (*grouped, *notes), kernels.utils
    return (
        network,
        (
            *grouped,
            *notes,
            (
                "what Unsloth keeps on the card after an evaluation is not handed back:"
                f" {scratch_stays}"
            ),
        ),
        None,
    )


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
    # None where no layer is streamed.
    swapper = private_names.STREAMER.of(tuned.network)
    if swapper is not None:
        swapper.reset()
    memory_guard.release_all()


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
