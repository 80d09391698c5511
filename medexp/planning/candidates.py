"""The levers that a config leaves open, in every combination worth looking at. Refuses to say which
is best: `planner` does.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from medexp.config.schema import Device, Dtype, Engine, Optimizer, Planning, RunConfig
from medexp.planning.budget import Budgets
from medexp.planning.limits import card_room_bytes, host_room_bytes
from medexp.planning.memory_terms import Levers
from medexp.planning.step_memory import is_offloaded, waiting_bytes
from medexp.planning.unfused_memory import can_stream, is_fused


def list_candidates(budgets: Budgets, last_resorts: bool) -> Iterator[Levers]:
    """Yield all levers worth looking at of the run of `budgets`."""
    config = budgets.config
    effective = config.training.cases_a_step
    choices = product(
        _list_micro_batches(config),
        _list_embedding_places(config),
        _list_variants(config, last_resorts),
        _list_streamed_counts(config),
    )
    for size, on_host, (compiled, tiled, paged, fp8), streamed in choices:
        plain = Levers(
            size, effective // size, streamed, on_host, 0, compiled, tiled, paged, fp8=fp8
        )
        yield from _add_kept_layers(budgets, plain)


def least_memory(budgets: Budgets) -> Iterator[Levers]:
    """Return the levers that take least memory of those the config leaves open: as few cases at a
    time as may be, all that can be streamed streamed, nothing kept that was not asked for, and that
    on the host if it may be."""
    config = budgets.config
    size, asked = _list_micro_batches(config)[0], config.hardware.checkpoint_skip_layers
    streamed = min(
        max(_list_streamed_counts(config)),
        config.model.shape.layers - (asked if isinstance(asked, int) else 0),
    )
    for compiled, tiled, paged, fp8 in _list_variants(config, last_resorts=True):
        yield from _add_kept_layers(
            budgets,
            Levers(
                size,
                config.training.cases_a_step // size,
                streamed,
                max(_list_embedding_places(config)),
                0,
                compiled,
                tiled,
                paged,
                fp8=fp8,
            ),
        )


def is_by_hand(config: RunConfig) -> bool:
    """Return whether micro-batch and accumulation stay as the config has them. On a CPU they always
    do."""
    return config.training.plan is Planning.manual or config.hardware.device is Device.cpu


def _list_micro_batches(config: RunConfig) -> list[int]:
    """Return micro-batches that divide a card's part of the effective batch, the smallest first."""
    part = config.training.cases_a_step // config.hardware.cards
    return (
        [config.training.micro_batch]
        if is_by_hand(config)
        else [size for size in range(1, part + 1) if part % size == 0]
    )


def _list_variants(
    config: RunConfig, last_resorts: bool
) -> list[tuple[bool, bool, bool, bool | str]]:
    """Return (compiled, tiled MLP, paged optimizer, products in FP8), what takes least memory last.
    A tiled MLP does not go with compiled layers, products in FP8 go with no others, and what
    Unsloth does not fuse takes least when it is compiled."""
    unsloth, fused = config.hardware.engine is Engine.unsloth, is_fused(config)
    compiled = _list_settings(
        config.hardware.compile_layers,
        [unsloth] if not fused else [True, False] if unsloth else [False],
    )
    tiled = _list_settings(
        config.hardware.tile_mlp, [False, True] if unsloth and fused and last_resorts else [False]
    )
    can_page = config.training.optimizer is Optimizer.adamw_8bit and last_resorts
    paged = _list_settings(config.hardware.page_optimizer, [False, True] if can_page else [False])
    asked = config.hardware.fp8
    can_round = asked == "auto" and _can_round_products(config)
    fp8 = [False, True] if can_round else [False if asked == "auto" else asked]
    return [
        variant
        for variant in product(compiled, tiled, paged, fp8)
        if not (variant[0] and variant[1]) and (variant[0] or not variant[3])
    ]


def _can_round_products(config: RunConfig) -> bool:
    """Return whether products with frozen weights can be computed in FP8: in bfloat16 runs whose
    adapters Unsloth fuses, without dropout."""
    hardware = config.hardware
    return (
        hardware.engine is Engine.unsloth
        and hardware.dtype is Dtype.bfloat16
        and is_fused(config)
        and config.lora.dropout == 0
    )


def _list_settings(lever: object, choices: list[bool]) -> list[bool]:
    return [lever] if isinstance(lever, bool) else choices


def _list_streamed_counts(config: RunConfig) -> range | list[int]:
    """Return how many layers may be streamed: Unsloth leaves at least one on the card."""
    asked = config.hardware.offload_layers
    if isinstance(asked, int):
        return [asked]
    return range(config.model.shape.layers) if can_stream(config) else [0]


def _list_embedding_places(config: RunConfig) -> list[bool]:
    can = config.hardware.engine is Engine.unsloth and not config.model.shape.tied_embeddings
    return _list_settings(config.hardware.offload_embedding, [False, True] if can else [False])


def _add_kept_layers(budgets: Budgets, plain: Levers) -> Iterator[Levers]:
    """Return `plain`, with what it keeps on the card or on the host."""
    asked = budgets.config.hardware.offload_activations
    if asked is not True:
        yield from (replace(plain, kept_layers=kept) for kept in _list_kept_counts(budgets, plain))
    if asked is not False:
        yield from (
            replace(plain, kept_on_host=True, kept_layers=kept)
            for kept in _list_host_kept_counts(budgets, plain)
        )


def _list_host_kept_counts(budgets: Budgets, plain: Levers) -> list[int]:
    """Return as many of the layers that are not streamed as the host holds, or a part of them where
    the link is slow."""
    config = budgets.config
    hardware, most = config.hardware, config.model.shape.layers - plain.streamed_layers
    asked, must = hardware.checkpoint_skip_layers, hardware.offload_activations is True
    if not (must or _saves_to_host(config, plain)):
        return []
    if isinstance(asked, int):
        return [asked] if asked <= most and (asked or must) else []
    if asked == "max":
        return [most]
    if hardware.host_ram_gib is None or is_by_hand(config):
        return [0] if must else []
    # One of them waits.
    two = replace(plain, kept_on_host=True, kept_layers=2)
    room = host_room_bytes(config, two) - budgets.of(plain).host_bytes
    most = min(most, 1 + max(0, room) // waiting_bytes(config, two))
    return sorted({most, 2 * most // 3, most // 3} - {0, 1}) or ([0] if must else [])


def _saves_to_host(config: RunConfig, plain: Levers) -> bool:
    """Return whether kept layers may leave what they save on the host: only compiled layers that
    Unsloth checkpoints and fuses were measured, and not with products in FP8, where the one step
    that was tried took more than was planned (benchmarks/vram)."""
    return is_offloaded(config) and plain.compiled and is_fused(config) and not plain.fp8


def _list_kept_counts(budgets: Budgets, plain: Levers) -> list[int]:
    """Return how many layers to keep: none, or as many as the ceiling leaves room for; streamed
    layers cannot be kept."""
    config = budgets.config
    asked = config.hardware.checkpoint_skip_layers
    most = config.model.shape.layers - plain.streamed_layers
    if isinstance(asked, int):
        return [asked] if asked <= most else []
    if asked == "max":
        return [most]
    if (
        not (plain.compiled and is_fused(config))
        or config.hardware.vram_ceiling_gib is None
        or is_by_hand(config)
    ):
        return [0]
    ceiling = card_room_bytes(config, config.hardware.vram_ceiling_gib)
    none, one, two = (budgets.of(replace(plain, kept_layers=kept)).peak_bytes for kept in (0, 1, 2))
    room = 0 if one > ceiling else 1 + (ceiling - one) // max(1, two - one)
    return [0, min(most, room)] if room and none <= ceiling and most else [0]
