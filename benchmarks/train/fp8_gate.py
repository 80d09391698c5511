"""May products be computed in FP8? The same runs with and without (hardware.fp8=false, true and
all), seed by seed, on real weights, and the gradients of one batch.

    python benchmarks/train/fp8_gate.py --model 1.5B=/tmp/q/hf 135M=/tmp/s/hf --out results/

Every run is `medexp.train hardware=rtx4050_6gb model.quantisation=nf4` on the shipped cases,
evaluated with exact products; two runs at a time. The gate is passed where the mean difference of
the held-out loss is no larger than its spread between the seeds of the exact runs, and it is
hardware.fp8=true that must pass. Then, with the adapter of the first exact run, the gradient of the
first eight cases with exact and with rounded products: its cosine for every layer, beside the
cosine of the exact gradients of these and the next eight cases. Writes results.json and results.md;
needs a card of sm_89 or later. Six runs of a 1.5B, three at a time, take six minutes on an H200.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WORDS = (
    "hardware=rtx4050_6gb",
    "model=local",
    "model.quantisation=nf4",
    "dataset=clinical_cases",
    "prompt=clinical_sections",
    "dataset.held_out=163",
    "evaluation.answers=0",
    "evaluation.likelihoods=false",
    "tracking.system_metrics=false",
)
CASES = 8
EXACT, GRADIENTS, ALL = "false", "true", "all"


def main() -> int:
    """Run all and write the results; 1 where a run failed or the gate is not passed."""
    options = _parse_options()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.cosines:
        _write_cosines(options)
        return 0
    models = dict(entry.split("=", 1) for entry in options.model)
    tasks = [
        (model, seed, fp8)
        for model in models
        for seed in options.seeds
        for fp8 in (EXACT, *options.fp8)
    ]
    results: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "runs": [], "cosines": {}}
    # The first two compile; the others find what they compiled.
    with ThreadPoolExecutor(options.jobs) as pool:
        for run in pool.map(lambda task: _train(options, models[task[0]], *task), tasks):
            results["runs"].append(run)
            _write(options, results)
    for name, folder in models.items():
        results["cosines"][name] = _ask_for_cosines(options, name, folder)
        _write(options, results)
    passed = [_judge(results["runs"], name, GRADIENTS)["passed"] for name in models]
    return 0 if all(passed) else 1


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", nargs="+", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("fp8_gate"), help="where runs lie")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--fp8", nargs="+", choices=(GRADIENTS, ALL), default=[GRADIENTS, ALL])
    parser.add_argument("--jobs", type=int, default=2, help="runs at once (%(default)s)")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="for every run")
    parser.add_argument("--cosines", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _folder(options: argparse.Namespace, name: str, seed: int, fp8: str) -> Path:
    return options.work.absolute() / f"{name}-{seed}-{fp8}"


def _words(options: argparse.Namespace, folder: str) -> list[str]:
    return [*WORDS, f"model.path={folder}", *options.set]


def _train(
    options: argparse.Namespace, path: str, name: str, seed: int, fp8: str
) -> dict[str, Any]:
    from mlflow import MlflowClient

    folder, began = _folder(options, name, seed, fp8), time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    words = [
        *_words(options, path),
        f"hardware.fp8={fp8}",
        f"training.seed={seed}",
        f"tracking.root={folder / 'mlruns'}",
        f"hydra.run.dir={folder / 'run'}",
    ]
    status = _run([sys.executable, "-m", "medexp.train", *words], options.out, folder.name)
    print(f"{folder.name}: exit {status}, {time.monotonic() - began:.0f} s", flush=True)
    run: dict[str, Any] = {"model": name, "seed": seed, "fp8": fp8, "status": status}
    if status == 0:
        client = MlflowClient(f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("medexp").experiment_id
        kept = client.search_runs([experiment])[0]
        run |= {
            "held_out_loss": kept.data.metrics["result/loss_after"],
            "base_loss": kept.data.metrics["result/loss_before"],
            "peak_reserved_gib": kept.data.metrics.get("vram/peak_gib"),
            "planned_gib": kept.data.metrics.get("vram/planned_bytes", 0) / 2**30,
            "losses": [
                entry.value for entry in client.get_metric_history(kept.info.run_id, "train/loss")
            ],
        }
    return run


def _run(command: list[str], out: Path, name: str) -> int:
    paths = filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    (out / f"{name}.log").write_text(done.stdout)
    return done.returncode


def _ask_for_cosines(options: argparse.Namespace, name: str, path: str) -> dict[str, Any]:
    """Return the cosines of that model, found in a process of its own."""
    file = options.out.absolute() / f"cosines-{name}.json"
    command = [
        *(sys.executable, str(Path(__file__).resolve()), "--model", f"{name}={path}"),
        *("--out", str(options.out), "--work", str(options.work), "--cosines", str(file)),
        *("--seeds", str(options.seeds[0]), "--fp8", *options.fp8, "--set", *options.set),
    ]
    status = _run(command, options.out, f"cosines-{name}")
    print(f"cosines of {name}: exit {status}", flush=True)
    return json.loads(file.read_text()) if status == 0 else {}


def _write_cosines(options: argparse.Namespace) -> None:
    """Write how alike the gradients of the adapter are, layer by layer."""
    (name, path), *_ = (entry.split("=", 1) for entry in options.model)
    adapter = _folder(options, name, options.seeds[0], EXACT) / "run" / "adapter"
    words = [
        *_words(options, path),
        f"lora.start_from={adapter}",
        "hardware.compile_layers=false",
        "hardware.offload_layers=0",
        "hardware.vram_ceiling_gib=null",
    ]
    from rows import compose_run

    from medexp.models import backend, layer_patches, weights
    from medexp.models import loading as model_loading
    from medexp.models.patches.fp8_layers import FP8Passes, multiply_in_fp8
    from medexp.models.tokenizer import load_tokenizer
    from medexp.planning import planner
    from medexp.planning.pieces import count_pieces

    run = compose_run(words)
    run = planner.apply_plan(run, planner.choose_plan(run)[0])
    stack = backend.load_backend(run.hardware, Path("/tmp/fp8_gate_compiled"))
    found = weights.find_weights(run.model)
    tokenizer = load_tokenizer(found, stack)
    batches = _read_batches(run, tokenizer)

    def compute(batch: list[tuple[Any, Any]], fp8: str = EXACT) -> dict[str, Any]:
        network = model_loading.load_model(run, found, tokenizer, stack).network.train()
        if fp8 != EXACT:
            passes = FP8Passes(
                lambda layer: not layer_patches.is_kept(layer),
                rounds_forward=fp8 == ALL,
                shortens=True,
                pieces=count_pieces(run.model.shape),
            )
            multiply_in_fp8(network, stack.unsloth.kernels.fast_lora, passes)
        return _compute_gradients(network, batch)

    exact = compute(batches[0])
    cosines = {fp8: _compare_layers(exact, compute(batches[0], fp8)) for fp8 in options.fp8}
    cosines["next cases"] = _compare_layers(exact, compute(batches[1]))
    options.cosines.write_text(json.dumps(cosines, indent=1) + "\n")


def _read_batches(run: Any, tokenizer: Any) -> list[list[tuple[Any, Any]]]:
    """Return twice `CASES` training cases, as tokens and labels [1, tokens]."""
    import torch
    from rows import encode_rows

    from medexp.models.tokenizer import bind_run_prompt

    encoded = encode_rows(bind_run_prompt(run, tokenizer), tokenizer)
    rows = [
        tuple(torch.tensor([numbers], device="cuda") for numbers in (row.input_ids, row.labels))
        for row in encoded[: 2 * CASES]
    ]
    return [rows[:CASES], rows[CASES:]]


def _compute_gradients(network: Any, batch: list[tuple[Any, Any]]) -> dict[str, Any]:
    """Return the gradient of the adapter over `batch`, a layer each."""
    import torch
    from fp8_rounding import collect_gradients

    network.zero_grad(set_to_none=True)
    for tokens, labels in batch:
        with torch.autocast("cuda", torch.bfloat16):
            loss = network(input_ids=tokens, labels=labels).loss
        loss.backward()
    return collect_gradients(network)


def _compare_layers(one: dict[str, Any], other: dict[str, Any]) -> list[float]:
    """Return the cosine of both gradients of every layer, the first layer's first."""
    from fp8_rounding import cosine

    return [round(cosine(one[layer], other[layer]), 4) for layer in sorted(one, key=int)]


def _judge(runs: list[dict[str, Any]], model: str, fp8: str) -> dict[str, Any]:
    """Return the difference that `fp8` makes to the held-out loss of `model`, seed by seed, and the
    spread of the exact runs."""
    losses = {
        (run["seed"], run["fp8"]): run["held_out_loss"]
        for run in runs
        if run["model"] == model and run["status"] == 0
    }
    seeds = [seed for seed, kind in losses if kind == fp8 and (seed, EXACT) in losses]
    if len(seeds) < 2:
        return {"passed": False}
    exact = [losses[seed, EXACT] for seed in seeds]
    differences = [losses[seed, fp8] - losses[seed, EXACT] for seed in seeds]
    mean, spread = statistics.mean(differences), statistics.stdev(exact)
    return {
        "exact": exact,
        "rounded": [losses[seed, fp8] for seed in seeds],
        "mean_difference": mean,
        "spread": spread,
        "passed": abs(mean) <= spread,
    }


def _write(options: argparse.Namespace, results: dict[str, Any]) -> None:
    models = list(dict.fromkeys(run["model"] for run in results["runs"]))
    results["gate"] = {
        model: {fp8: _judge(results["runs"], model, fp8) for fp8 in options.fp8} for model in models
    }
    (options.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    rows = [
        "| model | hardware.fp8 | held-out loss, exact | rounded | mean difference |"
        " spread of seeds | passed | cosine by layer, least and median | of other cases, median |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for model, kinds in results["gate"].items():
        cosines = results["cosines"].get(model, {})
        for fp8, found in kinds.items():
            if "exact" in found:
                rows.append(_row(model, fp8, found, cosines))
    (options.out / "results.md").write_text("\n".join(rows) + "\n")


def _row(model: str, fp8: str, found: dict[str, Any], cosines: dict[str, list[float]]) -> str:
    exact, rounded = (
        ", ".join(f"{loss:.4f}" for loss in found[kind]) for kind in ("exact", "rounded")
    )
    alike = other = ""
    if cosines:
        alike = f"{min(cosines[fp8]):.3f}, {statistics.median(cosines[fp8]):.3f}"
        other = f"{statistics.median(cosines['next cases']):.3f}"
    return (
        f"| {model} | {fp8} | {exact} | {rounded} | {found['mean_difference']:+.4f} |"
        f" {found['spread']:.4f} | {'yes' if found['passed'] else 'no'} | {alike} | {other} |"
    )


if __name__ == "__main__":
    sys.exit(main())
