"""Predicted against measured reserved peak, for every measured point; needs no card.

    python benchmarks/vram/accuracy.py benchmarks/vram/results/*.json
    python benchmarks/vram/accuracy.py --learn benchmarks/vram/results/*.json

`--learn` asks what a calibration of two lengths would be worth: of the points that differ in length
and micro-batch alone, the shortest and the longest scale the prediction of those between them.
"""

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir

from medexp.config.registration import register_with_hydra
from medexp.config.resolve import resolve
from medexp.config.schema import Engine
from medexp.config.shipped import find_conf_dir
from medexp.planning.budget import compute_budget
from medexp.planning.memory_terms import Levers, Phase
from medexp.system.machine import Gpu, Machine
from medexp.system.units import GIB

A_LARGE_CARD = Machine(1, "any", (Gpu("any", 200 * GIB, has_bfloat16=True),))
NOTHING_SAVED = ["checkpoint_skip_layers=0", "offload_layers=0", "offload_embedding=false"]
NOTHING_SAVED += ["offload_activations=false", "tile_mlp=false"]
NO_ANSWERS = "evaluation.answers=0"  # none were asked for in front of a measured step


def predict_peak_bytes(point: dict) -> int:
    """The planned reserved peak of a training step of `point`."""
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
    return needed.gpu_bytes(Phase.always) + needed.gpu_bytes(Phase.training)


def main() -> None:
    """Print a table a file, and its median, worst and lowest error."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--learn", action="store_true", help="scale by two points of each plan")
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
    """Print the errors of the points between two others of the same plan: as planned, scaled by the
    mean of what the two ends took, and by a line through both."""
    plans: dict[object, list[tuple[int, int, int]]] = defaultdict(list)
    for file in files:
        for point in json.loads(file.read_text()):
            key = file.name, tuple(point["overrides"]), point["r"]
            tokens, measured = point["micro_batch"] * point["seq"], point["train_reserved_bytes"]
            plans[key].append((tokens, measured, predict_peak_bytes(point)))
    errors: dict[str, list[float]] = {"as planned": [], "one factor": [], "a line": []}
    for points in (points for points in plans.values() if len(points) > 2):
        shortest, *between, longest = sorted(points)
        low, high = shortest[1] / shortest[2], longest[1] / longest[2]
        for tokens, measured, predicted in between:
            reached = (tokens - shortest[0]) / max(1, longest[0] - shortest[0])
            factors = (1.0, (low + high) / 2, low + (high - low) * reached)
            for found, factor in zip(errors.values(), factors, strict=True):
                found.append(100 * (predicted * factor / measured - 1))
    for name, found in errors.items():
        print(
            f"{name:<12} {len(found)} points: median"
            f" {statistics.median(map(abs, found)):.2f} %, {min(found):+.2f} to"
            f" {max(found):+.2f} %, under by more than 0.5 %: {sum(x < -0.5 for x in found)}"
        )


if __name__ == "__main__":
    main()
