"""Measure what training takes of host memory without a card, a process a point: resident memory
before the model is loaded, and its peaks in training steps and while held-out loss is measured.
Linux only (/proc/self/clear_refs resets a process's peak).

    python benchmarks/vram/on_cpu.py --out benchmarks/vram/results/2026-11-23_cpu.json

Every sequence is full; two steps of one micro-batch each. Predicted:
`medexp.planning.compute_budget`.
"""

import argparse
import gc
import json
import subprocess
import sys
from pathlib import Path

from hydra import compose, initialize_config_dir

from medexp.models.tokenizer import load_tokenizer
from medexp.system.units import GIB

POINTS = [  # micro-batch, tokens, rank, gradient checkpointing
    (1, 384, 16, "off"),
    (1, 640, 16, "off"),
    (2, 384, 16, "off"),
    (2, 640, 16, "off"),
    (4, 384, 16, "off"),
    (4, 640, 16, "off"),
    (2, 640, 64, "off"),
    (2, 640, 16, "standard"),
    (4, 640, 16, "standard"),
    (1, 1280, 16, "standard"),
]


def run_of(micro_batch: int, seq: int, rank: int, checkpointing: str) -> object:
    """The run of a point, of the embedded model."""
    from medexp.config.registration import register_with_hydra
    from medexp.config.resolve import resolve
    from medexp.config.shipped import find_conf_dir
    from medexp.system import machine

    register_with_hydra()
    words = [
        f"training.micro_batch={micro_batch}",
        f"training.max_seq_tokens={seq}",
        f"lora.r={rank}",
        "evaluation.answers=0",
    ]
    words += [
        f"training.gradient_checkpointing={checkpointing}",
        "training.accumulation=1",
        "training.max_steps=2",
    ]
    words += ["training.warmup_steps=0", f"evaluation.max_seq_tokens={seq}"]
    with initialize_config_dir(str(find_conf_dir()), version_base="1.3"):
        return resolve(compose("train", words), machine.read(), Path.cwd(), {})


def measure(point: tuple[int, int, int, str]) -> dict:
    """The figures of `point`."""
    import torch

    from medexp.data.encoding import EncodedCase
    from medexp.evaluation.losses import measure_mean_loss
    from medexp.models import backend, weights
    from medexp.models import loading as model_loading
    from medexp.training import trainer

    run = run_of(*point)
    modules = backend.load_backend(run.hardware, Path("/tmp/compiled-cpu"))
    before = resident("VmRSS")
    found = weights.find_weights(run.model)
    tuned = model_loading.load_model(run, found, load_tokenizer(found, modules), modules)
    gc.collect()
    loaded = resident("VmRSS")
    rows = [
        EncodedCase(ids, ids, 1)
        for ids in torch.randint(10, 250, (2 * point[0], point[1])).tolist()
    ]
    forget_peak()
    trainer.fit(tuned, rows, run, Path("/tmp/measure-cpu"), None, [])
    training = resident("VmHWM")
    gc.collect()
    forget_peak()
    measure_mean_loss(tuned, rows[: run.evaluation.batch_size], run.evaluation.batch_size)
    names = ("micro_batch", "seq", "r", "checkpointing")
    return dict(zip(names, point, strict=True)) | {
        "loaded_bytes": loaded - before,
        "training_bytes": training - before,
        "evaluation_bytes": resident("VmHWM") - before,
    }


def resident(name: str) -> int:
    """VmRSS or VmHWM (its peak) of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def forget_peak() -> None:
    """VmHWM begins again at VmRSS."""
    Path("/proc/self/clear_refs").write_text("5")


def predict_host_bytes(point: tuple[int, int, int, str]) -> int:
    """The planned host memory of `point`."""
    from medexp.planning.budget import compute_budget
    from medexp.planning.memory_terms import Levers, Phase, Place

    terms = compute_budget(run_of(*point), Levers(point[0], 1, compiled=False)).terms
    return sum(
        term.num_bytes
        for term in terms
        if term.place is Place.host and term.phase in (Phase.always, Phase.training)
    )


def main() -> None:
    """Measure every point and print it beside what is planned for it; with --read only print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--read", type=Path, help="points that were measured before")
    parser.add_argument("--point", type=int, help="measure this one, in this process")
    args = parser.parse_args()
    if args.point is not None:
        print("RESULT", json.dumps(measure(POINTS[args.point])))
        return
    found = (
        json.loads(args.read.read_text())
        if args.read
        else [worker(place) for place in range(len(POINTS))]
    )
    for measurement in found:
        point = (
            measurement["micro_batch"],
            measurement["seq"],
            measurement["r"],
            measurement["checkpointing"],
        )
        planned, measured = predict_host_bytes(point), measurement["training_bytes"]
        print(
            f"{point}: measured {measured / GIB:.3f} GiB, planned {planned / GIB:.3f},"
            f" {100 * (planned / measured - 1):+.1f} %"
        )
    if args.out:
        args.out.write_text("[\n" + ",\n".join(map(json.dumps, found)) + "\n]\n")


def worker(place: int) -> dict:
    """Point `place`, measured in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--point", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [
        line.removeprefix("RESULT ")
        for line in done.stdout.splitlines()
        if line.startswith("RESULT ")
    ]
    if not lines:
        raise RuntimeError(f"point {POINTS[place]} failed:\n{done.stderr[-3000:]}")
    print(lines[0], flush=True)
    return dict(json.loads(lines[0]))


if __name__ == "__main__":
    main()
