"""What training steps take on this machine's card, for plans to learn from: two of a shortened
model of random weights, and the rehearsed step of every run.
"""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from medexp.config.changes import change_values
from medexp.config.measured_steps import MeasuredStep
from medexp.config.schema import BatchBy, Engine, RunConfig
from medexp.data.encoding import EncodedCase
from medexp.errors import MachineError
from medexp.evaluation.losses import measure_case_losses
from medexp.models import backend, loading, memory_guard
from medexp.models.adapter_model import AdapterModel
from medexp.models.memory_guard import Meter, memory_phase
from medexp.models.random_decoder import shorten, write_random_decoder
from medexp.models.tokenizer import load_tokenizer
from medexp.models.weights import Weights
from medexp.planning import planner
from medexp.planning.budget import compute_budget
from medexp.planning.memory_terms import Levers, Phase
from medexp.planning.step_correction import describe_kind, list_installed_versions
from medexp.planning.step_memory import count_formula_bytes
from medexp.system import machine
from medexp.training import trainer

# What `measure_steps` does, one after the other.
PARTS = ("the training stack", "a loaded model", "a long step", "a short step")
# By how much the shorter of the two steps is shorter than the one of the plan.
SHORTER = 4
# The first step of a process makes what later ones find there.
STEPS = 2
# Of a step that is tried, not trained: the cases of each micro-batch as given, at the full rate.
TRIED_ALONE: Mapping[str, object] = {
    "training.batch_by": BatchBy.cases,
    "training.warmup_steps": 0,
    "training.warmup_ratio": None,
}
# Nothing is learnt of a micro-batch that has a smaller share of its tokens with padding.
LEAST_FULL = 0.9


def describe_step(config: RunConfig, levers: Levers, peak_bytes: int) -> MeasuredStep:
    """Return what a step of `config` with `levers`, all its cases as long as they may be, says of
    the formulas, where the allocator's peak was `peak_bytes` of the card."""
    # Nothing was answered in front of it.
    config = change_values(config, {"hardware.measured_steps": [], "evaluation.answers": 0})
    planned = count_formula_bytes(config, levers)
    # What is always held is exact.
    beside = compute_budget(config, levers).bytes_in(Phase.training) - planned
    return MeasuredStep(
        kind=describe_kind(config, levers),
        micro_batch=levers.micro_batch,
        tokens=levers.micro_batch * config.training.max_seq_tokens,
        planned_bytes=planned,
        measured_bytes=max(1, peak_bytes - beside),
        date=time.strftime("%Y-%m-%d"),
        versions=dict(list_installed_versions()),
    )


def remember_steps(steps: Sequence[MeasuredStep]) -> Path:
    """Keep `steps` for later plans on cards like this machine's first; return the file."""
    return machine.save_measured_steps(machine.read().gpus[0].name, [*map(asdict, steps)])


def describe_rehearsal(
    config: RunConfig, levers: Levers, rows: Sequence[EncodedCase], peak_bytes: int
) -> MeasuredStep | None:
    """Return `describe_step` of a rehearsed step whose micro-batch are `rows`; None where they are
    too different in length to say what padding makes of them."""
    lengths = [len(row.input_ids) for row in rows]
    longest = max(lengths)
    if sum(lengths) < LEAST_FULL * longest * len(rows):
        return None
    config = change_values(config, {"training.max_seq_tokens": longest})
    return describe_step(config, replace(levers, micro_batch=len(rows)), peak_bytes)


def measure_steps(config: RunConfig, advance: Callable[[], None]) -> list[MeasuredStep]:
    """Return what a step with as many tokens as the plan of `config` has, and a shorter one, take
    of the card; `advance` is called after each of PARTS. Caps the allocator of this process.

    The model has the widths of that of `config`, few of its layers and random weights: nothing is
    downloaded.
    Raises: VramPlanError where nothing is planned to fit; VramCeilingError where a step does not.
    """
    planned = planner.choose_plan(config)[0].levers
    small = _shrink(config, planned)
    machine.cache_dir().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=machine.cache_dir(), prefix="random-") as folder:
        # Unsloth puts its own parts into a family's modules, which nobody may have loaded before.
        writer = get_context("spawn").Process(
            target=write_random_decoder, args=(small.model.shape, small.hardware, Path(folder))
        )
        writer.start()
        meter = memory_guard.cap_allocator(small.hardware)
        modules = backend.load_backend(small.hardware, machine.cache_dir())
        writer.join()
        if writer.exitcode:
            raise MachineError("a model of random weights could not be written; see above")
        advance()
        found = Weights(folder, None)
        model = loading.load_model(small, found, load_tokenizer(found, modules), modules)
    advance()
    steps: list[MeasuredStep] = []
    for place, (micro_batch, seq) in enumerate(_list_batches(config, planned)):
        run = change_values(
            small, {"training.micro_batch": micro_batch, "training.max_seq_tokens": seq}
        )
        with memory_phase(Phase.training, f"a step of {micro_batch} x {seq:,} tokens", meter):
            # A second length is compiled for any length, once, which takes memory of its own.
            for _ in range(1 + (place > 0)):
                _train(model, run, meter)
        steps.append(describe_step(run, _levers_of(run), meter.phase_peak_bytes()))
        advance()
    del model
    meter.restart()
    return steps


def _list_batches(config: RunConfig, planned: Levers) -> list[tuple[int, int]]:
    """Return (cases, tokens of each) of the two micro-batches, the longer one first, as in a run;
    the shorter one has a part of its cases, or shorter ones where it has one."""
    cases, seq = planned.micro_batch, config.training.max_seq_tokens
    shorter = (cases // SHORTER, seq) if cases >= SHORTER else (1, cases * seq // SHORTER)
    return [(cases, seq), shorter]


def _levers_of(run: RunConfig) -> Levers:
    """Return the levers of a `run` of `_shrink`."""
    hardware = run.hardware
    return Levers(
        run.training.micro_batch,
        run.training.accumulation,
        embedding_on_host=hardware.offload_embedding,
        compiled=hardware.compile_layers,
        tiled_mlp=hardware.tile_mlp,
        fp8=hardware.fp8,
    )


def _shrink(config: RunConfig, planned: Levers) -> RunConfig:
    """Return `config` with a shortened model whose layers compute as in the plan, nothing kept, and
    as little else on the card as can be."""
    with_unsloth = config.hardware.engine is Engine.unsloth
    return change_values(
        config,
        {
            "model.shape": shorten(config.model.shape),
            "hardware.offload_layers": 0,
            "hardware.offload_embedding": with_unsloth and not config.model.shape.tied_embeddings,
            "hardware.checkpoint_skip_layers": 0,
            "hardware.offload_activations": False,
            "hardware.compile_layers": planned.compiled,
            "hardware.fp8": planned.fp8,
            "hardware.tile_mlp": planned.tiled_mlp,
            "hardware.page_optimizer": False,
            "lora.start_from": None,
            "training.accumulation": 2,
            **TRIED_ALONE,
        },
    )


def _train(model: AdapterModel, run: RunConfig, meter: Meter) -> None:
    """Take STEPS steps on cases as long as they may be, after a held-out loss as every run has it;
    `meter` begins anew in between."""
    import torch

    count = STEPS * run.training.cases_a_step
    ids: Any = torch.randint(4, 250, (count, run.training.max_seq_tokens)).tolist()
    rows = [EncodedCase(row, row, 1) for row in ids]
    measure_case_losses(model, rows[:1], 1)
    meter.restart()
    trainer.fit(model, rows, run, None, None, [])
