"""A study of a thousand trials: what a sweep costs beside its trials, as the study grows.

    python benchmarks/sweep/scale.py --trials 1000 --sweepers 8 --out results.json \
        --storage postgresql+psycopg://USER@HOST/DATABASE

Every sweeper is the real command, `python -m medexp.train -m`, in a process of its own, and all
share one study. Only the launcher is another one: a trial waits `--trial-seconds` and ends with the
loss that the recording has for its point (hydra_plugins/recorded_launcher.py). Prints for each
hundred of trials the seconds that a sweeper takes beside each, the sweepers' processor seconds a
trial and their largest memory, and the size of the storage; after Ctrl-C of those until then.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
from hydra_plugins.recorded_launcher import RECORDING, SECONDS, RecordedLauncher

from medexp.sweep.study import storage
from medexp.sweep.study.history import OWNER, ending_of

HERE = Path(__file__).resolve().parent
NAME = "scale"
A_ROW = 100  # trials


def start_sweeper(folder: Path, url: str, args: argparse.Namespace) -> "subprocess.Popen[bytes]":
    """The command of one sweeper, under way; what it prints goes to a file in `folder`."""
    words = [
        "hardware=rtx4050_6gb",
        "dataset=clinical_cases",
        "lora.r=tag(log,int(interval(4,64)))",
        "training.learning_rate=tag(log,interval(1e-4,1e-2))",
        "training.max_seq_tokens=range(1024,4097,64)",
        f"hydra.launcher._target_={RecordedLauncher.__module__}.{RecordedLauncher.__qualname__}",
        f"hydra/sweeper/sampler={args.sampler}",
        f"hydra.sweeper.study_name={NAME}",
        f"hydra.sweeper.storage={url}",
        f"sweep.n_trials={args.trials}",
        "sweep.configured_first=false",
        "tracking.root=mlruns",
        f"hydra.sweep.dir={folder / 'multirun'}",
    ]
    places = os.pathsep.join([str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {
        "PYTHONPATH": places,
        RECORDING: str(args.recording.absolute()),
        SECONDS: str(args.trial_seconds),
    }
    with (folder / "sweepers.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "medexp.train", "-m", *words],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def measure_storage(url: str) -> int:
    """Bytes of the study's storage."""
    if url.startswith("sqlite:///"):
        return Path(url.removeprefix("sqlite:///")).stat().st_size
    if not url.startswith("postgresql"):
        return Path(url).stat().st_size
    from sqlalchemy import create_engine, text

    with create_engine(url).connect() as connection:
        size: int = connection.execute(text("select pg_database_size(current_database())")).scalar()
    return size


def watch(
    sweepers: list["subprocess.Popen[bytes]"], url: str, trials: int, rows: list[dict[str, float]]
) -> None:
    """Wait for the end of the sweepers; add to `rows` what was there as each hundredth trial
    ended."""
    import optuna

    processes = [psutil.Process(sweeper.pid) for sweeper in sweepers]
    seen: dict[int, tuple[float, int]] = {}
    study: Any = None
    while any(sweeper.poll() is None for sweeper in sweepers):
        time.sleep(2)
        for process in processes:
            try:
                times = process.cpu_times()
                seen[process.pid] = (times.user + times.system, process.memory_info().rss)
            except psutil.Error:
                continue
        if study is None:
            try:
                study = optuna.load_study(study_name=NAME, storage=storage.connect(url))
            except KeyError:
                continue
        done = sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))
        is_last = done >= trials and (not rows or rows[-1]["trials"] < trials)
        if done >= A_ROW * (len(rows) + 1) or is_last:
            rows.append(
                {
                    "trials": done,
                    "cpu_s": sum(cpu for cpu, _ in seen.values()),
                    "max_rss_mib": max(rss for _, rss in seen.values()) / 2**20,
                    "storage_mib": measure_storage(url) / 2**20,
                }
            )
            print(f"{done} trials", file=sys.stderr, flush=True)


def list_gaps(url: str, trial_seconds: float) -> list[tuple[int, float]]:
    """Of every trial but a sweeper's first: its number, and the seconds that its sweeper took
    beside the trial, from the end of the one before to its own end.
    """
    import optuna

    trials = optuna.load_study(study_name=NAME, storage=storage.connect(url)).get_trials()
    by_sweeper: dict[str, list[Any]] = {}
    for trial in trials:
        ending = ending_of(trial)
        if ending is not None and ending.counts and OWNER in trial.user_attrs:
            by_sweeper.setdefault(str(trial.user_attrs[OWNER]), []).append(trial)
    gaps = []
    for own in by_sweeper.values():
        own.sort(key=lambda trial: trial.datetime_complete)
        for before, after in pairwise(own):
            seconds = (after.datetime_complete - before.datetime_complete).total_seconds()
            gaps.append((after.number, seconds - trial_seconds))
    return sorted(gaps)


def main() -> None:
    """Run the sweepers, print a line for each hundred of trials, and keep them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recording", type=Path, default=HERE / "recordings" / "smollm2.json")
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--sweepers", type=int, default=8)
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--trial-seconds", type=float, default=0.0)
    parser.add_argument("--storage", help="URL of an empty database; default: sqlite in a folder")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        url = args.storage or f"sqlite:///{folder}/study.db"
        began = time.monotonic()
        sweepers = [start_sweeper(folder, url, args) for _ in range(args.sweepers)]
        rows: list[dict[str, float]] = []
        is_cut = False
        try:
            watch(sweepers, url, args.trials, rows)
        except KeyboardInterrupt:
            is_cut = True
        finally:
            for sweeper in sweepers:
                sweeper.kill()
        took_s = time.monotonic() - began
        if not is_cut and any(sweeper.returncode for sweeper in sweepers):
            raise SystemExit((folder / "sweepers.log").read_text()[-3000:])
        gaps = list_gaps(url, args.trial_seconds)
    last_cpu_s = last_done = 0.0
    for row in rows:
        within = [gap for number, gap in gaps if last_done <= number < row["trials"]]
        row["beside_s"] = round(statistics.median(within), 3) if within else float("nan")
        row["cpu_s_a_trial"] = round((row["cpu_s"] - last_cpu_s) / (row["trials"] - last_done), 3)
        last_cpu_s, last_done = row["cpu_s"], row["trials"]
        print(
            f"{row['trials']:5.0f} trials: {row['beside_s']:.2f} s beside a trial,"
            f" {row['cpu_s_a_trial']:.2f} s of a core a trial, a sweeper's memory"
            f" {row['max_rss_mib']:.0f} MiB, storage {row['storage_mib']:.1f} MiB"
        )
    cut = ", cut by Ctrl-C" if is_cut else ""
    print(f"{took_s:.0f} s in all, {args.sweepers} sweepers, {args.sampler}{cut}")
    if args.out:
        told = {
            "recording": args.recording.name,
            "trials": args.trials,
            "sweepers": args.sweepers,
            "sampler": args.sampler,
            "trial_seconds": args.trial_seconds,
            "storage": url.partition(":")[0],
            "rows": rows,
        }
        args.out.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
