"""Two objectives, loss and peak memory: how much of the best possible front a sweep has found after
N trials, by sampler.

    python benchmarks/sweep/front.py benchmarks/sweep/recordings/smollm2.json --seeds 20 --out \
        results.json

The search is that of compare.py: rank, learning rate, length on a recording of real runs. Peaks are
those of the thriftiest plan (`training.plan=frugal`, as `sweep=pareto_loss_vram` has it) of
hardware=rtx4050_6gb. A front is worth the area (hypervolume) that it dominates between the untuned
loss, the ceiling, and the origin of both scales: the best loss and the least peak that there are.
"""

import argparse
import json
import statistics
import tempfile
from bisect import bisect_right
from itertools import product
from pathlib import Path

import hydra
from compare import limits_of, space_of
from omegaconf import OmegaConf
from surrogate import Surrogate

from medexp.config.changes import change_values
from medexp.config.registration import register_with_hydra
from medexp.config.resolve import resolve
from medexp.config.shipped import find_conf_dir
from medexp.planning import feasibility, planner
from medexp.sweep.search.options import check_options
from medexp.sweep.study.study import open_study
from medexp.sweep.study.trial_files import Ending, TrialOutcome
from medexp.system import machine
from medexp.system.units import GIB

CARD = ["hardware=rtx4050_6gb", "evaluation.answers=0"]
LENGTHS = 16  # at so many lengths peaks are planned; between them they are interpolated
SHARES = (0.9, 0.95, 0.99)


def compose_config(words: list[str]) -> object:
    """The composed config of medexp.train with these words."""
    register_with_hydra()
    with hydra.initialize_config_dir(str(find_conf_dir()), version_base="1.3"):
        return hydra.compose("train", words, return_hydra_config=True)


class Peaks:
    """GiB of the thriftiest plan over rank and length, from the planner."""

    def __init__(self, surrogate: Surrogate, ranks: list[int]):
        cfg = hydra_free(compose_config([*CARD, "training.plan=frugal"]))
        run = resolve(cfg, machine.read(), Path.cwd(), {}, needs_card=False)
        # what does not fit is asked for, too: the surrogate says that it does not
        run = change_values(run, {"hardware.vram_ceiling_gib": None})
        low, high = surrogate.lengths
        self._lengths = [
            round(low + step / (LENGTHS - 1) * (high - low)) for step in range(LENGTHS)
        ]
        self._ranks = [ranks[0], ranks[-1]]  # bytes are linear in the rank
        places = product(self._ranks, self._lengths)
        self._gib = {
            (rank, seq): planner.rank_plans(feasibility.resize_run(run, rank, seq))[
                0
            ].budget.peak_bytes
            / GIB
            for rank, seq in places
        }

    def __call__(self, rank: int, seq: int) -> float:
        """GiB at this rank and length."""
        index = min(max(bisect_right(self._lengths, seq) - 1, 0), LENGTHS - 2)
        below, above = self._lengths[index : index + 2]
        along = (seq - below) / (above - below)
        low, high = (
            self._gib[r, below] + along * (self._gib[r, above] - self._gib[r, below])
            for r in self._ranks
        )
        return low + (rank - self._ranks[0]) / (self._ranks[1] - self._ranks[0]) * (high - low)


def hydra_free(cfg: object) -> object:
    """`cfg` without Hydra's own node."""
    return OmegaConf.masked_copy(cfg, [name for name in cfg if name != "hydra"])


class Ground:
    """Where fronts are compared: both objectives scaled to 0 (the best there is) .. 1 (untuned, the
    ceiling).
    """

    def __init__(self, surrogate: Surrogate, peaks: Peaks, ceiling_gib: float):
        self.surrogate, self.peaks = surrogate, peaks
        ranks, rates = range(surrogate.axes[0][0], surrogate.axes[0][-1] + 1), surrogate.axes[1]
        low, high = surrogate.lengths
        logs = [rates[0] * (rates[-1] / rates[0]) ** (step / 40) for step in range(41)]
        lengths = [low + step / 40 * (high - low) for step in range(41)]
        fitting = [(r, seq) for r in ranks for seq in lengths if surrogate.fits(r, seq)]
        losses = [
            (min(surrogate.loss(r, lr, seq) for lr in logs), peaks(r, seq)) for r, seq in fitting
        ]
        self._least = tuple(min(column) for column in zip(*losses, strict=True))
        self._most = (surrogate.untuned, ceiling_gib)
        self.best = self.worth(losses)

    def worth(self, points: list[tuple[float, float]]) -> float:
        """The area that these (loss, GiB) dominate."""
        area, floor = 0.0, 1.0
        for across, up in sorted(self._scaled(point) for point in points):
            if across < 1 and up < floor:
                area += (1 - across) * (floor - up)
                floor = up
        return area

    def _scaled(self, point: tuple[float, float]) -> tuple[float, float]:
        across, up = (
            (value - low) / (high - low)
            for value, low, high in zip(point, self._least, self._most, strict=True)
        )
        return across, up


def run(
    ground: Ground, sampler: str, seed: int, trials: int, plans: bool, folder: Path
) -> tuple[list[float], int]:
    """The share of the best front's worth after each trial that was started, and proposals refused
    before.
    """
    words = [
        *CARD,
        "sweep=pareto_loss_vram",
        f"hydra/sweeper/sampler={sampler}",
        f"sweep.n_trials={trials}",
    ]
    seeded = [] if sampler == "grid" else [f"hydra.sweeper.sampler.seed={seed}"]
    options = OmegaConf.to_container(compose_config([*words, *seeded]).hydra.sweeper, resolve=True)
    asked = check_options({key: value for key, value in options.items() if not key.startswith("_")})
    study = open_study(
        "s", f"{folder}/{sampler}-{seed}-{plans}.journal", space_of(ground.surrogate), asked
    )
    found: list[tuple[float, float]] = []
    shares: list[float] = []
    refused = 0
    while len(shares) < trials:
        trial = study.ask()
        fits = ground.surrogate.fits(trial.params["r"], trial.params["seq"])
        limits = limits_of(ground.surrogate, trial)
        if not fits and plans:
            study.tell(trial, TrialOutcome(Ending.infeasible), limits)
            refused += 1
            continue
        if fits:
            point = (
                ground.surrogate.loss(**trial.params),
                ground.peaks(trial.params["r"], trial.params["seq"]),
            )
            found.append(point)
            study.tell(
                trial,
                TrialOutcome(
                    Ending.done, "", {"result/loss_after": point[0], "sweep/peak_gib": point[1]}
                ),
                limits,
            )
        else:
            study.tell(trial, TrialOutcome(Ending.vram), limits)
        shares.append(ground.worth(found) / ground.best)
    return shares, refused


def main() -> None:
    """Run every contestant over all seeds and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recording", type=Path)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--bend", type=float, default=0.0, help="as surrogate.py says")
    parser.add_argument(
        "--only", nargs="*", default=[""], help="contestants whose name holds one of these words"
    )
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    surrogate = Surrogate(args.recording, args.bend)
    ceiling = compose_config(CARD).hardware.vram_ceiling_gib
    ground = Ground(surrogate, Peaks(surrogate, surrogate.axes[0]), ceiling)
    samplers = ("gp", "tpe", "nsgaii", "random")
    contestants = {f"{sampler}, planned": (sampler, True) for sampler in samplers} | {
        f"{sampler}, no plan": (sampler, False) for sampler in samplers
    }
    rows = {}
    for name, (sampler, plans) in contestants.items():
        if not any(word in name for word in args.only):
            continue
        with tempfile.TemporaryDirectory() as folder:
            seeds = range(args.first_seed, args.first_seed + args.seeds)
            runs = [run(ground, sampler, seed, args.trials, plans, Path(folder)) for seed in seeds]
        rows[name] = _row(runs)
        print(f"{name:20}", rows[name] | {"shares": None}, flush=True)
    if args.out:
        told = {
            "recording": args.recording.name,
            "bend": args.bend,
            "seeds": args.seeds,
            "trials": args.trials,
        }
        args.out.write_text(json.dumps(told | {"rows": rows}, indent=1) + "\n")


def _row(runs: list[tuple[list[float], int]]) -> dict[str, object]:
    def until(share: float) -> float:
        return statistics.median(
            next((n for n, s in enumerate(shares, 1) if s >= share), len(shares) + 1)
            for shares, _ in runs
        )

    last = len(runs[0][0])
    at = [count for count in (8, 15, 30, 60) if count <= last]
    return {
        "trials_until": {f"{share:.0%}": until(share) for share in SHARES},
        "share_after": {
            count: round(statistics.median(shares[count - 1] for shares, _ in runs), 4)
            for count in at
        },
        "refused": statistics.mean(refused for _, refused in runs),
    }


if __name__ == "__main__":
    main()
