"""python -m medexp.calibrate: what this machine's card really does, for better predictions of
memory and speed, and an honest ceiling.

    # kept; every later plan uses what steps took, and hardware=auto the rates
    python -m medexp.calibrate
    # the steps and the products of another model, whose family steps were not measured of
    python -m medexp.calibrate model=qwen3_4b
    # rates alone, in seconds
    python -m medexp.calibrate calibrate.memory=false

Measures what two training steps take, with random weights of the model's widths; matrix products by
shape, copies on the card and over its link, and what is free once CUDA's context is there.
"""

import time
from dataclasses import asdict, replace
from pathlib import Path

from medexp.cli.app import run_command
from medexp.cli.composition import CommandSpec
from medexp.config.command_options import CalibrateOptions
from medexp.config.invocation import Invocation
from medexp.config.measured_preset import build_measured_preset
from medexp.config.schema import Device, RunConfig
from medexp.errors import BadInput, MachineError, TrainingDiverged, VramCeilingError
from medexp.models import gpu_rates
from medexp.models.gpu_rates import ProductRate
from medexp.system import machine
from medexp.system.console import DONE, NOTE, Console
from medexp.system.files import write_text_atomic
from medexp.system.home import short
from medexp.system.machine import Calibration, Gpu
from medexp.system.private_names import find_installed_version
from medexp.system.units import GIB, gib
from medexp.training.step_measurement import PARTS, measure_steps, remember_steps

PLANNED_TOKENS = 4096  # the products of most plans are about this long
USUALLY_TAKEN_BYTES = GIB  # the CUDA context and a desktop take less


def calibrate(config: RunConfig, options: CalibrateOptions, console: Console) -> Calibration:
    """Measure the first card and keep the figures for every later run.

    Raises: MachineError without a card.
    """
    if config.hardware.device is not Device.cuda:
        raise MachineError(
            "medexp.calibrate measures a CUDA card and this machine has none; hardware=cpu needs no"
            " calibration"
        )
    if options.memory:
        # First: how the allocator works is settled as the card is first touched.
        _measure_memory(config, console)
    found, measured, pageable = _measure_rates(config, console)
    card = machine.read().gpus[0]
    rows = [
        (
            f"{product.tokens:,} x {product.inputs:,} by {product.outputs:,}",
            f"{product.tflops:.0f}",
        )
        for product in measured
    ]
    console.table(
        f"{card.name}, {config.hardware.dtype.value}, layers of {config.model.name}",
        ("product", "TFLOP/s"),
        rows,
    )
    console.table("", ("", ""), _rows(found, pageable))
    if (taken := card.total_bytes - found.free_bytes) > USUALLY_TAKEN_BYTES:
        console.info(
            f"! {gib(taken):.2f} GiB of {card.name} were taken when this was measured, and"
            " hardware=auto plans with the rest: if other programs had them, close these and"
            " calibrate again"
        )
    kept = machine.save_calibration(card, found)
    preset = _write_preset(config, card, found, kept.parent)
    console.result(
        f"Kept in {short(kept)}; hardware=auto uses it. For another preset:\n{overrides(found)}\n"
        f"As a preset of its own, to use elsewhere or to send: {short(preset)}"
    )
    return found


def _measure_rates(
    config: RunConfig, console: Console
) -> tuple[Calibration, list[ProductRate], float]:
    """Return the card's figures, those of every product, and GB/s to the card from pageable
    memory."""
    shape = config.model.shape
    with console.status("starting CUDA"):
        free_bytes = gpu_rates.read_free_bytes()
    with console.progress("matrix products", len(gpu_rates.TOKENS)) as advance:
        measured: list[ProductRate] = []
        for product in gpu_rates.measure_products(shape, config.hardware.dtype):
            if measured and measured[-1].tokens != product.tokens:
                advance(1)
            measured.append(product)
        advance(1)
    with console.status("copies"):
        pinned, pageable = (
            gpu_rates.measure_link_gb_per_s(pinned=True),
            gpu_rates.measure_link_gb_per_s(pinned=False),
        )
        on_card = gpu_rates.measure_memory_gb_per_s()
    free_bytes = min(free_bytes, gpu_rates.read_free_bytes())
    found = Calibration(
        round(gpu_rates.compute_layer_tflops(shape, measured, PLANNED_TOKENS), 1),
        round(on_card),
        round(pinned, 1),
        free_bytes,
    )
    return found, measured, pageable


def _measure_memory(config: RunConfig, console: Console) -> None:
    """Measure what steps of the model of `config` take, say it, and keep it; where they cannot be
    measured, why: rates are measured all the same."""
    try:
        with console.progress("training steps", len(PARTS)) as advance:
            steps = measure_steps(config, lambda: advance(1))
    except (BadInput, VramCeilingError, TrainingDiverged) as error:
        console.info(f"what training steps take was not measured: {error}", NOTE)
        return
    rows = [
        (
            f"{step.tokens:,} tokens",
            f"{gib(step.measured_bytes):.3f}",
            f"{gib(step.planned_bytes):.3f}",
            f"{100 * (step.planned_bytes / step.measured_bytes - 1):+.1f} %",
        )
        for step in steps
    ]
    title = f"A training step of {steps[0].kind}; GiB beside what is always held"
    console.table(title, ("step", "measured", "planned", "off by"), rows)
    console.info(f"kept in {short(remember_steps(steps))}; every later plan here uses it", DONE)


def _write_preset(config: RunConfig, card: Gpu, found: Calibration, folder: Path) -> Path:
    """Write the figures as a hardware preset into `folder`; return the file."""
    libraries = ("medexp", "torch")
    card = replace(card, measured_steps=machine.read_measured_steps(card.name))
    name, text = build_measured_preset(
        card,
        found,
        config.hardware.dtype.value,
        config.model.name,
        time.strftime("%Y-%m-%d"),
        {library: find_installed_version(library) or "of a checkout" for library in libraries},
    )
    file = folder / f"{name}.yaml"
    write_text_atomic(file, text)
    return file


def overrides(found: Calibration) -> str:
    """The figures as overrides of any command."""
    figures = asdict(found)
    del figures["free_bytes"]
    return " ".join(f"hardware.{name}={value:g}" for name, value in figures.items())


def _rows(found: Calibration, pageable: float) -> list[tuple[str, str]]:
    return [
        (f"a layer's products at {PLANNED_TOKENS:,} tokens", f"{found.matmul_tflops:.0f} TFLOP/s"),
        ("memory of the card, read and written", f"{found.memory_gb_per_s:,.0f} GB/s"),
        ("host to card, pinned memory", f"{found.host_link_gb_per_s:.1f} GB/s"),
        ("host to card, pageable memory", f"{pageable:.1f} GB/s"),
        ("free on the card, context and kernels loaded", f"{gib(found.free_bytes):.2f} GiB"),
    ]


def _run(config: RunConfig, invocation: Invocation[CalibrateOptions, None]) -> float:
    return calibrate(config, invocation.options, Console()).matmul_tflops


COMMAND: CommandSpec[CalibrateOptions, None] = CommandSpec("calibrate", CalibrateOptions)


def main() -> None:
    """Run the command that the command line describes; ends the process."""
    run_command(_run, COMMAND)


if __name__ == "__main__":
    main()
