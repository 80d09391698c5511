"""The rules of what is trained and how: steps, schedule, the adapter and the family it is for."""

from collections.abc import Callable, Iterator
from operator import attrgetter

from medexp.config.adapter_init import explain_init, is_offered_init
from medexp.config.families.registry import describe_family
from medexp.config.families.sizes import PROJECTIONS, list_linear_sizes
from medexp.config.flatten import format_value
from medexp.config.schema import (
    Dtype,
    Engine,
    RunConfig,
    Schedule,
)
from medexp.errors import listing, nearest


def _check_one_of(
    config: RunConfig,
    first: str,
    second: str,
    remedy: str = "",
    spell: Callable[[object], str] = format_value,
) -> Iterator[str]:
    """Yield what is wrong where both or neither of two keys are set."""
    values = {key: attrgetter(key)(config) for key in (first, second)}
    if (values[first] is None) == (values[second] is None):
        given = " and ".join(f"{key}={spell(value)}" for key, value in values.items())
        yield f"{given}: exactly one of them must be set and the other null{remedy}"


def check_steps(config: RunConfig) -> Iterator[str]:
    """Yield a length that is given twice, or not at all."""
    yield from _check_one_of(config, "training.max_steps", "training.epochs", spell=str)


def check_schedule(config: RunConfig) -> Iterator[str]:
    """Yield a warm-up or an end of the learning rate that the schedule cannot have."""
    training = config.training
    remedy = "; add training.warmup_steps=null where a share of the steps is meant"
    yield from _check_one_of(config, "training.warmup_steps", "training.warmup_ratio", remedy)
    if training.min_lr_ratio and training.schedule not in (Schedule.linear, Schedule.cosine):
        yield (
            f"training.min_lr_ratio={training.min_lr_ratio:g} is where a rate that falls ends and"
            f" training.schedule={training.schedule.value} does not fall; set"
            " training.min_lr_ratio=0, or training.schedule=linear or cosine"
        )


def check_adapter(config: RunConfig) -> Iterator[str]:
    """Yield settings of the adapter that contradict each other or change the base."""
    lora = config.lora
    remedy = "; add lora.alpha=null where alpha is to follow the rank"
    yield from _check_one_of(config, "lora.alpha", "lora.alpha_ratio", remedy)
    if lora.alpha_ratio is not None and lora.rank_stabilised:
        yield (
            f"lora.alpha_ratio={lora.alpha_ratio:g} keeps alpha / r the same for every rank and"
            " lora.rank_stabilised=true scales by alpha / sqrt(r), which would grow with it; set"
            " lora.alpha=NUMBER lora.alpha_ratio=null, or lora.rank_stabilised=false"
        )
    init = lora.init_lora_weights
    if not is_offered_init(init):
        yield (
            f"lora.init_lora_weights={format_value(init)} is not offered: {explain_init(init)};"
            " allowed are true, gaussian"
        )
    elif init is not True and lora.start_from is not None:
        yield (
            f"lora.init_lora_weights={init} has no effect with lora.start_from={lora.start_from},"
            " which brings both matrices; set lora.init_lora_weights=true"
        )


def check_target_modules(config: RunConfig) -> Iterator[str]:
    """Yield target modules that the family of models has not."""
    shape, targets = config.model.shape, config.lora.target_modules
    allowed = list(dict.fromkeys((*PROJECTIONS, *list_linear_sizes(shape))))
    if not targets:
        yield f"lora.target_modules is empty; allowed are {listing(allowed)}"
    for name in targets:
        if name not in allowed:
            yield (
                f"lora.target_modules has {name}; allowed are"
                f" {listing(allowed)}{nearest(name, allowed)}"
            )
    for fused in describe_family(shape).fused:
        given = [name for name in fused.parts if name in targets]
        if given and len(given) < len(fused.parts) and fused.name not in targets:
            missing = [name for name in fused.parts if name not in given]
            yield (
                f"lora.target_modules has {listing(given)} without {listing(missing)}, and in"
                f" model={config.model.name} they are one matrix, {fused.name}; name all of"
                f" {listing(fused.parts)}, or none"
            )


def check_family(config: RunConfig) -> Iterator[str]:
    """Unsloth has no kernels of its own for some families, and some overflow in float16."""
    hardware, family = config.hardware, config.model.shape.family.value
    described = describe_family(config.model.shape)
    if hardware.dtype is Dtype.float16 and not described.fits_float16:
        yield (
            f"hardware.dtype=float16 does not hold the activations of family {family}"
            f" (model={config.model.name}); set hardware.dtype=bfloat16 on a card that has it (RTX"
            " 30 series and later), or choose another model"
        )
    if hardware.engine is not Engine.unsloth or described.runs_fused_kernels:
        return
    for name in ("tile_mlp", "offload_activations", "fp8"):
        if (value := getattr(hardware, name)) not in (False, "auto"):
            yield (
                f"hardware.{name}={format_value(value)} needs Unsloth's own kernels, which it has"
                f" not for family {family} (model={config.model.name}); set it to auto or false"
            )
