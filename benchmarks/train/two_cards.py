"""One run on one card and on two, in one call: tokens/s, the losses side by side, and the run taken
from two cards to one and back to two.

    python benchmarks/train/two_cards.py --out results/ --steps 24 -- hardware=h200_141gb
    # the same without a card, two processes over gloo
    python benchmarks/train/two_cards.py --out results/ --steps 8 -- hardware=cpu debug=fast

What follows -- goes to every run; hardware.engine=transformers, as several cards need it, and
lora.dropout=0, as masks are drawn a card, come before it. The third run is stopped by Ctrl-C after
a third of its steps on two cards, goes on with one, is stopped after two thirds, and ends on two.
Writes two_cards.json after every run, and a log a run.
"""

import argparse
import datetime
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HISTORIES = ("train/loss", "train/grad_norm", "eval/loss", "speed/tokens_per_s", "speed/step_s")
PACKAGES = ("torch", "transformers", "accelerate", "trl", "peft")
_STEP = re.compile(r"^\s+step (\d+)/\d+  loss")
_ANSWERING = re.compile(r"answering (\d+) held-out questions? with the (\w+) model (.+)")


class Runs:
    """Runs of medexp.train with the same overrides, each store and log under `out`."""

    def __init__(self, args: argparse.Namespace):
        self._out, self._steps, self._warm = args.out, args.steps, args.warm
        self._overrides = [
            "hardware.engine=transformers",
            "lora.dropout=0",
            f"training.max_steps={args.steps}",
            "training.epochs=null",
            "tracking.system_metrics=false",
            *args.overrides,
        ]

    def train(self, store: str, cards: int, stop_at: int | None = None) -> int:
        """Train in `store` on so many `cards`; press Ctrl-C once step `stop_at` is done. Return the
        exit status.
        """
        log = self._out / f"{store}.log"
        command = [
            *(sys.executable, "-m", "medexp.train", *self._overrides),
            f"hardware.cards={cards}",
            f"tracking.root={self._out / store}",
            f"hydra.run.dir={self._out / store / 'outputs' / str(time.time_ns())}",
        ]
        began = time.perf_counter()
        paths = filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])
        with (
            log.open("a") as kept,
            subprocess.Popen(
                command,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            ) as process,
        ):
            for line in process.stdout or ():
                kept.write(line)
                step = _STEP.match(line)
                if step and stop_at is not None and int(step[1]) >= stop_at:
                    process.send_signal(signal.SIGINT)
                    stop_at = None
        seconds = time.perf_counter() - began
        print(f"{store}, cards={cards}: exit {process.returncode} after {seconds:.0f} s")
        return process.returncode

    def read(self, store: str) -> dict[str, Any]:
        """Return what the run in `store` has kept in MLflow, and how long answers took."""
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{self._out / store}/mlflow.db")
        experiments = [each.experiment_id for each in client.search_experiments()]
        (run,) = client.search_runs(experiments)
        entries = {name: client.get_metric_history(run.info.run_id, name) for name in HISTORIES}
        histories = {
            name: {entry.step: entry.value for entry in logged} for name, logged in entries.items()
        }
        speeds = [*histories["speed/tokens_per_s"].values()][self._warm :]
        answering = _ANSWERING.findall((self._out / f"{store}.log").read_text())
        return {
            "status": run.info.status,
            "tokens_per_s": statistics.median(speeds),
            "answering": [f"{who}: {count} in {took}" for count, who, took in answering],
            "metrics": run.data.metrics,
            **histories,
        }


def compare(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return the losses of two runs side by side, and the largest relative difference of each."""
    compared: dict[str, Any] = {}
    for name in ("train/loss", "train/grad_norm", "eval/loss"):
        sides = {step: (value, other[name].get(step)) for step, value in one[name].items()}
        differences = [abs(a - b) / abs(a) for a, b in sides.values() if b is not None]
        compared[name] = {
            "side_by_side": sides,
            "steps_in_both": len(differences),
            "largest_relative_difference": max(differences, default=None),
        }
    return compared


def describe_machine() -> dict[str, Any]:
    """Return the cards or cores here, and the versions that decide the figures."""
    from medexp.system import machine

    here = machine.read()
    return {
        "cards": [card.name for card in here.gpus],
        "cores": here.cores,
        "packages": {name: metadata.version(name) for name in PACKAGES},
    }


def measure(runs: Runs, args: argparse.Namespace, results: dict[str, Any]) -> None:
    """Make the three runs; what is known is in `results` and in the file after each."""

    def keep() -> None:
        (args.out / "two_cards.json").write_text(json.dumps(results, indent=1))

    for store, cards in (("one", 1), ("two", 2)):
        if status := runs.train(store, cards):
            raise SystemExit(f"{store} ended with {status}; see {args.out / store}.log")
        results["runs"][store] = runs.read(store)
        keep()
    one, two = results["runs"]["one"], results["runs"]["two"]
    results["speed_up"] = two["tokens_per_s"] / one["tokens_per_s"]
    results["one_against_two"] = compare(one, two)
    keep()
    results["stops"] = [
        runs.train("moved", 2, stop_at=args.steps // 3),
        runs.train("moved", 1, stop_at=2 * args.steps // 3),
        runs.train("moved", 2),
    ]
    results["runs"]["moved"] = runs.read("moved")
    results["one_against_moved"] = compare(one, results["runs"]["moved"])
    keep()


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print the figures, and write them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="a folder that is new or empty")
    parser.add_argument("--steps", type=int, default=24, help="at least 6")
    parser.add_argument("--warm", type=int, default=3, help="first steps that are not timed")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args(words)
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    if any(args.out.iterdir()):
        raise SystemExit(f"{args.out} is not empty: runs there would be continued; name another")
    sys.path.insert(0, str(ROOT))
    results: dict[str, Any] = {
        "date": str(datetime.date.today()),
        "command": [Path(sys.argv[0]).name, *(words or sys.argv[1:])],
        "machine": describe_machine(),
        "runs": {},
    }
    measure(Runs(args), args, results)
    one, two = (results["runs"][store]["tokens_per_s"] for store in ("one", "two"))
    print(f"tokens/s: {one:,.0f} on one card, {two:,.0f} on two: {results['speed_up']:.3f} x")
    for pair in ("one_against_two", "one_against_moved"):
        for name, compared in results[pair].items():
            print(
                f"{pair.replace('_', ' ')}, {name}: {compared['steps_in_both']} steps, largest"
                f" relative difference {compared['largest_relative_difference']:.1e}"
            )
    print(f"exit status of the moved run's three parts: {results['stops']}")


if __name__ == "__main__":
    main()
