"""From a finished grid sweep to a recording for surrogate.py. The sweep is an ordinary one, so it
continues after any ending:

    python -m medexp.train -m 'lora.r=choice(4,16,64)' \
        'training.learning_rate=choice(1e-4,3e-4,1e-3,3e-3,1e-2)' \
        'training.max_seq_tokens=choice(384,640)' hydra/sweeper/sampler=grid sweep.n_trials=30 \
        training.max_steps=10 \
        training.micro_batch=2 training.accumulation=1 training.warmup_steps=1 \
        training.save_steps=100 evaluation.answers=0 \
        evaluation.every_steps=100 dataset.held_out=8 dataset.overlong=trim_reasoning \
        tracking.log_adapter=false \
        hydra.sweeper.study_name=surrogate
    python benchmarks/sweep/record.py multirun/surrogate --out \
        benchmarks/sweep/recordings/smollm2.json

What was measured on the way is recorded, too: with evaluation.every_steps=3 the loss of every third
step, and with training.seed=choice(3407,3408,3409) each seed as a point of its own. Several
commands share one study, so that on a card with room several configurations are trained side by
side; each takes what nobody has begun:

    for worker in 1 2 3 4 5 6 7 8; do python -m medexp.train -m ... & done; wait
"""

import argparse
import json
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from medexp.config.registration import register_with_hydra
from medexp.config.resolve import resolve
from medexp.config.shipped import find_conf_dir
from medexp.planning import feasibility
from medexp.sweep.study import storage
from medexp.sweep.study.history import FOLDER, ending_of
from medexp.sweep.study.trial_files import Ending, TrialOutcome, read_json_object, read_outcome
from medexp.system import machine

CARD = ["hardware=rtx4050_6gb"]
KEYS = {
    "r": "lora.r",
    "lr": "training.learning_rate",
    "seq": "training.max_seq_tokens",
    "seed": "training.seed",
}


def longest(ranks: list[int]) -> dict[int, int | None]:
    """By rank, the longest sequence that the planner lets under the ceiling of CARD."""
    register_with_hydra()
    with initialize_config_dir(str(find_conf_dir()), version_base="1.3"):
        run = resolve(compose("train", CARD), machine.read(), Path.cwd(), {}, needs_card=False)
    return {
        rank: feasibility.find_longest_that_fits(feasibility.resize_run(run, rank=rank))
        for rank in ranks
    }


def record_point(trial: Any, folder: Path, outcome: TrialOutcome | None) -> dict[str, object]:
    """What varied in a finished trial, the loss at its end, and by step on the way."""
    progress = read_json_object(folder / "progress.json") or {}
    steps = progress.get("steps", 0)
    curve = [*sorted(trial.intermediate_values.items()), (steps, trial.value)]
    metrics = outcome.metrics if outcome else {}
    return {name: trial.params[key] for name, key in KEYS.items() if key in trial.params} | {
        "loss": trial.value,
        "steps": steps,
        "step_s": metrics.get("speed/step_s"),
        "curve": curve,
    }


def main() -> None:
    """Write the recording."""
    import optuna

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", type=Path, nargs="+", help="the folder of the sweep, or several")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--card-lengths",
        type=int,
        nargs=2,
        default=[2048, 16384],
        help="tokens of the card that the ends stand for",
    )
    args = parser.parse_args()
    studies = [
        optuna.load_study(
            study_name=folder.name,
            storage=storage.connect(storage.default_url(folder.absolute())),
        )
        for folder in args.study
    ]
    done = [
        (trial, folder / Path(trial.user_attrs[FOLDER]).name)
        for folder, study in zip(args.study, studies, strict=True)
        for trial in study.get_trials()
        if ending_of(trial) is Ending.done
    ]
    outcomes = [read_outcome(folder) for _, folder in done]
    points = [
        record_point(trial, folder, outcome)
        for (trial, folder), outcome in zip(done, outcomes, strict=True)
    ]
    attrs = studies[0].user_attrs
    fixed = attrs.get("asked") or attrs["base"]
    told = ("model.name", "training.", "dataset.held")
    recording = {
        "from": [
            f"{name}={value}" for name, value in sorted(fixed.items()) if name.startswith(told)
        ],
        "loss_before": (
            outcomes[0].metrics["result/loss_before"] if outcomes and outcomes[0] else None
        ),
        "card_lengths": args.card_lengths,
        "ceiling": CARD[0],
        "longest": longest([1, 2, 4, 8, 16, 32, 64, 128]),
        "points": sorted(points, key=lambda point: [point.get(name, 0) for name in KEYS]),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(recording, indent=1) + "\n")
    print(
        f"{len(points)} points, losses {min(p['loss'] for p in points):.4f} to"
        f" {max(p['loss'] for p in points):.4f} -> {args.out}"
    )


if __name__ == "__main__":
    main()
