"""What training steps were seen to take on a card, and what that says about the formulas of
`step_memory`.

    # written down by medexp.calibrate, and by every run after its rehearsed step
    config.hardware.measured_steps
    # in every later plan of that very step, or of another of its kind
    step = find_measured(config, levers, tokens, formula_bytes)
    factor, source = find_factor(config, levers)

A step is believed as it was measured, and is left room for fragments: a run that was planned with
what the rehearsal of another had taken, 0.1 GiB less than its formula, ran out of memory in its
third step (benchmarks/train). Other steps of its kind (family, engine, compiled or not,
...) are off their formula by about the same share, whatever their length. That share is drawn
towards none: how far a formula may be off, and what one step says of the next, are known from
benchmarks/vram. So a measured step hardly moves a formula that was held against a card, and one
that never was by most of what it saw.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from medexp.config.families.registry import describe_family
from medexp.config.families.sizes import is_on_whole_mlp
from medexp.config.measured_steps import MeasuredStep
from medexp.config.schema import Bias, Engine, RunConfig
from medexp.planning.memory_terms import Levers
from medexp.planning.unfused_memory import is_fused
from medexp.system.private_names import find_installed_version

# Whose versions decide what a step takes.
SIZING_LIBRARIES = ("torch", "transformers", "unsloth", "unsloth_zoo")
# And these files, which say what it takes.
_FORMULAS = (
    "memory_terms.py",
    "pieces.py",
    "pieces_memory.py",
    "step_memory.py",
    "unfused_memory.py",
)
# Shares of a step's bytes, one standard deviation each (benchmarks/vram): what a formula is off, of
# all steps of a kind, and what a step of that kind is off beside. With Unsloth's fused kernels, and
# without, where torch.compile decides what is kept; of a family that was never held against a card.
FUSED_OFF, FUSED_SCATTER = 0.02, 0.03
OFF, SCATTER = 0.06, 0.08
OFF_IF_NEVER_MEASURED = 0.25


def describe_kind(config: RunConfig, levers: Levers) -> str:
    """Return in words what tells steps apart whose formulas are off by different shares."""
    lora = config.lora
    whole_mlp = is_on_whole_mlp(config.model.shape.family, lora.target_modules)
    words = [config.model.shape.family.value, config.hardware.engine.value]
    if config.hardware.engine is Engine.unsloth:
        words += ["compiled" if levers.compiled else "not compiled"]
        words += [] if levers.fp8 is False else [f"fp8={str(levers.fp8).lower()}"]
        words += ["tiled MLP"] if levers.tiled_mlp else []
        words += ["last product"] if config.hardware.recompute_last_product else []
        kept = f"{levers.kept_layers} kept{' on the host' if levers.kept_on_host else ''}"
        words += [kept] if levers.kept_layers else []
    words += [] if whole_mlp else ["attention alone"]
    words += ["DoRA"] if lora.dora else []
    words += ["dropout"] if lora.dropout else []
    words += [] if lora.bias is Bias.none else ["biases"]
    return ", ".join(words)


@cache
def list_installed_versions() -> Mapping[str, str]:
    """Return the versions of SIZING_LIBRARIES that are installed here, and what tells the formulas
    of this medexp from those of another."""
    found = {library: find_installed_version(library) for library in SIZING_LIBRARIES}
    sources = [Path(__file__).with_name(name).read_bytes() for name in _FORMULAS]
    formulas = hashlib.sha256(b"".join(sources)).hexdigest()[:8]
    versions = {library: version for library, version in found.items() if version is not None}
    return versions | {"medexp's formulas": formulas}


def is_current(step: MeasuredStep) -> bool:
    """Return whether `step` counts here: of a library that is installed it was measured with its
    version."""
    installed = list_installed_versions()
    return all(installed.get(name, version) == version for name, version in step.versions.items())


def knows_family(config: RunConfig) -> bool:
    """Return whether a step of this family and engine, of any kind, was measured and counts."""
    begins = f"{config.model.shape.family.value}, {config.hardware.engine.value}"
    return any(
        f"{step.kind},".startswith(f"{begins},") and is_current(step)
        for step in config.hardware.known_steps
    )


def find_measured(
    config: RunConfig, levers: Levers, tokens: int, formula_bytes: int
) -> MeasuredStep | None:
    """Return the last measured step that is the one of `config` with `levers` and so many tokens,
    kept layers and all, for which the formulas say `formula_bytes`; None where there is none."""
    key = levers.micro_batch, tokens, formula_bytes
    steps = _list_of_kind(config, levers)
    same = [step for step in steps if (step.micro_batch, step.tokens, step.planned_bytes) == key]
    return same[-1] if same else None


def find_factor(config: RunConfig, levers: Levers) -> tuple[float, str]:
    """Return by what the formulas of a step of `config` with `levers` are multiplied, kept layers
    left out, and how that is known in words; 1 and "" where no step of that kind was measured."""
    steps = _list_of_kind(config, replace(levers, kept_layers=0))
    if not steps:
        return 1.0, ""
    family, fused = describe_family(config.model.shape), is_fused(config)
    off = (FUSED_OFF if fused else OFF) if family.is_measured else OFF_IF_NEVER_MEASURED
    share = estimate_share(steps, off, FUSED_SCATTER if fused else SCATTER)
    if fused:
        # Tensors are known from the source: less than that was luck with fragments.
        share = max(0.0, share)
    count, date = len(steps), max(step.date for step in steps)
    return 1 + share, f"{count} measured step{'s' if count > 1 else ''} of its kind, {date}"


def _list_of_kind(config: RunConfig, levers: Levers) -> list[MeasuredStep]:
    if not config.hardware.measured_steps:
        return []
    kind = describe_kind(config, levers)
    return [step for step in config.hardware.known_steps if step.kind == kind and is_current(step)]


def estimate_share(steps: Sequence[MeasuredStep], off: float, scatter: float) -> float:
    """Return the share by which a step is expected to take more than its formula says, of the kind
    of `steps`: the posterior mean of a normal level around 0 (`off`), measured with `scatter`; long
    steps count as much more as they take."""
    measured = sum(step.measured_bytes for step in steps)
    planned = sum(step.planned_bytes for step in steps)
    return (measured / planned - 1) / (1 + (scatter / off) ** 2 / len(steps))
