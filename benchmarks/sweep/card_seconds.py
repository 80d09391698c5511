"""Seconds of the card until a trial at full length is within 1 % of the best feasible: ways to
search beside each other, on recorded learning curves.

    python benchmarks/sweep/card_seconds.py benchmarks/sweep/recordings/smollm2_curves.json \
        --lengths-from benchmarks/sweep/recordings/smollm2.json --seeds 20 --out results.json

Every contestant draws rank (log), learning rate (log) and length, and refuses by the plan what
cannot fit. A run has `--steps` steps and is measured every `--every`. What counts is the seconds of
the laptop by the planner: steps, evaluations, and the start of every process (curves.py). Samplers,
pruners and the study are the real ones; a trial's losses are read from the curves.

A search may be ended at any time. Then a trial that is the best of all at the step where it ended
is run to its end: from its checkpoint where it was paused, from the start where it was pruned or
was a short run. It counts as found after these seconds, too. No contestant knows of the target.
"""

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from curves import START_S, Curves, Seconds
from omegaconf import OmegaConf

from medexp.config.registration import register_with_hydra
from medexp.config.shipped import find_conf_dir
from medexp.sweep.search.options import SweepOptions, check_options
from medexp.sweep.search.proposal import VRAM
from medexp.sweep.search.search_space import FloatRange, IntRange, SearchSpace
from medexp.sweep.study.history import PROMOTED
from medexp.sweep.study.study import Study, open_study
from medexp.sweep.study.trial_files import Ending, TrialOutcome

# The run as configured: hardware=rtx4050_6gb's rank, learning rate and length.
START = {"r": 16, "lr": 5e-4, "seq": 2048}
HOURS = (2, 4, 8)
# Shares of the best gain that may be missing at targets that are less strict.
LOOSER = (0.02, 0.05)


@dataclass
class Search:
    """What a contestant has spent, and what it found: (seconds, loss) of each run that ended at
    full length, or would have had it been run next.
    """

    spent_s: float = 0.0
    found: list[tuple[float, float]] = field(default_factory=list)
    # The lowest loss of any trial after each step that was reported.
    best_at: dict[int, float] = field(default_factory=dict)
    processes: int = 0
    steps: int = 0
    begun: int = 0

    def hear(self, step: int, loss: float) -> bool:
        """Note the loss of a trial after `step`; returns whether it is the lowest there."""
        self.best_at[step] = min(loss, self.best_at.get(step, loss))
        return loss <= self.best_at[step]

    def until(self, target: float) -> float:
        """Seconds until `target` was reached, infinite where it was not."""
        return next((at for at, loss in self.found if loss <= target), float("inf"))

    def best_after(self, seconds: float) -> float | None:
        """The lowest loss that was there after so long."""
        return min((loss for at, loss in self.found if at <= seconds), default=None)


@dataclass(frozen=True)
class Ground:
    """What every contestant runs on."""

    curves: Curves
    seconds: Seconds
    steps: int
    every: int
    limit_s: float
    target: float

    def space(self) -> SearchSpace:
        """The space of sweep=rank_lr_seq over the recording."""
        low, high = self.curves.lengths
        return SearchSpace(
            {
                "r": IntRange(int(self.curves.ranks[0]), int(self.curves.ranks[-1]), log=True),
                "lr": FloatRange(self.curves.rates[0], self.curves.rates[-1], log=True),
                "seq": IntRange(low, high, 256),
            }
        )

    def loss(self, params: dict[str, Any], step: int) -> float:
        """The held-out loss of a run after `step` of its steps."""
        return self.curves.loss_at(params["r"], params["lr"], params["seq"], step / self.steps)

    def run_s(self, params: dict[str, Any], first: int, last: int) -> float:
        """Seconds of a process that trains the steps after `first` up to `last`, 0 without any."""
        if first == last:
            return 0.0
        evaluations = last // self.every - first // self.every + (last % self.every > 0)
        step_s = self.seconds.step(params["r"], params["seq"])
        return START_S + (last - first) * step_s + evaluations * self.seconds.evaluation


def make_options(*words: str) -> SweepOptions:
    """The options of a sweep with these words on the command line."""
    register_with_hydra()
    with hydra.initialize_config_dir(str(find_conf_dir()), version_base="1.3"):
        cfg = hydra.compose("train", ["sweep.n_trials=100000", *words], return_hydra_config=True)
    options = OmegaConf.to_container(cfg.hydra.sweeper, resolve=True)
    return check_options({key: value for key, value in options.items() if not key.startswith("_")})


def search(
    ground: Ground, words: list[str], seed: int, starts_configured: bool, trial_steps: int | None
) -> Search:
    """One search with the sampler and pruner of `words`, until it is there or the limit is spent.

    With `trial_steps` the trials are so long.
    """
    steps = trial_steps or ground.steps
    done = Search()
    with tempfile.TemporaryDirectory() as folder:
        options = make_options(*words, f"hydra.sweeper.sampler.seed={seed}")
        study = open_study("s", f"{folder}/s.journal", ground.space(), options)
        if starts_configured:
            lr = min(max(START["lr"], ground.curves.rates[0]), ground.curves.rates[-1])
            study.enqueue(START | {"lr": lr})
        while done.spent_s < ground.limit_s and done.until(ground.target) == float("inf"):
            trial = next_trial(study, ground)
            ended_at, ending = train(study, trial, ground, steps, done)
            loss = ground.loss(trial.params, ended_at)
            told = {"result/loss_after": loss} if ending is Ending.done else {}
            study.tell(trial, TrialOutcome(ending, "", told), {})
            if done.hear(ended_at, loss):
                kept = ended_at if study.pauses or ended_at == ground.steps else 0
                rest_s = ground.run_s(trial.params, kept, ground.steps)
                final = ground.loss(trial.params, ground.steps)
                done.found.append((done.spent_s + rest_s, final))
    return done


def next_trial(study: Study, ground: Ground) -> Any:
    """The next trial as the scheduler starts it: one that goes on, else the first that fits."""
    while True:
        if not study.count_waiting():
            study.enqueue_promotion(is_last=False)
        trial = study.ask()
        params = trial.params
        if not ground.curves.fits(params["r"], params["seq"]):
            over = {VRAM: ground.curves.over(params["r"], params["seq"])}
            study.tell(trial, TrialOutcome(Ending.infeasible), over)
            continue
        if (twin := study.find_twin(trial)) is not None:
            study.tell_twin(trial, twin)
        else:
            return trial


def train(study: Study, trial: Any, ground: Ground, steps: int, done: Search) -> tuple[int, Ending]:
    """One process of a trial; returns the step that it ended with, and how."""
    first = study.reload(trial).user_attrs.get(PROMOTED, 0)
    ended_at, ending = steps, Ending.done
    for step in range(first + 1, steps):
        if step % ground.every:
            continue
        loss = ground.loss(trial.params, step)
        done.hear(step, loss)
        trial.report(loss, step)
        if trial.should_prune():
            ended_at, ending = step, Ending.paused if study.pauses else Ending.pruned
            break
    done.spent_s += ground.run_s(trial.params, first, ended_at)
    done.steps += ended_at - first
    done.processes += 1
    done.begun += first == 0
    return ended_at, ending


def contestants(every: int, steps: int) -> dict[str, Callable[[Ground, int], Search]]:
    """The searches by name."""

    def of(
        sampler: str, pruner: str, *words: str, configured: bool = False, short: int | None = None
    ) -> Callable[[Ground, int], Search]:
        both = [f"hydra/sweeper/sampler={sampler}", f"hydra/sweeper/pruner={pruner}", *words]

        def run(ground: Ground, seed: int) -> Search:
            return search(ground, both, seed, configured, short)

        return run

    resource = f"hydra.sweeper.pruner.min_resource={every}"
    return {
        "rank_lr_seq: GP, median pruner": of("gp", "median", configured=True),
        "medexp halving, GP": of("gp", "halving", configured=True),
        "medexp freeze-thaw, GP": of("gp", "freeze_thaw", configured=True),
        "Optuna TPE, Hyperband (as BOHB)": of(
            "tpe", "hyperband", resource, f"hydra.sweeper.pruner.max_resource={steps}"
        ),
        "Optuna ASHA, TPE": of(
            "tpe", "successive_halving", resource, "hydra.sweeper.pruner.reduction_factor=3"
        ),
        "Optuna ASHA, random": of(
            "random", "successive_halving", resource, "hydra.sweeper.pruner.reduction_factor=3"
        ),
        "random, full runs": of("random", "none"),
        "medexp halving, TPE": of("tpe", "halving", configured=True),
        "rank_lr_seq in 12 steps, then the best in full": of(
            "gp", "median", configured=True, short=12
        ),
    }


def run_seed(ground: Ground, name: str, seed: int) -> Search:
    """The search of contestant `name` with this seed, in a process of its own."""
    return contestants(ground.every, ground.steps)[name](ground, seed)


def make_row(ground: Ground, searches: list[Search]) -> dict[str, object]:
    """What is kept of all seeds of a contestant; a search that missed counts as the limit."""
    untuned, best = ground.curves.untuned, ground.curves.best

    def hours_until(target: float) -> list[float]:
        return [round(min(each.until(target), ground.limit_s) / 3600, 2) for each in searches]

    until = hours_until(ground.target)

    def gained(hours: float) -> float:
        losses = [each.best_after(3600 * hours) or untuned for each in searches]
        return round(statistics.median((untuned - loss) / (untuned - best) for loss in losses), 4)

    return {
        "median_h": statistics.median(until),
        "quartiles_h": statistics.quantiles(until, n=4)[::2],
        "median_h_within": {
            f"{share:.0%}": statistics.median(hours_until(best + share * (untuned - best)))
            for share in LOOSER
        },
        "missed": sum(each.until(ground.target) == float("inf") for each in searches),
        "share_of_best_gain_after_h": {hours: gained(hours) for hours in HOURS},
        "configurations": statistics.median(each.begun for each in searches),
        "processes": statistics.median(each.processes for each in searches),
        "steps": statistics.median(each.steps for each in searches),
        "hours": until,
    }


def main() -> None:
    """Run every contestant over all seeds, print a table, and keep it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("curves", type=Path)
    parser.add_argument("--lengths-from", type=Path, required=True)
    parser.add_argument("--card-lengths", type=int, nargs=2, default=[1024, 4096])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--every", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--limit-h", type=float, default=12.0, help="then a search gives up")
    parser.add_argument("--only", nargs="*", default=[""], help="words of the contestants' names")
    parser.add_argument("--at-a-time", type=int, default=max(1, (os.cpu_count() or 1) // 2))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    curves = Curves(args.curves, args.lengths_from, tuple(args.card_lengths))
    seconds = Seconds((int(curves.ranks[0]), int(curves.ranks[-1])), curves.lengths)
    ground = Ground(
        curves, seconds, args.steps, args.every, 3600 * args.limit_h, target=curves.target()
    )
    configured_s = ground.run_s(START, 0, args.steps)
    print(
        f"best feasible {curves.best:.4f}, target {ground.target:.4f}, untuned"
        f" {curves.untuned:.4f}; the run as configured takes {configured_s / 60:.0f} min, an"
        f" evaluation {seconds.evaluation:.0f} s",
        flush=True,
    )
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    told = {
        "curves": args.curves.name,
        "lengths_from": args.lengths_from.name,
        "card_lengths": args.card_lengths,
        "steps": args.steps,
        "every": args.every,
        "limit_h": args.limit_h,
        "seeds": [seeds[0], seeds[-1]],
        "target": ground.target,
        "start_s": START_S,
        "evaluation_s": seconds.evaluation,
    }
    with ProcessPoolExecutor(args.at_a_time) as pool:
        for name in contestants(args.every, args.steps):
            if not any(word in name for word in args.only):
                continue
            row = make_row(ground, list(pool.map(partial(run_seed, ground, name), seeds)))
            if args.out:
                keep_row(args.out, told, name, row)
            shown = {key: value for key, value in row.items() if key != "hours"}
            print(f"{name:48} {shown}", flush=True)


def keep_row(file: Path, told: dict[str, object], name: str, row: dict[str, object]) -> None:
    """Write a contestant's row beside those of the same comparison that are there."""
    earlier = json.loads(file.read_text()) if file.exists() else {}
    is_same = all(earlier.get(key) == value for key, value in told.items())
    rows = (earlier["rows"] if is_same and earlier else {}) | {name: row}
    file.write_text(json.dumps(told | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
