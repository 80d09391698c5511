"""Measure what training really takes on a CUDA card: one process a model, rank and set of levers,
several batch shapes in each.

    python benchmarks/vram/measure.py --checkpoints /tmp --out results/ --grid \
        benchmarks/vram/grid.json --parallel 12

The grid is a list of {"shape", "overrides", "points": [[micro_batch, max_seq_tokens], ...]}. Points
go from few tokens to many: some buffers of the stack only ever grow. Every sequence is full.
Processes share the card: memory is what is measured, not speed. With --worker N it is one of those
processes.
"""

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from medexp.config.changes import change_values
from medexp.models.tokenizer import load_tokenizer

HERE = Path(__file__).resolve().parent
STEPS = 3


def measure(entry: dict, checkpoints: Path) -> list[dict]:  # noqa: PLR0915  (a story of one point after another)
    """The figures of every point of `entry`: bytes after loading, peaks of training and of the
    held-out loss; then of answers.
    """
    import torch
    from hydra import compose, initialize_config_dir

    from medexp.config.registration import register_with_hydra
    from medexp.config.resolve import resolve
    from medexp.config.shipped import find_conf_dir
    from medexp.data.encoding import EncodedCase
    from medexp.evaluation.losses import measure_mean_loss
    from medexp.models import backend, memory_guard
    from medexp.models import loading as model_loading
    from medexp.models.weights import Weights
    from medexp.system import machine
    from medexp.training import trainer

    register_with_hydra()
    longest = max(seq for _, seq in entry["points"])
    nothing_saved = ["checkpoint_skip_layers=0", "offload_layers=0", "offload_embedding=false"]
    nothing_saved += [
        "offload_activations=false",
        "compile_layers=auto",
        "tile_mlp=false",
        "page_optimizer=false",
        "fp8=false",
    ]
    recipe = [
        "training.accumulation=2",
        "training.warmup_steps=0",
        f"training.max_seq_tokens={longest}",
    ]
    overrides = [
        "hardware=rtx4090_24gb",
        *(f"hardware.{variant}" for variant in nothing_saved),
        *recipe,
        *entry["overrides"],
    ]
    with initialize_config_dir(str(find_conf_dir()), version_base="1.3"):
        run = resolve(compose("train", overrides), machine.read(), Path.cwd(), {})
    # Processes share the card.
    run = change_values(run, {"hardware.vram_ceiling_gib": None})
    memory_guard.cap_allocator(run.hardware)
    modules = backend.load_backend(run.hardware, Path(f"/tmp/compiled-{entry['name']}"))
    found = Weights(str(checkpoints / entry["shape"]), None)
    tuned = model_loading.load_model(run, found, load_tokenizer(found, modules), modules)
    torch.cuda.synchronize()
    results = []
    for micro_batch, seq in entry["points"]:
        run = change_values(
            run, {"training.micro_batch": micro_batch, "training.max_seq_tokens": seq}
        )
        figures = {
            "name": entry["name"],
            "shape": entry["shape"],
            "micro_batch": micro_batch,
            "seq": seq,
        }
        figures |= {
            "r": run.lora.r,
            "overrides": entry["overrides"],
            "after_load_bytes": torch.cuda.memory_allocated(),
        }
        gc.collect()  # the last point's optimizer hangs in a cycle
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        rows = [
            EncodedCase(ids, ids, 1)
            for ids in torch.randint(10, 250, (micro_batch * 2 * STEPS, seq)).tolist()
        ]
        began = time.perf_counter()
        try:
            # as every run does first: it leaves a dequantised weight behind
            measure_mean_loss(tuned, rows[:1], 1)
            fitted = trainer.fit(tuned, rows, run, Path(f"/tmp/measure-{entry['name']}"), None, [])
            figures |= {
                "train_allocated_bytes": torch.cuda.max_memory_allocated(),
                "train_reserved_bytes": torch.cuda.max_memory_reserved(),
            }
            figures |= {"loss": fitted.last_loss, "elapsed_s": time.perf_counter() - began}
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            figures["before_evaluation_bytes"] = torch.cuda.memory_allocated()
            measure_mean_loss(tuned, rows[:micro_batch], micro_batch)
            figures["evaluation_allocated_bytes"] = torch.cuda.max_memory_allocated()
            figures["evaluation_reserved_bytes"] = torch.cuda.max_memory_reserved()
        except Exception as error:
            traceback.print_exc()
            figures["error"] = f"{type(error).__name__}: {error}"[:300]
        results.append(figures)
        print("RESULT", json.dumps(figures), flush=True)
    print("ANSWERS", json.dumps({"name": entry["name"]} | _answers_peak(tuned)), flush=True)
    return results


def _answers_peak(tuned: object) -> dict:
    """The peak of answering four prompts of 512 tokens, and what it leaves behind."""
    import torch

    from medexp.evaluation import generation

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before, answers_file = torch.cuda.memory_allocated(), Path(tempfile.mkdtemp()) / "answers.jsonl"
    prompts = torch.randint(10, 250, (4, 512)).tolist()
    try:
        generation.generate_answers(
            tuned,
            prompts,
            16,
            generation.limit_batch_size(4),
            answers_file=answers_file,
            base=False,
            advance=lambda _: None,
        )
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"[:300]}
    allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    gc.collect()
    torch.cuda.empty_cache()
    left = {"before_answers_bytes": before, "after_answers_bytes": torch.cuda.memory_allocated()}
    return left | {"answers_allocated_bytes": allocated, "answers_reserved_bytes": reserved}


def main() -> None:
    """Start a process an entry, a few at a time, and gather their results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoints", type=Path, default=Path("/tmp"))
    parser.add_argument("--grid", type=Path, nargs="+", default=[HERE / "grid.json"])
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--parallel", type=int, default=12)
    parser.add_argument("--worker", type=int, default=None)
    parser.add_argument("--timeout", type=float, default=420)
    args = parser.parse_args()
    grid = [entry for file in args.grid for entry in json.loads(file.read_text())]
    if args.worker is not None:
        measure(grid[args.worker], args.checkpoints)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    results, answered, log = gather(args, len(grid))
    for name, found in (("measured", results), ("answers", answered)):
        (args.out / f"{name}.json").write_text(
            "[\n" + ",\n".join(json.dumps(measurement) for measurement in found) + "\n]\n"
        )
    (args.out / "measure.log").write_text(log)
    print(f"{sum('error' not in result for result in results)} of {len(results)} points measured")


def gather(args: argparse.Namespace, count: int) -> tuple[list[dict], list[dict], str]:
    """Points and answer peaks of all workers, and what the failed ones printed."""
    began, waiting, running, results, answered, log = (
        time.perf_counter(),
        list(range(count)),
        {},
        [],
        [],
        "",
    )
    while waiting or running:
        while waiting and len(running) < args.parallel:
            index = waiting.pop(0)
            output = (args.out / f"worker{index}.log").open("w+")
            command = [
                sys.executable,
                __file__,
                "--worker",
                str(index),
                "--grid",
                *map(str, args.grid),
                "--checkpoints",
                str(args.checkpoints),
            ]
            running[index] = (
                subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, text=True),
                output,
            )
        time.sleep(0.5)
        late = time.perf_counter() - began > args.timeout
        for index, (process, output) in list(running.items()):
            if late:
                process.kill()
            if process.poll() is None:
                continue
            output.seek(0)
            text = output.read()
            output.close()
            (args.out / f"worker{index}.log").unlink()
            lines = [
                line.split(" ", 1)
                for line in text.splitlines()
                if line.startswith(("RESULT ", "ANSWERS "))
            ]
            found = [json.loads(line) for kind, line in lines if kind == "RESULT"]
            results += found
            answered += [json.loads(line) for kind, line in lines if kind == "ANSWERS"]
            bad = process.returncode or any("error" in line for line in found)
            log += (
                f"== worker {index}: exit {process.returncode}, {len(found)} points, at"
                f" {time.perf_counter() - began:.0f} s\n"
            )
            log += text[-6000:] if bad else ""
            print(
                f"worker {index}: exit {process.returncode}, {len(found)} points, at"
                f" {time.perf_counter() - began:.0f} s",
                flush=True,
            )
            del running[index]
        if late:
            waiting.clear()
    return results, answered, log


if __name__ == "__main__":
    main()
