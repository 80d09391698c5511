"""Trials that cost something until the loss is within 1 % of the best feasible: medexp's sweep
beside its peers on one surrogate.

    python benchmarks/sweep/compare.py RECORDING.json --peer /tmp/peer/bin/python --seeds 20 \
        --out results.json

Every contestant draws rank (log), learning rate (log) and length, and gets `--trials` starts.
medexp plans first: what does not fit costs no start. For the others it costs one, as out of memory
does. A contestant stops at the target; `--out` keeps its rows beside those that an earlier command
left there. With `--at-a-time` N trials run at any moment and the oldest ends first, so that each is
proposed while N - 1 losses are not known yet.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from omegaconf import OmegaConf
from surrogate import Surrogate

from medexp.config.registration import register_with_hydra
from medexp.config.shipped import find_conf_dir
from medexp.sweep.search.options import check_options
from medexp.sweep.search.proposal import VRAM
from medexp.sweep.search.search_space import FloatRange, IntRange, SearchSpace
from medexp.sweep.study.study import open_study
from medexp.sweep.study.trial_files import Ending, TrialOutcome

HERE = Path(__file__).resolve().parent
# the run as configured: hardware=rtx4050_6gb's rank and length
START = {"r": 16, "lr": 5e-4, "seq": 2048}


def space_of(surrogate: Surrogate) -> SearchSpace:
    """The search space over the recording."""
    (low_r, *_, high_r), (low_lr, *_, high_lr) = surrogate.axes[:2]
    low, high = surrogate.lengths
    lengths = IntRange(low, low + (high - low) // 64 * 64, 64)
    return SearchSpace(
        {
            "r": IntRange(low_r, high_r, log=True),
            "lr": FloatRange(low_lr, high_lr, log=True),
            "seq": lengths,
        }
    )


def make_options(sampler: str, seed: int, trials: int) -> object:
    """medexp's settings with this sampler."""
    words = [
        f"hydra/sweeper/sampler={sampler}",
        f"hydra.sweeper.sampler.seed={seed}",
        f"sweep.n_trials={trials}",
    ]
    register_with_hydra()
    with hydra.initialize_config_dir(str(find_conf_dir()), version_base="1.3"):
        cfg = hydra.compose("train", words, return_hydra_config=True)
    options = OmegaConf.to_container(cfg.hydra.sweeper, resolve=True)
    return check_options({key: value for key, value in options.items() if not key.startswith("_")})


def paid(
    surrogate: Surrogate,
    sampler: str,
    seed: int,
    trials: int,
    at_a_time: int,
    plans: bool,
    tells: bool,
    folder: Path,
) -> tuple[list[float], int]:
    """Losses of the trials that were started, as they end, until the target is reached (infinite
    where one ran out of memory), and proposals refused before.

    `plans`: what does not fit is refused before it starts, and the run as configured comes first.
    `tells`: the sampler hears of violations.
    """
    study = open_study(
        "s",
        f"{folder}/{sampler}-{seed}-{plans}.journal",
        space_of(surrogate),
        make_options(sampler, seed, trials),
    )
    losses: list[float] = []
    refused, target = 0, surrogate.target()
    if plans:
        study.enqueue(
            START | {"lr": min(max(START["lr"], surrogate.axes[1][0]), surrogate.axes[1][-1])}
        )
    running: deque[Any] = deque()
    while len(losses) < trials and not is_there(losses, target):
        while len(running) < at_a_time:
            trial = study.ask()
            if plans and not surrogate.fits(trial.params["r"], trial.params["seq"]):
                study.tell(trial, TrialOutcome(Ending.infeasible), limits_of(surrogate, trial))
                refused += 1
            else:
                running.append(trial)
        trial = running.popleft()
        limits = limits_of(surrogate, trial) if tells else {}
        if surrogate.fits(trial.params["r"], trial.params["seq"]):
            losses.append(surrogate.loss(**trial.params))
            study.tell(
                trial, TrialOutcome(Ending.done, "", {"result/loss_after": losses[-1]}), limits
            )
        else:
            losses.append(float("inf"))
            study.tell(trial, TrialOutcome(Ending.vram if tells else Ending.crashed), limits)
    return losses, refused


def limits_of(surrogate: Surrogate, trial: Any) -> dict[str, float]:
    """By how much the trial's point does not fit."""
    return {VRAM: surrogate.over(trial.params["r"], trial.params["seq"])}


def of_the_peer(
    python: str,
    recording: Path,
    surrogate: Surrogate,
    seed: int,
    trials: int,
    at_a_time: int,
    folder: Path,
) -> tuple[list[float], int]:
    """The same of hydra-optuna-sweeper."""
    (low_r, *_, high_r), (low_lr, *_, high_lr) = surrogate.axes[:2]
    low, high = surrogate.lengths
    log = folder / f"peer-{seed}.txt"
    words = [
        f"r=tag(log,int(interval({low_r},{high_r})))",
        f"lr=tag(log,interval({low_lr},{high_lr}))",
        f"seq=range({low},{high + 1},64)",
        "hydra/sweeper=optuna",
        f"hydra.sweeper.n_trials={trials}",
        f"hydra.sweeper.n_jobs={at_a_time}",
        "hydra.sweeper.max_failure_rate=1.0",
        "hydra.sweeper.direction=minimize",
        f"hydra.sweeper.sampler.seed={seed}",
        f"hydra.sweep.dir={folder}/peer-{seed}",
    ]
    target = surrogate.target()
    env = os.environ | {
        "PEER_SURROGATE": str(recording),
        "PEER_LOG": str(log),
        "PEER_TARGET": str(target),
    }
    done = subprocess.run(
        [python, str(HERE / "peer.py"), "-m", *words],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    losses = [float(line) for line in log.read_text().split()] if log.exists() else []
    if len(losses) != trials and not is_there(losses, target):
        raise RuntimeError(
            f"the peer made {len(losses)} of {trials}"
            f" trials:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        )
    return losses, 0


def is_there(losses: list[float], target: float) -> bool:
    """Return whether the last trial reached the target; no trial after it is counted, or run."""
    return bool(losses) and losses[-1] <= target


def until(losses: list[float], target: float) -> int:
    """How many trials it took to reach `target`; one more than there were if it never was."""
    return next(
        (count for count, loss in enumerate(losses, start=1) if loss <= target), len(losses) + 1
    )


def main() -> None:
    """Run every contestant over all seeds and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recording", type=Path)
    parser.add_argument("--peer", help="python of the peer's environment")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument(
        "--first-seed",
        type=int,
        default=0,
        help="what is tuned is tuned on other seeds than those reported",
    )
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--at-a-time", type=int, default=1, help="trials that run at any moment")
    parser.add_argument(
        "--sampler", nargs="*", default=["gp", "tpe"], help="medexp's samplers to run"
    )
    parser.add_argument(
        "--bend",
        type=float,
        default=0.0,
        help="as surrogate.py says; not for the peer of another environment",
    )
    parser.add_argument(
        "--only", nargs="*", default=[""], help="contestants whose name holds one of these words"
    )
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    surrogate = Surrogate(args.recording, args.bend)
    target = surrogate.target()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def ours(
            sampler: str, plans: bool, tells: bool
        ) -> Callable[[int], tuple[list[float], int]]:
            return lambda seed: paid(
                surrogate, sampler, seed, args.trials, args.at_a_time, plans, tells, folder
            )

        contestants = {f"medexp, {sampler}": ours(sampler, True, True) for sampler in args.sampler}
        contestants["constrained GP without the plan"] = ours("gp", False, True)
        contestants["constrained TPE without the plan"] = ours("tpe", False, True)
        contestants["random search"] = ours("random", False, False)
        if args.peer and not args.bend:
            contestants["hydra-optuna-sweeper 1.3.0, optuna 2.10"] = lambda seed: of_the_peer(
                args.peer,
                args.recording.absolute(),
                surrogate,
                seed,
                args.trials,
                args.at_a_time,
                folder,
            )
        seeds = range(args.first_seed, args.first_seed + args.seeds)
        asked_for = {
            name: run
            for name, run in contestants.items()
            if any(word in name for word in args.only)
        }
        rows = {
            name: _row([run(seed) for seed in seeds], target) for name, run in asked_for.items()
        }
    result = {
        "recording": args.recording.name,
        "bend": args.bend,
        "first_seed": args.first_seed,
        "seeds": args.seeds,
        "trials": args.trials,
        "at_a_time": args.at_a_time,
        "best": surrogate.best(),
        "target": target,
    }
    if args.out:
        _keep(args.out, result, rows)
    print(
        f"best feasible {surrogate.best():.4f}, target {target:.4f}, untuned"
        f" {surrogate.untuned:.4f}, {args.seeds} seeds"
    )
    for name, row in rows.items():
        print(
            f"{name:42} median {row['median']:5.1f}  mean {row['mean']:5.1f}"
            f"  worst {row['worst']:3}  missed {row['missed']:2}"
            f"  out of memory {row['out_of_memory']:.1f}  refused {row['refused']:.1f}"
        )


def _keep(file: Path, result: dict[str, object], rows: dict[str, dict[str, object]]) -> None:
    """Write the rows beside those of the same comparison that are there."""
    earlier = json.loads(file.read_text()) if file.exists() else {}
    kept = (
        earlier.pop("rows", {})
        if all(earlier.get(name) == value for name, value in result.items())
        else {}
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result | {"rows": kept | rows}, indent=1) + "\n")


def _row(runs: list[tuple[list[float], int]], target: float) -> dict[str, object]:
    counts = [until(losses, target) for losses, _ in runs]
    return {
        "median": statistics.median(counts),
        "mean": statistics.mean(counts),
        "worst": max(counts),
        "missed": sum(count > len(losses) for count, (losses, _) in zip(counts, runs, strict=True)),
        "out_of_memory": statistics.mean(
            sum(loss == float("inf") for loss in losses) for losses, _ in runs
        ),
        "refused": statistics.mean(refused for _, refused in runs),
        "counts": counts,
    }


if __name__ == "__main__":
    main()
