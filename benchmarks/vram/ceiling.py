"""What happens at the ceiling, on a card: four runs of the 1B shape, side by side, each checked by
what it ends with.

python benchmarks/vram/ceiling.py --model /tmp/llama1b --out results/

- a plan that is too large for the card is noticed by the probe and planned anew (the planner's
  constants are halved for it);
- the same with levers set by hand, where nothing safer is left: exit 3, planned and measured side
  by side;
- a run killed outright in the middle is continued by the same command, with the plan it had settled
  for;
- long questions are answered under the ceiling.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SHAPE = [
    "model=llama_3_2_3b",
    *(
        f"model.shape.{override}"
        for override in ("layers=16", "hidden=2048", "heads=32", "head_dim=64")
    ),
]
CEILING_GIB = 2.25
BLIND = (
    "import runpy, sys; from medexp.planning import step_memory as step; "
    "step.COMPILED_PER_HIDDEN, step.COMPILED_PER_FFN, step.COMPILED_PER_WIDTH = 3, 1.2, 20_000; "
    "step.EAGER_PER_HIDDEN, step.EAGER_PER_FFN, step.EAGER_FIXED = 3, 1.2, 0; "
    "sys.argv[0] = 'train'; runpy.run_module('medexp.train', run_name='__main__')"
)
PLAIN = (
    "import runpy, sys; sys.argv[0] = 'train'; runpy.run_module('medexp.train',"
    " run_name='__main__')"
)


def command(args: argparse.Namespace, code: str, name: str, *more: str) -> list[str]:
    """Return the command of a default run on full sequences that keeps all in its own folder."""
    root = args.out / name
    data = [
        "dataset=local",
        f"dataset.path={args.out / 'cases.jsonl'}",
        "dataset.held_out=2",
        "evaluation.answers=0",
    ]
    kept = [
        f"tracking.root={root}",
        f"hydra.run.dir={root}/out",
        "tracking.system_metrics=false",
        "tracking.log_adapter=false",
    ]
    steps = [
        "training.max_steps=4",
        "training.warmup_steps=0",
        "evaluation.max_seq_tokens=2048",
        "prompt=clinical",
        "training.loss_on=all",
    ]
    ceiling = [
        "hardware=rtx4050_6gb",
        f"hardware.vram_ceiling_gib={CEILING_GIB}",
        "evaluation.batch_size=1",
    ]
    return [
        sys.executable,
        "-c",
        code,
        *ceiling,
        *SHAPE,
        f"model.path={args.model}",
        *data,
        *kept,
        *steps,
        *more,
    ]


def start_command(words: list[str], log: Path) -> subprocess.Popen:
    """The command, writing to `log`."""
    return subprocess.Popen(words, stdout=log.open("w"), stderr=subprocess.STDOUT)


def kill_then_continue(args: argparse.Namespace) -> subprocess.Popen:
    """Kill the run once a checkpoint is there, then start the same command again."""
    words = command(args, PLAIN, "killed", "training.save_steps=1", "training.max_steps=6")
    first = start_command(words, args.out / "killed_first.log")
    while first.poll() is None and not list(
        (args.out / "killed").glob("unfinished/*/checkpoints/checkpoint-2/trainer_state.json")
    ):
        time.sleep(0.2)
    first.kill()
    first.wait()
    return start_command(words, args.out / "killed.log")


def main() -> None:
    """Run all four, and say of each how it ended and the lines that tell."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, default=Path("results"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    )
    cases = [
        sys.executable,
        str(HERE.parent / "train" / "cases.py"),
        "--cases",
        "50",
        "--out",
        str(args.out / "cases.jsonl"),
    ]
    subprocess.run(cases, check=True)
    by_hand = [
        "training.plan=manual",
        "training.micro_batch=8",
        "training.accumulation=1",
        "hardware.offload_layers=0",
    ]
    by_hand += [
        "hardware.checkpoint_skip_layers=0",
        "hardware.compile_layers=true",
        "hardware.tile_mlp=false",
        "hardware.page_optimizer=false",
    ]
    running = {
        "replanned": start_command(
            command(args, BLIND, "replanned", "hardware.checkpoint_skip_layers=0"),
            args.out / "replanned.log",
        ),
        "by_hand": start_command(
            command(args, BLIND, "by_hand", *by_hand), args.out / "by_hand.log"
        ),
        "answers": start_command(
            command(args, PLAIN, "answers", "evaluation.answers=2", "evaluation.max_new_tokens=32"),
            args.out / "answers.log",
        ),
    }
    running["killed"] = kill_then_continue(args)
    found = {}
    for name, process in running.items():
        status = process.wait()
        text = (args.out / f"{name}.log").read_text()
        telling = (
            "plan:",
            "did not fit",
            "measured:",
            "medexp:",
            "peak VRAM",
            "continued",
            "held-out loss",
            "step ",
        )
        lines = [
            line.strip() for line in text.splitlines() if any(word in line for word in telling)
        ]
        found[name] = {"exit": status, "lines": lines or text.splitlines()[-12:]}
        print(name, "exit", status, *found[name]["lines"], sep="\n    ", flush=True)
    (args.out / "ceiling.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
