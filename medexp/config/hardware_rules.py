"""The rules of `hardware`: what goes with the card, the engine and the levers, and what the machine
has."""

from collections.abc import Iterator

from medexp.config.families.registry import describe_family
from medexp.config.flatten import format_value
from medexp.config.levers import ALL_PASSES, MEMORY_LEVERS
from medexp.config.measured_steps import find_problem
from medexp.config.schema import (
    Bias,
    Checkpointing,
    Device,
    Dtype,
    Engine,
    Optimizer,
    Quantisation,
    RunConfig,
)
from medexp.errors import listing
from medexp.system.machine import Machine
from medexp.system.units import bytes_of_gib, gib


def check_machine(config: RunConfig, machine: Machine) -> Iterator[str]:
    """Yield what `machine` lacks for `config`; no rule of `RULES`, as a plan needs no card."""
    hardware = config.hardware
    if machine.launched > 1:
        yield (
            f"torchrun or another launcher has started this command {machine.launched} times"
            f" (WORLD_SIZE={machine.launched}), and medexp starts its processes itself: leave the"
            f" launcher out, and set hardware.cards={machine.launched}"
        )
    if hardware.device is Device.cpu:
        return
    if not machine.gpus:
        yield (
            f"hardware={hardware.name} needs a CUDA card and this machine has none that the driver"
            " shows; use hardware=cpu, or check nvidia-smi and CUDA_VISIBLE_DEVICES"
        )
        return
    card = machine.gpus[0]
    if hardware.cards > len(machine.gpus):
        yield (
            f"hardware.cards={hardware.cards} and the driver shows {len(machine.gpus)}; lower it,"
            " or check nvidia-smi and CUDA_VISIBLE_DEVICES"
        )
    other = next((gpu for gpu in machine.gpus[: hardware.cards] if gpu.name != card.name), None)
    if other is not None:
        yield (
            f"hardware.cards={hardware.cards} would train on {card.name} and {other.name}: a step"
            " is shared out evenly and one ceiling is for each of them, so they must be alike;"
            " choose them with CUDA_VISIBLE_DEVICES, or set hardware.cards=1"
        )
    if hardware.vram_ceiling_gib and bytes_of_gib(hardware.vram_ceiling_gib) > card.total_bytes:
        yield (
            f"hardware.vram_ceiling_gib={hardware.vram_ceiling_gib:g} is more than {card.name} has "
            f"({gib(card.total_bytes):.2f} GiB); lower it or use hardware=auto"
        )
    if hardware.dtype.value == "bfloat16" and not card.has_bfloat16:
        yield f"hardware.dtype=bfloat16 is not supported by {card.name}; set hardware.dtype=float16"


def check_engine(config: RunConfig) -> Iterator[str]:
    """Yield what engine, device, quantisation and number format do not allow together."""
    hardware = config.hardware
    if hardware.engine is Engine.unsloth and hardware.device is Device.cpu:
        yield (
            "hardware.engine=unsloth needs a CUDA card; with hardware=cpu use hardware.engine=auto"
        )
    for lever in MEMORY_LEVERS:
        value = getattr(hardware, lever.name)
        is_used = lever.needs_unsloth and value not in (0, False, "auto")
        if hardware.engine is Engine.transformers and is_used:
            nothing = 0 if lever.counts_layers else "false"
            yield (
                f"{lever.key}={format_value(value)} is a lever of hardware.engine=unsloth; with"
                f" {hardware.engine.value} set it to {nothing}"
            )
    if (
        hardware.engine is Engine.transformers
        and config.model.quantisation is Quantisation.nf4
        and config.lora.bias.value == "all"
    ):
        yield "lora.bias=all cannot be trained on NF4 weights; set lora.bias=none"
    if (
        hardware.engine is Engine.unsloth
        and config.training.gradient_checkpointing is Checkpointing.off
    ):
        yield (
            "training.gradient_checkpointing=off is for hardware.engine=transformers; with unsloth"
            " every layer is kept by hardware.checkpoint_skip_layers=max (or as many as fit: auto);"
            " set gradient_checkpointing=unsloth"
        )
    if hardware.device is Device.cuda and hardware.dtype is Dtype.float32:
        yield (
            "hardware.dtype=float32 is not for a card: plans and kernels are for 16 bits; set"
            " hardware.dtype=bfloat16 or float16"
        )


def check_cards(config: RunConfig) -> Iterator[str]:
    """Yield what several cards cannot do."""
    cards, training = config.hardware.cards, config.training
    if cards == 1:
        return
    if config.hardware.engine is Engine.unsloth:
        yield (
            f"hardware.cards={cards} was never run with hardware.engine=unsloth, which patches one"
            " process for one card; set hardware.engine=transformers, or hardware.cards=1"
        )
    if training.cases_a_step % cards:
        yield (
            f"hardware.cards={cards} does not divide the {training.cases_a_step} cases of a step"
            f" (training.micro_batch={training.micro_batch} x"
            f" training.accumulation={training.accumulation}); change one of the three, so that"
            " every card takes as many"
        )


def check_levers(config: RunConfig) -> Iterator[str]:
    """Yield the memory levers that are no value of theirs, or go with no other that is set."""
    layers = config.model.shape.layers
    for lever in (lever for lever in MEMORY_LEVERS if lever.counts_layers):
        value = getattr(config.hardware, lever.name)
        is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= layers
        if not is_count and value not in lever.words:
            yield (
                f"{lever.key}={value} is not allowed: {config.model.name} has {layers} layers, "
                f"so a number from 0 to {layers}, or {listing(lever.words)}"
            )
    streamed, kept = config.hardware.offload_layers, config.hardware.checkpoint_skip_layers
    if (
        isinstance(streamed, int)
        and isinstance(kept, int)
        and streamed + kept > layers >= max(streamed, kept)
    ):
        yield (
            f"hardware.offload_layers={streamed} and hardware.checkpoint_skip_layers={kept} are"
            f" more than the {layers} layers of {config.model.name}: a streamed layer cannot be"
            " kept; lower one of them"
        )
    trains_streamed_biases = (
        describe_family(config.model.shape).has_attention_biases
        and config.lora.bias is not Bias.none
    )
    if (config.lora.dora or trains_streamed_biases) and isinstance(streamed, int) and streamed > 0:
        given, without = (
            ("dora=true", "dora=false")
            if config.lora.dora
            else (f"bias={config.lora.bias.value}", "bias=none")
        )
        yield (
            f"hardware.offload_layers={streamed} does not go with lora.{given}, which needs the"
            f" weights on the card; set offload_layers to 0 or auto, or lora.{without}"
        )
    for lever in (lever for lever in MEMORY_LEVERS if not lever.counts_layers):
        value = getattr(config.hardware, lever.name)
        if not (isinstance(value, bool) or value in lever.words):
            allowed = ", ".join(("true", "false", *lever.words))
            yield f"{lever.key}={value} is not allowed; allowed are {allowed}"
    if config.hardware.offload_embedding is True and config.model.shape.tied_embeddings:
        yield (
            f"hardware.offload_embedding=true saves nothing: {config.model.name} ties its"
            " embedding to lm_head, which the card needs; set it to auto or false"
        )
    if config.hardware.tile_mlp is True and config.hardware.compile_layers is True:
        yield (
            "hardware.tile_mlp=true does not go with hardware.compile_layers=true; set"
            " compile_layers to auto or false"
        )
    if config.hardware.fp8 in (True, ALL_PASSES) and config.hardware.engine is Engine.unsloth:
        yield from _check_fp8(config)
    if (
        config.hardware.page_optimizer is True
        and config.training.optimizer is Optimizer.adamw_torch
    ):
        yield (
            "hardware.page_optimizer=true pages an 8-bit optimizer; set"
            " training.optimizer=adamw_8bit or page_optimizer=auto"
        )


def check_measured_steps(config: RunConfig) -> Iterator[str]:
    """Yield the entries of `hardware.measured_steps` that are no measured step."""
    for place, entry in enumerate(config.hardware.measured_steps):
        if why := find_problem(entry):
            yield (
                f"hardware.measured_steps[{place}] is no measured step: {why}; medexp.calibrate"
                " writes them, leave it out or calibrate again"
            )


def _check_fp8(config: RunConfig) -> Iterator[str]:
    hardware, lora = config.hardware, config.lora
    unfit = (
        (hardware.dtype is not Dtype.bfloat16, "hardware.dtype", hardware.dtype.value, "bfloat16"),
        (hardware.compile_layers is False, "hardware.compile_layers", "false", "auto"),
        (hardware.tile_mlp is True, "hardware.tile_mlp", "true", "auto"),
        (lora.dropout > 0, "lora.dropout", f"{lora.dropout:g}", "0"),
        (lora.dora, "lora.dora", "true", "false"),
        (lora.bias is not Bias.none, "lora.bias", lora.bias.value, "none"),
    )
    for is_unfit, key, value, instead in unfit:
        if is_unfit:
            yield (
                f"hardware.fp8={format_value(hardware.fp8)} does not go with {key}={value}; set"
                f" {key}={instead}, or hardware.fp8=false"
            )


def check_optimizer(config: RunConfig) -> Iterator[str]:
    """Yield an optimizer that the device does not have."""
    if (
        config.hardware.device is Device.cpu
        and config.training.optimizer is not Optimizer.adamw_torch
    ):
        yield (
            f"training.optimizer={config.training.optimizer.value} runs on CUDA only; "
            "with hardware=cpu set training.optimizer=adamw_torch"
        )
