"""What a sweep adds to its trials, read from a finished one (n_jobs=1).

    python benchmarks/sweep/overhead.py multirun/rank_lr_seq-cpu

A trial's line ends with its currency: steps, seconds of the card, and the seconds planned for it.

Before: the last trial's end to this process's birth (drawing, composing, planning, telling of what
cannot fit, starting it). After: the outcome on disk to the study's record (the process ends, the
study is told). Between lies the trial with its imports.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

from medexp.sweep.study import storage
from medexp.sweep.study.history import ELAPSED, FOLDER, PLANNED_S, STEPS, ending_of
from medexp.sweep.study.trial_files import read_json_object


def main() -> None:
    """Print a line a trial, then the medians."""
    import optuna

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", type=Path, help="the folder of the sweep")
    folder = parser.parse_args().study.absolute()
    study = optuna.load_study(
        study_name=folder.name, storage=storage.connect(storage.default_url(folder))
    )
    rows: list[tuple[float, float]] = []
    last_end = None
    for trial in study.get_trials():
        ending = ending_of(trial)
        recorded = trial.user_attrs.get(FOLDER)
        if recorded is None or ending is None or not ending.counts:
            continue
        # The sweep's folder may have been moved since.
        trial_folder = folder / Path(recorded).name
        process = read_json_object(trial_folder / "process.json")
        if process is None:
            continue
        outcome_at = (trial_folder / "outcome.json").stat().st_mtime
        end = trial.datetime_complete.timestamp()
        before = process["began"] - (last_end or trial.datetime_start.timestamp())
        rows.append((before, end - outcome_at))
        print(
            f"trial {trial.number}: {before:.2f} s before, {end - outcome_at:.2f} s after,"
            f" {outcome_at - process['began']:.1f} s itself; {_describe_cost(trial.user_attrs)}"
        )
        last_end = end
    before, after = (statistics.median(column) for column in zip(*rows, strict=True))
    print(
        f"median of {len(rows)} trials: {before:.2f} s before + {after:.2f} s after ="
        f" {before + after:.2f} s"
    )


def _describe_cost(attrs: dict[str, Any]) -> str:
    """Return steps, seconds taken and, where the study has them, seconds planned."""
    planned = f", {attrs[PLANNED_S]:.0f} s planned" if PLANNED_S in attrs else ""
    return f"{attrs.get(STEPS, '?')} steps, {attrs.get(ELAPSED, 0.0):.0f} s{planned}"


if __name__ == "__main__":
    main()
