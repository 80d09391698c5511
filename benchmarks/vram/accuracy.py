"""Predicted against measured reserved peak, for every measured point; needs no card.

    python benchmarks/vram/accuracy.py benchmarks/vram/results/*.json
    python benchmarks/vram/accuracy.py --learn benchmarks/vram/results/*.json

`--learn` asks what a calibration is worth: of each plan in a file the point nearest to 8,192 tokens
is taken for what medexp.calibrate had measured, and moves the prediction of all others of its kind.
"""

import argparse
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from hydra import compose, initialize_config_dir

from medexp.config.changes import change_values
from medexp.config.measured_steps import MeasuredStep
from medexp.config.registration import register_with_hydra
from medexp.config.resolve import resolve
from medexp.config.schema import Engine, RunConfig
from medexp.config.shipped import find_conf_dir
from medexp.planning.budget import compute_budget
from medexp.planning.memory_terms import Levers, Phase
from medexp.system.machine import Gpu, Machine
from medexp.system.units import GIB
from medexp.training.step_measurement import describe_step

A_LARGE_CARD = Machine(1, "any", (Gpu("any", 200 * GIB, has_bfloat16=True),))
NOTHING_SAVED = ["checkpoint_skip_layers=0", "offload_layers=0", "offload_embedding=false"]
NOTHING_SAVED += ["offload_activations=false", "tile_mlp=false", "fp8=false"]
USUAL = 8192  # tokens of a micro-batch, as plans for a card of 6 GB have them
NO_ANSWERS = "evaluation.answers=0"  # none were asked for in front of a measured step


def predict_peak_bytes(point: dict, steps: Sequence[MeasuredStep] = ()) -> int:
    """The planned reserved peak of a training step of `point`, where `steps` were measured."""
    return _predict(point, steps)[0]


def make_step(point: dict) -> MeasuredStep:
    """What the step of `point` says of its formula."""
    _, run, levers = _predict(point, ())
    return describe_step(run, levers, point["train_reserved_bytes"])


def _predict(point: dict, steps: Sequence[MeasuredStep]) -> tuple[int, RunConfig, Levers]:
    shape = [
        f"training.max_seq_tokens={point['seq']}",
        f"training.micro_batch={point['micro_batch']}",
    ]
    overrides = [
        "hardware=h200_141gb",
        *(f"hardware.{variant}" for variant in NOTHING_SAVED),
        *shape,
        NO_ANSWERS,
        *point["overrides"],
    ]
    with initialize_config_dir(str(find_conf_dir()), version_base="1.3"):
        run = resolve(compose("train", overrides), A_LARGE_CARD, Path.cwd(), {})
    run = change_values(run, {"hardware.measured_steps": [*map(asdict, steps)]})
    hardware = run.hardware
    saved = hardware.offload_layers, hardware.offload_embedding, hardware.checkpoint_skip_layers
    compiled = hardware.compile_layers == "auto" and run.hardware.engine is Engine.unsloth
    on_host = hardware.offload_activations is True
    levers = Levers(
        point["micro_batch"],
        2,
        *saved,
        compiled,
        hardware.tile_mlp is True,
        kept_on_host=on_host,
        fp8=False if hardware.fp8 == "auto" else hardware.fp8,
    )
    needed = compute_budget(run, levers)
    return needed.bytes_in(Phase.training), run, levers


def main() -> None:
    """Print a table a file, and its median, worst and lowest error."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--learn", action="store_true", help="with a calibration of each plan")
    args = parser.parse_args()
    register_with_hydra()
    if args.learn:
        print_learnt(args.files)
        return
    for file in args.files:
        points = json.loads(file.read_text())
        errors = []
        print(
            f"\n{file.name}\n\n| run | micro-batch | tokens | rank | measured GiB | predicted GiB |"
            " error % |"
        )
        print("|---|---|---|---|---|---|---|")
        for point in sorted(points, key=lambda row: (row["name"], row["micro_batch"] * row["seq"])):
            measured, predicted = point["train_reserved_bytes"], predict_peak_bytes(point)
            errors.append(100 * (predicted / measured - 1))
            what = f"| {point['name']} | {point['micro_batch']} | {point['seq']} | {point['r']} "
            print(f"{what}| {measured / GIB:.3f} | {predicted / GIB:.3f} | {errors[-1]:+.2f} |")
        sizes = [abs(error) for error in errors]
        worst = f"worst {max(sizes):.2f} %, lowest {min(errors):+.2f} %"
        print(f"\n{len(errors)} points: median error {statistics.median(sizes):.2f} %, {worst}")


def print_learnt(files: Sequence[Path]) -> None:
    """Print, of every point that was not taken for a calibration, the error as planned and with
    what its kind's calibrations say."""
    points = [point for file in files for point in json.loads(file.read_text())]
    plans: dict[tuple[str, ...], list[dict]] = defaultdict(list)
    for point in points:
        plans[tuple(point["overrides"])].append(point)
    taken = [min(plan, key=_distance_from_usual) for plan in plans.values()]
    steps = [make_step(point) for point in taken]
    print("| run | micro-batch | tokens | as planned, % | with a calibration, % |")
    print("|---|---|---|---|---|")
    errors = []
    for point in sorted(points, key=lambda row: (row["name"], row["micro_batch"] * row["seq"])):
        if point in taken:
            continue
        measured = point["train_reserved_bytes"]
        planned, learnt = (
            100 * (predict_peak_bytes(point, known) / measured - 1) for known in ((), steps)
        )
        errors.append((planned, learnt))
        what = f"| {point['name']} | {point['micro_batch']} | {point['seq']} "
        print(f"{what}| {planned:+.2f} | {learnt:+.2f} |")
    names = ("as planned", "with a calibration")
    for name, found in zip(names, zip(*errors, strict=True), strict=True):
        print(
            f"{name}: {len(found)} points, median {statistics.median(map(abs, found)):.2f} %,"
            f" {min(found):+.2f} to {max(found):+.2f} %, under by more than 0.5 %:"
            f" {sum(error < -0.5 for error in found)}"
        )


def _distance_from_usual(point: dict) -> tuple[float, int]:
    """How far a point is from 8,192 tokens, and where two are as far, from few cases."""
    return abs(math.log2(point["micro_batch"] * point["seq"] / USUAL)), -point["micro_batch"]


if __name__ == "__main__":
    main()
