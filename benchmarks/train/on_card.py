"""The seed's recipe on a CUDA card, medexp beside raw Unsloth on the same tokens under the same
cap, all in one call.

    python benchmarks/train/on_card.py --model /tmp/llama8b --out results/ --steps 6
    # cases as long as real ones
    python benchmarks/train/on_card.py --model /tmp/llama8b --out results/ --steps 16 --warm 6 \
        --ragged

Writes results.json and results.md (ratios are what counts: machines differ) and a log a run. The
bare loop has the plan that medexp took. Ragged cases are put together by every contestant in its
own way; the first steps, which compile for every new size, are not timed.
"""

import argparse
import datetime
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from peer import loop_speed

from medexp.planning.planner import LEVER_PARAMS

HERE = Path(__file__).resolve().parent
CAP_GIB = 5.25
AUTO, RAW = "raw Unsloth, offload_layers=auto", "raw Unsloth, no cap"
OWN_FP8, OWN_ALL_FP8 = "medexp, gradients in FP8", "medexp, all products in FP8"
# exact products
OWN, BARE = "medexp, its own plan", "bare loop, medexp's plan"
OWN_WHOLE = "medexp, its own plan, last product recomputed"
AUTO_PADDED, OWN_BY_CASES = (
    "raw Unsloth, offload_layers=auto, told to pad",
    "medexp, its own plan, batch_by=cases",
)
OWN_WORDS = {
    OWN: ["hardware.fp8=false"],
    OWN_FP8: ["hardware.fp8=true"],
    OWN_ALL_FP8: ["hardware.fp8=all"],
    OWN_WHOLE: ["hardware.fp8=false", "hardware.recompute_last_product=true"],
    OWN_BY_CASES: ["hardware.fp8=false", "training.batch_by=cases"],
}
PEERS = {AUTO: ["--cap", str(CAP_GIB), "--layers", "auto"], RAW: []}
ORDER = (AUTO, OWN, OWN_FP8, OWN_ALL_FP8, BARE, RAW, OWN_WHOLE)
RAGGED_ORDER = (AUTO, OWN, RAW, AUTO_PADDED, OWN_BY_CASES)
BARE_SETTINGS = {  # as medexp sets them
    "UNSLOTH_FUSED_LINEAR_FLASH_MIN_ROWS": "0",
    "UNSLOTH_FUSED_LINEAR_BWD_TILE_MB": "64",
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
}


def overrides(args: argparse.Namespace, work: Path) -> list[str]:
    """The seed's recipe on the full-length cases; loss on every token, as the peer has it."""
    where = [
        f"model.path={args.model}",
        "dataset=local",
        f"dataset.path={cases_file(args, work)}",
        "dataset.held_out=2",
        "dataset.validation=0",
        "evaluation.cases=dataset",
    ]
    what = [
        f"prompt={prompt(args)}",
        "training.loss_on=all",
        f"training.max_steps={args.steps}",
        "training.resume=never",
    ]
    only_training = [
        "evaluation.answers=0",
        "evaluation.max_seq_tokens=2048",
        "evaluation.every_steps=1000",
        "training.save_steps=1000",
    ]
    quiet = ["tracking.system_metrics=false", "tracking.log_adapter=false"]
    return [
        "hardware=rtx4050_6gb",
        f"hardware.vram_ceiling_gib={CAP_GIB}",
        *where,
        *what,
        *only_training,
        *quiet,
    ]


def prompt(args: argparse.Namespace) -> str:
    """What the cases are rendered with; a byte is a token here, so the seed's prompt is too long
    for cases as long as real ones.
    """
    return "r1_reasoning" if args.ragged else "clinical"


def cases_file(args: argparse.Namespace, work: Path) -> Path:
    """Where the cases of this benchmark lie; the same again for the same options."""
    return work / ("ragged.jsonl" if args.ragged else "full.jsonl")


def run(command: list[str], log: Path, **settings: str) -> tuple[int, str]:
    """Run `command` with `settings` in its environment, keep what it prints in `log`; its exit
    status and output.
    """
    began = time.perf_counter()
    env = os.environ | settings
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, env=env
    )
    log.write_text(done.stdout)
    print(
        f"{log.stem}: exit {done.returncode} after {time.perf_counter() - began:.0f} s", flush=True
    )
    return done.returncode, done.stdout


def peer(
    args: argparse.Namespace, work: Path, name: str, words: list[str], **settings: str
) -> dict:
    """One run of the peer."""
    rows = cases_file(args, work).with_suffix(".json")
    command = [sys.executable, str(HERE / "peer.py"), "--model", args.model, "--rows", str(rows)]
    asked = [
        "--steps",
        str(args.steps),
        "--warm",
        str(args.warm),
        *(["--ragged"] if args.ragged else []),
    ]
    _, output = run([*command, *asked, *words], log_file(args, name), **settings)
    lines = [line for line in output.splitlines() if line.startswith("RESULT ")]
    return (
        json.loads(lines[-1].removeprefix("RESULT "))
        if lines
        else {"ok": False, "error": output[-300:]}
    )


def bare_words(params: dict) -> list[str]:
    """The peer's options for the plan that medexp took."""
    words = [
        "--cap",
        str(CAP_GIB),
        "--layers",
        params["hardware.offload_layers"],
        "--batch",
        params["training.micro_batch"],
    ]
    words += ["--embedding"] if params["hardware.offload_embedding"] == "True" else []
    return [*words, "--keep", params["hardware.checkpoint_skip_layers"], "--shorten"]


@functools.cache
def calibrate(log: Path) -> list[str]:
    """This card's figures as overrides, measured once; a card that stands in for a smaller one is
    planned by its own speed.
    """
    command = [sys.executable, "-m", "medexp.calibrate", "model=deepseek_r1_distill_llama_8b"]
    _, output = run(command, log)
    return [
        word
        for word in output.split()
        if word.startswith("hardware.") and "=" in word and not word.startswith("hardware=")
    ]


def medexp(args: argparse.Namespace, work: Path, name: str, words: list[str]) -> dict:
    """One run of medexp, its figures read back from MLflow."""
    from mlflow import MlflowClient

    root, card = work / log_file(args, name).stem, calibrate(args.out / "calibrate.log")
    command = [
        sys.executable,
        "-m",
        "medexp.train",
        *overrides(args, work),
        *card,
        *words,
        f"tracking.root={root}",
    ]
    status, output = run(command, log_file(args, name))
    if status:
        return {"ok": False, "error": output[-300:]}
    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    kept = client.search_runs([client.get_experiment_by_name("medexp").experiment_id])[0]
    entries = {key: client.get_metric_history(kept.info.run_id, key) for key in kept.data.metrics}
    history = {
        key: [entry.value for entry in history_entries] for key, history_entries in entries.items()
    }
    logged_s = [entry.timestamp / 1000 for entry in entries["speed/step_s"]]
    tokens = [
        speed * seconds
        for speed, seconds in zip(
            history["speed/tokens_per_s"], history["speed/step_s"], strict=True
        )
    ]
    return {
        "ok": True,
        "loss": history["train/loss"],
        "tokens_per_s": statistics.median(history["speed/tokens_per_s"][args.warm :]),
        "loop_tokens_per_s": loop_speed(tokens, logged_s, args.warm),
        "peak_reserved_gib": history["vram/peak_gib"][-1],
        "peak_allocated_gib": history["vram/peak_allocated_gib"][-1],
        "alloc_retries": history["vram/alloc_retries"],
        "step_s": history["speed/step_s"],
        "planned_gib": history["vram/planned_bytes"][-1] / 2**30,
        "params": {name: kept.data.params[param] for name, param in LEVER_PARAMS.items()},
        "card": card,
    }


def log_file(args: argparse.Namespace, name: str) -> Path:
    """Where the output of run `name` goes."""
    return args.out / ("".join(letter if letter.isalnum() else "_" for letter in name) + ".log")


def make_rows(args: argparse.Namespace, work: Path) -> None:
    """Write the cases, and the token rows that medexp makes of them."""
    target = cases_file(args, work)
    lengths = ["--lengths", str(HERE / "lengths.json")] if args.ragged else []
    cases = [
        sys.executable,
        str(HERE / "cases.py"),
        "--cases",
        str(8 * args.steps + 2),
        "--out",
        str(target),
    ]
    failed, _ = run([*cases, "--prompt", prompt(args), *lengths], args.out / "cases.log")
    rows = [
        sys.executable,
        str(HERE / "rows.py"),
        "--tokenizer",
        args.model,
        "--out",
        str(target.with_suffix(".json")),
    ]
    failed = failed or run([*rows, *overrides(args, work)], args.out / "rows.log")[0]
    if failed:
        raise SystemExit(f"no rows to train on; see {args.out}/cases.log and rows.log")


def contestant(args: argparse.Namespace, work: Path, name: str, results: dict[str, dict]) -> dict:
    """The run of this name; `results` are those before it."""
    if name in OWN_WORDS:
        return medexp(args, work, name, OWN_WORDS[name])
    if name == BARE:
        return peer(args, work, name, bare_words(results[OWN]["params"]), **BARE_SETTINGS)
    if name == AUTO_PADDED:
        return peer(args, work, name, PEERS[AUTO], UNSLOTH_PADDING_CHOICE="padded")
    return peer(args, work, name, PEERS[name])


def table(results: dict[str, dict]) -> str:
    """The results in Markdown, each against the first that ran under the cap."""
    base, raw = results.get(AUTO, {}).get("tokens_per_s"), results.get(RAW, {})
    lines = [
        (
            '| run | tokens/s | and between steps | against "auto" | peak reserved GiB | planned'
            " GiB | largest loss difference |"
        ),
        "|---|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        if not result["ok"]:
            lines.append(f"| {name} | failed: {result['error'][-120:]!r} | | | | | |")
            continue
        ratio = f"{result['tokens_per_s'] / base:.3f}" if base else ""
        difference = (
            max(abs(a - b) for a, b in zip(result["loss"], raw["loss"], strict=False))
            if raw.get("loss")
            else float("nan")
        )
        memory = f"{result['peak_reserved_gib']:.2f} | {result.get('planned_gib', 0):.2f}"
        speeds = f"{result['tokens_per_s']:,.0f} | {result['loop_tokens_per_s']:,.0f}"
        lines.append(f"| {name} | {speeds} | {ratio} | {memory} | {difference:.4f} |")
    return "\n".join(lines)


def main() -> None:
    """Run all and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument(
        "--warm", type=int, default=1, help="steps that are not timed, one at least"
    )
    parser.add_argument(
        "--ragged", action="store_true", help="cases as long as real ones instead of full sequences"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=dict.fromkeys((*ORDER, *RAGGED_ORDER)),
        help="these runs, in this order",
    )
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    work = Path("/tmp/medexp-benchmark") / args.out.name
    work.mkdir(parents=True, exist_ok=True)
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    )
    make_rows(args, work)
    results: dict[str, dict] = {}
    for name in args.only or (RAGGED_ORDER if args.ragged else ORDER):
        results[name] = contestant(args, work, name, results)
        # a call that ends early keeps what there is
        (args.out / "results.json").write_text(json.dumps(results, indent=1))
    report = f"{datetime.date.today()}, {gpu_name()}, {args.steps} steps\n\n{table(results)}\n"
    (args.out / "results.md").write_text(report)
    print(report)


def gpu_name() -> str:
    """The card, as the driver calls it."""
    from medexp.system.machine import read

    return read().gpus[0].name if read().gpus else "no card"


if __name__ == "__main__":
    main()
