"""How far a sweep is: what is running, and how long the rest will take."""

import time
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from medexp.sweep.reporting.currency import sum_study_cost
from medexp.sweep.study.history import ELAPSED, StudyHistory, ending_of
from medexp.sweep.study.trial_files import Ending, read_json_object
from medexp.system.units import format_duration

# Trials that no process was started for.
UNSTARTED = (Ending.infeasible, Ending.copied, Ending.surplus)


def estimate_left_s(study: StudyHistory, trials: Sequence[Any]) -> float | None:
    """Return the seconds, on the clock, until `study` has its trials or its budget is spent.

    The others are taken to last as long as those that ended did, on average; None before one has.
    """
    elapsed_s = [
        trial.user_attrs[ELAPSED]
        for trial in trials
        if trial.user_attrs.get(ELAPSED) and ending_of(trial) not in UNSTARTED
    ]
    remaining = study.options.n_trials - study.count_done()
    if not elapsed_s or remaining <= 0:
        return None
    mean_s = fmean(elapsed_s)
    ages_s = [measure_age_s(trial) for trial in trials if trial.state.name == "RUNNING"]
    left_s = mean_s * remaining - sum(min(mean_s, age_s) for age_s in ages_s)
    if study.options.budget_s is not None:
        spent_s = sum_study_cost(study).elapsed_s + sum(ages_s)
        left_s = min(left_s, study.options.budget_s - spent_s)
    return max(0.0, left_s) / study.options.n_jobs


def format_progress(study: StudyHistory, trials: Sequence[Any]) -> str:
    """Return how many trials are done of how many, and how long the rest will take."""
    left_s = estimate_left_s(study, trials)
    to_go = "" if left_s is None else f", {format_duration(left_s)} to go"
    return f"{format_done(study)}{to_go}"


def format_done(study: StudyHistory) -> str:
    """Return how many trials are done of how many."""
    return f"{study.count_done()} of {study.options.n_trials} trials"


def measure_age_s(trial: Any) -> float:
    """Return the seconds since `trial` was begun, 0 where it waits."""
    began = trial.datetime_start
    return max(0.0, time.time() - began.timestamp()) if began else 0.0


def describe_step(study: StudyHistory, trial: Any) -> str:
    """Return how far training is, from the file that the trial's process writes."""
    folder = study.folder_of(trial)
    progress = read_json_object(folder / "progress.json") if folder else None
    return f"step {progress['step']}/{progress['steps']}" if progress else "starting"
