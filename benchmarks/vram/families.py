"""Every family of decoders under the ceiling of a 6 GB card: a few steps each through
`medexp.train`, planned and measured memory and speed, losses. All in one call of minutes.

    # on a card
    python benchmarks/vram/families.py --out results/ --jobs 3
    # the logic alone, tiny shapes on a CPU
    python benchmarks/vram/families.py --out results/ --tiny --jobs 1

Each model of `conf/model` is made here first, of its exact shape, with random weights in NF4 and a
byte-level tokenizer: what a step takes does not depend on the values. A process a family plans,
loads, measures and trains it as a user's would; processes share the card, each under its own cap,
so that speed counts only with --jobs 1. What does not fit under --ceiling is tried again under the
ceilings of --more. families.json and families.md are written anew after every family.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Lock

HERE = Path(__file__).resolve().parent
MODELS = (
    "qwen3_4b",
    "gemma3_4b_it",
    "mistral_7b_instruct",
    "phi_4_mini",
    "qwen3_8b",
    "llama_3_1_8b_instruct",
)
# A family without a preset, by the shape of one of its models: Granite 3.3 2B, OLMo 2 1B, SmolLM3.
OTHERS = {
    "granite": ("granite", 40, 2048, 32, 8, 64, 8192, 49159, True, None),
    "olmo2": ("olmo2", 16, 2048, 16, 16, 128, 8192, 100352, False, None),
    "smollm3": ("smollm3", 36, 2048, 16, 4, 128, 11008, 128256, True, None),
}
PARTS = ("family", "layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "vocab")
PARTS += ("tied_embeddings", "window")
TINY = {"layers": 6, "hidden": 64, "heads": 4, "kv_heads": 2, "head_dim": 16, "ffn": 128}
TINY |= {"vocab": 300}
TOKENS = 2048


def read_shape(name: str, is_tiny: bool) -> dict:
    """The shape of a preset, or of one of OTHERS; with `is_tiny` of the same family and small."""
    import yaml

    if name in OTHERS:
        shape = dict(zip(PARTS, OTHERS[name], strict=True))
    else:
        preset = HERE.parents[1] / "conf" / "model" / f"{name}.yaml"
        shape = yaml.safe_load(preset.read_text())["shape"]
    window = {"window": 64 if shape["window"] else None}
    return shape | TINY | window if is_tiny else shape


def make_checkpoint(shape: dict, folder: Path, is_tiny: bool) -> float:
    """Write random weights of `shape` in NF4, and a byte-level tokenizer, to `folder`; returns the
    seconds it took."""
    import torch
    import transformers

    from medexp.config.schema import Family, ModelShape
    from medexp.models.random_decoder import build_config, make_byte_tokenizer

    began = time.perf_counter()
    config = build_config(ModelShape(**shape | {"family": Family(shape["family"])}), transformers)
    torch.manual_seed(0)
    device = "cpu" if is_tiny else "cuda"
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config)
    torch.set_default_dtype(torch.float32)
    quantise(model, device)
    model.save_pretrained(folder)
    del model
    if not is_tiny:
        torch.cuda.empty_cache()
    make_byte_tokenizer(transformers).save_pretrained(folder)
    return time.perf_counter() - began


def quantise(model: object, device: str) -> None:
    """Put NF4 in the place of every matrix of the layers of `model`, as loading in four bits does,
    without a detour over the disk."""
    import bitsandbytes
    import torch
    from transformers import BitsAndBytesConfig
    from transformers.quantizers import AutoHfQuantizer

    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if not isinstance(child, torch.nn.Linear) or name == "lm_head":
                continue
            matrix = bitsandbytes.nn.Linear4bit(
                child.in_features, child.out_features, child.bias is not None,
                compute_dtype=torch.bfloat16, compress_statistics=True, quant_type="nf4",
                device="meta",
            )  # fmt: skip
            matrix.weight = bitsandbytes.nn.Params4bit(
                child.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4"
            ).to(device)
            matrix.bias = child.bias
            setattr(parent, name, matrix)
    model.config.quantization_config = settings
    model.is_loaded_in_4bit = model.is_quantized = True
    model.hf_quantizer = AutoHfQuantizer.from_config(settings, pre_quantized=True)


def write_cases(file: Path) -> None:
    """Write cases that are TOKENS bytes each with their prompt, and so as many tokens."""
    words = ["--tokens", str(TOKENS), "--cases", "60", "--out", str(file)]
    subprocess.run(
        [sys.executable, str(HERE.parent / "train" / "cases.py"), *words],
        check=True,
        env=settings(),
    )


def settings() -> dict[str, str]:
    """The environment of a process: this checkout, no network."""
    path = os.pathsep.join(filter(None, [str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]))
    return os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "CI": "1"}


def measure_rates(args: argparse.Namespace) -> list[str]:
    """This card's rates as overrides, so that plans are of its speed; none without a card."""
    if args.tiny or args.published_rates:
        return []
    command = [sys.executable, "-m", "medexp.calibrate", "model=deepseek_r1_distill_llama_8b"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=settings(), cwd=args.out
    )
    (args.out / "calibrate.log").write_text(done.stdout + done.stderr)
    wanted = (
        "hardware.matmul_tflops=",
        "hardware.memory_gb_per_s=",
        "hardware.host_link_gb_per_s=",
    )
    return [word for word in done.stdout.split() if word.startswith(wanted)]


def list_words(args: argparse.Namespace, name: str, ceiling: float) -> list[str]:
    """The command line of one family's run."""
    root = args.work / f"{name}-{ceiling:g}"
    card = [
        "hardware=cpu" if args.tiny else "hardware=rtx4050_6gb",
        *([] if args.tiny else [f"hardware.vram_ceiling_gib={ceiling}"]),
        *([] if args.tiny else args.rates),
    ]
    return [
        *card,
        "model=local",
        f"model.path={args.work / name}",
        "model.quantisation=nf4",
        "dataset=local",
        f"dataset.path={args.work / 'cases.jsonl'}",
        "dataset.held_out=2",
        "dataset.validation=0",
        "prompt=clinical",
        "training.loss_on=all",
        f"training.max_steps={args.steps}",
        f"training.max_seq_tokens={TOKENS}",
        "training.warmup_steps=0",
        "training.resume=never",
        "training.save_steps=1000",
        "evaluation.answers=0",
        "evaluation.every_steps=1000",
        f"evaluation.max_seq_tokens={TOKENS + 256}",
        "evaluation.batch_size=1",
        "tracking.system_metrics=false",
        "tracking.log_adapter=false",
        f"tracking.root={root}",
        f"hydra.run.dir={root}/out",
    ]


def run_family(args: argparse.Namespace, name: str) -> dict:
    """Train one family under the first ceiling that it fits; its figures."""
    shape = read_shape(name, args.tiny)
    found: dict = {"model": name, "family": shape["family"]}
    for ceiling in (args.ceiling, *args.more):
        words = list_words(args, name, ceiling)
        began = time.perf_counter()
        log = args.out / f"{name}.log"
        with log.open("w") as file:
            done = subprocess.run(
                [sys.executable, "-m", "medexp.train", *words],
                stdout=file, stderr=subprocess.STDOUT, check=False, env=settings(),
                cwd=args.out, timeout=args.timeout,
            )  # fmt: skip
        found |= {"ceiling_gib": ceiling, "exit": done.returncode}
        found["took_s"] = round(time.perf_counter() - began, 1)
        if done.returncode == 0:
            return found | read_figures(args.work / f"{name}-{ceiling:g}", shape, log.read_text())
        found["error"] = log.read_text()[-600:]
        if "would fit" not in found["error"].lower() and done.returncode != 3:
            return found
    return found


def read_figures(root: Path, shape: dict, log: str) -> dict:
    """What the run under `root` left in MLflow, and in its `log`: planned, measured, losses."""
    from mlflow import MlflowClient

    from medexp.config.families.sizes import count_parameters
    from medexp.config.schema import Family, ModelShape
    from medexp.planning.planner import LEVER_PARAMS

    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    experiment = client.search_experiments(filter_string="name = 'medexp'")[0]
    kept = client.search_runs([experiment.experiment_id])[0]
    metrics = kept.data.metrics

    def history(key: str) -> list[float]:
        return [entry.value for entry in client.get_metric_history(kept.info.run_id, key)]

    speeds, planned = history("speed/tokens_per_s"), metrics.get("vram/planned_bytes")
    peak = max((*history("vram/peak_gib"), metrics.get("vram/peak_gib", 0))) * 2**30
    predicted = re.findall(r"([\d,]+) tokens/s predicted", log.replace("\n", " "))
    return {
        "parameters": count_parameters(ModelShape(**shape | {"family": Family(shape["family"])})),
        "planned_bytes": planned,
        "peak_reserved_bytes": peak or None,
        "peak_allocated_bytes": metrics.get("vram/peak_allocated_gib", 0) * 2**30 or None,
        "error_percent": round(100 * (planned / peak - 1), 2) if peak and planned else None,
        "tokens_per_s_predicted": float(predicted[-1].replace(",", "")) if predicted else None,
        "tokens_per_s": round(statistics.median(speeds[1:] or speeds), 1),
        "step_s": history("speed/step_s"),
        "losses": history("train/loss"),
        "vram": {key: value for key, value in metrics.items() if key.startswith("vram/")},
        "levers": {
            name: kept.data.params[param]
            for name, param in LEVER_PARAMS.items()
            if param in kept.data.params
        },
    }


def describe(found: list[dict], args: argparse.Namespace) -> str:
    """The figures as a table in Markdown."""
    head = ("model", "ceiling", "planned GiB", "reserved GiB", "error", "tokens/s", "predicted")
    head += ("first and last loss", "levers")
    rows = [head, ("---",) * len(head)]
    for each in found:
        if "losses" not in each:
            why = " ".join(str(each.get("error", ""))[-160:].split())
            rows.append((each["model"], f"{each['ceiling_gib']:g}", f"exit {each['exit']}: {why}"))
            continue
        error = each["error_percent"]
        rows.append(
            (
                each["model"],
                f"{each['ceiling_gib']:g}",
                _gib(each["planned_bytes"]),
                _gib(each["peak_reserved_bytes"]),
                "-" if error is None else f"{error:+.1f} %",
                f"{each['tokens_per_s']:,.0f}",
                f"{each['tokens_per_s_predicted'] or 0:,.0f}",
                f"{each['losses'][0]:.3f}, {each['losses'][-1]:.3f}",
                ", ".join(f"{key.split('.')[1]}={value}" for key, value in each["levers"].items()),
            )
        )
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return f"{args.steps} steps of 8 cases of {TOKENS} tokens, --jobs {args.jobs}\n\n{table}\n"


def _gib(num_bytes: float | None) -> str:
    return "-" if not num_bytes else f"{num_bytes / 2**30:.3f}"


def main() -> None:
    """Make the checkpoints, run the families, write what came out after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=[*MODELS, *OTHERS])
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--work", type=Path, default=Path("/tmp/families"))
    parser.add_argument("--ceiling", type=float, default=5.25)
    parser.add_argument("--more", type=float, nargs="*", default=[7.0, 11.0, 15.0])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=3)
    parser.add_argument("--timeout", type=float, default=420, help="seconds a family may take")
    parser.add_argument("--tiny", action="store_true", help="small shapes, on the CPU")
    parser.add_argument(
        "--published-rates",
        action="store_true",
        help="plan by the RTX 4050's rates",
    )
    args = parser.parse_args()
    args.out, args.work = args.out.resolve(), args.work.resolve()
    sys.path.insert(0, str(HERE.parents[1]))
    shutil.rmtree(args.work, ignore_errors=True)
    args.out.mkdir(parents=True, exist_ok=True)
    args.work.mkdir(parents=True)
    began, found, lock = time.perf_counter(), [], Lock()
    write_cases(args.work / "cases.jsonl")
    args.rates = measure_rates(args)

    def keep(figures: dict) -> None:
        with lock:
            found.append(figures)
            ordered = sorted(found, key=lambda each: args.models.index(each["model"]))
            (args.out / "families.json").write_text(
                json.dumps({"rates": args.rates, "jobs": args.jobs, "families": ordered}, indent=1)
            )
            (args.out / "families.md").write_text(describe(ordered, args))
            print(f"{time.perf_counter() - began:4.0f} s", json.dumps(figures), flush=True)

    with ThreadPoolExecutor(args.jobs) as pool:
        running = []
        for name in args.models:
            # While this one is made, those that are there already train.
            made_s = make_checkpoint(read_shape(name, args.tiny), args.work / name, args.tiny)
            print(
                f"{time.perf_counter() - began:4.0f} s  {name} made in {made_s:.0f} s", flush=True
            )
            running.append(pool.submit(attempt, args, name))
        for done in as_completed(running):
            keep(done.result())
    print((args.out / "families.md").read_text())


def attempt(args: argparse.Namespace, name: str) -> dict:
    """The figures of a family, or what went wrong with it: the others still count."""
    try:
        return run_family(args, name)
    except Exception as error:
        failed = {"model": name, "ceiling_gib": args.ceiling, "exit": -1}
        return failed | {"error": f"{type(error).__name__}: {error}"[:600]}
    finally:
        shutil.rmtree(args.work / name, ignore_errors=True)


if __name__ == "__main__":
    main()
