"""What filling micro-batches with cases of real lengths should bring: arithmetic alone, no card,
nothing is trained.

python benchmarks/train/micro_batches.py [OVERRIDES...]

Sixty steps of eight cases, their lengths drawn from lengths.json: how many micro-batches, how much
padding, and the seconds that the planner's cost model says, with `training.batch_by=cases` and
`=tokens`.
"""

import json
import random
import sys
from pathlib import Path

from hydra import compose, initialize_config_dir

from medexp.config.changes import change_values
from medexp.config.registration import register_with_hydra
from medexp.config.resolve import resolve
from medexp.config.schema import BatchBy, RunConfig
from medexp.config.shipped import find_conf_dir
from medexp.planning import planner
from medexp.system.machine import read
from medexp.training.trainer import predict_step_s, split_into_micro_batches

STEPS, CASES = 60, 8
LENGTHS = Path(__file__).resolve().parent / "lengths.json"


def main() -> None:
    """Print a row for every size of micro-batch and way to fill it."""
    chance = random.Random(0)
    lengths = json.loads(LENGTHS.read_text())["tokens"]
    steps = [chance.choices(lengths, k=CASES) for _ in range(STEPS)]
    print(
        "| hardware | planned | batch_by | micro-batches | tokens with padding | seconds predicted"
        " |\n|---|---|---|---|---|---|"
    )
    for hardware in ("rtx4050_6gb", "h200_141gb"):
        run = compose_config(hardware, sys.argv[1:])
        for size in (1, 2, 4):
            sizes = {"training.micro_batch": size, "training.accumulation": CASES // size}
            for batch_by in BatchBy:
                changed = change_values(run, sizes | {"training.batch_by": batch_by})
                print(row(changed, steps))


def compose_config(hardware: str, overrides: list[str]) -> RunConfig:
    """The run of this preset with the levers of its plan."""
    register_with_hydra()
    with initialize_config_dir(str(find_conf_dir()), version_base="1.3"):
        cfg = compose(
            "train", [f"hardware={hardware}", "model=deepseek_r1_distill_llama_8b", *overrides]
        )
    run = resolve(cfg, read(), Path.cwd(), {}, needs_card=False)
    return planner.apply_plan(run, planner.choose_plan(run)[0])


def row(run: RunConfig, steps: list[list[int]]) -> str:
    """The figures of `run`, in Markdown."""
    padded = [
        len(cases) * max(step[case] for case in cases)
        for step in steps
        for cases in split_into_micro_batches(run, step)
    ]
    plan = f"{run.training.micro_batch} x {run.training.accumulation}"
    more = sum(padded) / sum(map(sum, steps)) - 1
    seconds = sum(predict_step_s(run, step) for step in steps)
    return (
        f"| {run.hardware.name} | {plan} | {run.training.batch_by.value} | {len(padded)} |"
        f" +{more:.1%} | {seconds:,.0f} |"
    )


if __name__ == "__main__":
    main()
