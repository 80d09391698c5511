"""How far the card reaches: the largest values that fit, and for a run that does not, what stands
in its way and what would fit.

Every value offered was tried: it fits with the rest of the run as it is.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from medexp.config.levers import LEVER_NAMES
from medexp.config.schema import Device, Planning, RunConfig
from medexp.errors import VramPlanError
from medexp.planning.budget import layer_bytes
from medexp.planning.candidates import least_memory
from medexp.planning.limits import (
    PINNED_SHARE,
    card_room_bytes,
    error_factor,
    exceeds_ceiling,
    fits,
    host_beside_bytes,
    host_room_bytes,
)
from medexp.planning.memory_terms import Phase
from medexp.planning.step_time import Plan, Predictions, predict_plan
from medexp.system.units import GIB

# Tokens, rank: what is looked at.
LONGEST, WIDEST = 131_072, 1024
# Values by key, each of which makes a run fit.
Fitting = dict[str, int | str]


def resize_run(config: RunConfig, rank: int | None = None, seq: int | None = None) -> RunConfig:
    """Return `config` at another LoRA rank or sequence length; None leaves it."""
    lora = config.lora if rank is None else replace(config.lora, r=rank)
    training = config.training if seq is None else replace(config.training, max_seq_tokens=seq)
    return replace(config, lora=lora, training=training)


def find_longest_that_fits(config: RunConfig) -> int | None:
    """Return the longest `training.max_seq_tokens`, in steps of 64, for which some plan fits; None
    if not even 64 does."""
    most = _find_largest(lambda count: resize_run(config, seq=64 * count), LONGEST // 64)
    return 64 * most if most else None


def find_largest_rank_that_fits(config: RunConfig) -> int | None:
    """Return the largest `lora.r` for which some plan fits; None if not even 1 does."""
    return _find_largest(lambda rank: resize_run(config, rank=rank), WIDEST) or None


def suggest_what_fits(config: RunConfig) -> Fitting:
    """Return what would make `config`, which does not fit, fit by itself: fewer questions at a time
    where measuring or answering takes most; the longest sequence at this rank, the largest rank at
    this length; levers set by hand that could be left to the planner."""
    sizes = {
        "training.max_seq_tokens": find_longest_that_fits(config),
        "lora.r": find_largest_rank_that_fits(config),
    }
    return (
        _suggest_for_evaluation(config)
        | {key: value for key, value in sizes.items() if value is not None}
        | dict(_suggest_levers(config))
    )


def make_refusal(config: RunConfig, plans: Sequence[Plan]) -> VramPlanError:
    """Return the error of a run for which none of `plans` fits: what is short, and what
    would fit."""
    nearest = suggest_what_fits(config)
    ways = [f"{key}={value}" for key, value in nearest.items()] or [*_suggest_open_levers(config)]
    hint = f"Would fit: {' or '.join(ways) or 'a smaller model or a larger card'}"
    least = min(plans, key=lambda plan: plan.budget.peak_bytes)
    if not exceeds_ceiling(config, least.budget.peak_bytes):
        return VramPlanError(f"{_describe_host_shortage(config, plans)}. {hint}", nearest)
    term = least.budget.largest()
    return VramPlanError(
        f"the plan that needs least takes {least.budget.peak_bytes / GIB:.2f} GiB and"
        f" hardware.vram_ceiling_gib is {config.hardware.vram_ceiling_gib:g}"
        f" ({(error_factor(config) - 1) * 100:.0f} % is left for error)."
        f" Largest term: {term.name}, {term.num_bytes / GIB:.2f} GiB. {hint}",
        nearest,
    )


def _suggest_for_evaluation(config: RunConfig) -> Fitting:
    """Return a smaller batch of held-out cases, or shorter ones; nothing where a training step
    takes most."""
    least = min(_find_least_memory(config), key=lambda plan: plan.budget.peak_bytes)
    if least.budget.bytes_in(Phase.training) == least.budget.peak_bytes:
        return {}
    size = _find_largest(
        lambda count: _shrink_evaluation(config, batch_size=count), config.evaluation.batch_size - 1
    )
    if size:
        return {"evaluation.batch_size": size}
    steps = _find_largest(
        lambda count: _shrink_evaluation(config, max_seq_tokens=64 * count),
        (config.evaluation.max_seq_tokens - 1) // 64,
    )
    return {"evaluation.max_seq_tokens": 64 * steps} if steps else {}


def _shrink_evaluation(config: RunConfig, **values: Any) -> RunConfig:
    return replace(config, evaluation=replace(config.evaluation, **values))


def _suggest_levers(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Yield each setting made by hand that alone stands in the way; on a CPU nothing is left to the
    planner."""
    if config.lora.dora and _fits(replace(config, lora=replace(config.lora, dora=False))):
        yield "lora.dora", "false"
    if config.hardware.device is Device.cpu:
        return
    for name in LEVER_NAMES:
        if getattr(config.hardware, name) != "auto" and _fits(_leave_open(config, [name])):
            yield f"hardware.{name}", "auto"
    if config.training.plan is Planning.manual and _fits(
        replace(config, training=replace(config.training, plan=Planning.fastest))
    ):
        yield "training.plan", "fastest"


def _suggest_open_levers(config: RunConfig) -> Iterator[str]:
    """Yield the advice to leave all levers open, where no single one helps."""
    if config.hardware.device is Device.cuda and _fits(
        replace(
            _leave_open(config, LEVER_NAMES),
            training=replace(config.training, plan=Planning.fastest),
        )
    ):
        yield "training.plan=fastest with the levers on auto"


def _leave_open(config: RunConfig, names: Sequence[str]) -> RunConfig:
    changes: dict[str, Any] = dict.fromkeys(names, "auto")
    return replace(config, hardware=replace(config.hardware, **changes))


def _find_largest(trial: Callable[[int], RunConfig], most: int) -> int:
    """Return the largest number up to `most` whose trial fits, 0 if none does; what fits at a
    number fits at every smaller one."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if _fits(trial(middle)):
            low = middle
        else:
            high = middle - 1
    return low


def _fits(config: RunConfig) -> bool:
    return any(
        fits(config, plan) or fits(config, _stream_fewer_layers(config, plan))
        for plan in _find_least_memory(config)
    )


def _find_least_memory(config: RunConfig) -> Iterator[Plan]:
    predictions = Predictions(config)
    return map(predictions.of, least_memory(predictions.budgets))


def _stream_fewer_layers(config: RunConfig, plan: Plan) -> Plan:
    """Return `plan` with as many layers back on the card as the ceiling leaves room for: the host
    may be what is short."""
    if config.hardware.vram_ceiling_gib is None or isinstance(config.hardware.offload_layers, int):
        return plan
    room = card_room_bytes(config, config.hardware.vram_ceiling_gib) - plan.budget.peak_bytes
    back = min(plan.levers.streamed_layers, max(0, room) // layer_bytes(config)[0])
    return (
        predict_plan(
            config, replace(plan.levers, streamed_layers=plan.levers.streamed_layers - back)
        )
        if back
        else plan
    )


def _describe_host_shortage(config: RunConfig, plans: Sequence[Plan]) -> str:
    """Return by how much the host is short where the card is not, for the plan under the ceiling
    that needs least of the host."""
    under = [plan for plan in plans if not exceeds_ceiling(config, plan.budget.peak_bytes)]
    least = min(under, key=lambda plan: plan.budget.host_bytes)
    ram, levers = config.hardware.host_ram_gib or 0, least.levers
    needs = f"{least.budget.host_bytes / GIB:.1f} GiB"
    room = f"{host_room_bytes(config, levers) / GIB:.1f} GiB"
    has = f"{room} may be used: hardware.host_ram_gib is {ram:g} and"
    beside = f"{host_beside_bytes(config) / GIB:.0f} GiB are for the process"
    if config.hardware.device is Device.cpu:
        return f"the run needs {needs} of memory and {has} {beside}"
    waits = (
        f", the activations of {spell_layers(levers.kept_layers)}" if levers.kept_on_host else ""
    )
    why = f"{PINNED_SHARE:.0%} of it may be pinned" if levers.kept_on_host else beside
    return (
        f"what is left off the card needs {needs} of host memory"
        f" ({spell_layers(levers.streamed_layers)} streamed{waits}) and {has} {why}; a higher"
        " hardware.vram_ceiling_gib leaves less there"
    )


def spell_layers(count: int) -> str:
    """Return so many layers in words."""
    return f"{count} layer{'' if count == 1 else 's'}"
