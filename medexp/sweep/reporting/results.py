"""The results of a sweep: in MLflow's parent run, in the study's folder, and on the screen."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from filelock import FileLock

from medexp.config.schema import Tracking
from medexp.errors import MedexpError, OutputError, RunError
from medexp.reports import mlflow_description
from medexp.sweep.reporting import currency, winner
from medexp.sweep.reporting.live_table import COLUMNS, make_row
from medexp.sweep.reporting.progress import format_done
from medexp.sweep.search.labels import AS_CONFIGURED, format_params
from medexp.sweep.search.proposal import VRAM
from medexp.sweep.study import storage
from medexp.sweep.study.final_results import FinalResult
from medexp.sweep.study.history import (
    ELAPSED,
    MEASURED,
    PLANNED,
    PLANNED_S,
    RUN,
    STEPS,
    WHY,
    StudyHistory,
    ending_of,
    values_of,
)
from medexp.sweep.study.trial_files import Ending, TrialOutcome
from medexp.system import disk_space
from medexp.system.console import Console
from medexp.system.home import short
from medexp.system.units import GIB, gib
from medexp.tracking import queries, registry
from medexp.tracking import tracker as tracking
from medexp.tracking.artifact_names import ADAPTER, BEST_PRESET, INFEASIBLE_PROPOSALS, TRIALS
from medexp.tracking.links import PROGRESS
from medexp.tracking.run_name import abbreviate_params
from medexp.tracking.store_lock import suppress_away
from medexp.tracking.tracker import Tracker

PARENT_RUN = "mlflow_run_id"
BEST_ALIAS = "best"


@contextmanager
def open_parent_run(
    tracking_config: Tracking,
    study: StudyHistory,
    folder: Path,
    say: Callable[[str], None],
) -> Iterator[Tracker]:
    """Open the study's own MLflow run, which its trials are nested under; again where it has one.

    Sweepers that share `folder` open it one after the other, or each would begin one of its own.
    """
    # The parent runs for as long as its trials, whose own runs hold the metrics of the machine.
    parent_config = replace(tracking_config, system_metrics=False)
    with ExitStack() as exit_stack:
        with FileLock(folder / ".parent.lock"):
            run_id = study.optuna.user_attrs.get(PARENT_RUN)
            parent_run = tracking.open_run(parent_config, run_id, study.name, say)
            tracker = exit_stack.enter_context(parent_run)
            study.optuna.set_user_attr(PARENT_RUN, tracker.run_id)
        tracker.set_tags(
            {
                "medexp.study": study.name,
                "medexp.storage": storage.hide_password(study.url),
                "medexp.objective": ", ".join(study.options.objectives),
                "medexp.direction": ", ".join(study.options.directions),
                "mlflow.source.name": "medexp.train",
            }
        )
        yield tracker
        # A trial that was killed alone has left its run open, and no later trial has ended it.
        queries.mark_runs_killed(tracking_config, ())


def count_endings(study: StudyHistory) -> dict[str, int]:
    """Return how many trials ended in which way, without the ways that none did."""
    endings = [ending for ending in map(ending_of, study.trials()) if ending]
    return {ending.value: endings.count(ending) for ending in Ending if ending in endings}


def log_results(
    parent: Tracker,
    study: StudyHistory,
    best_file: Path | None,
    final_results: Sequence[FinalResult] = (),
) -> None:
    """Log the best trial, the counts, the refused proposals and the final runs with the parent
    run.
    """
    trials = study.trials()
    step = log_progress(parent, study)
    if seed_statistics := compute_seed_statistics(study):
        seed_mean, seed_deviation = seed_statistics
        parent.log_metrics(
            step, {"seeds/mean": seed_mean, "seeds/standard_deviation": seed_deviation}
        )
    winner.log_final_results(parent, step, final_results)
    refused = [trial for trial in trials if ending_of(trial) is Ending.infeasible]
    if refused:
        parent.log_json(_make_refused_columns(study, refused), INFEASIBLE_PROPOSALS)
    parent.log_json([trial_as_dict(trial) for trial in trials], TRIALS)
    folder = str(short(best_file.parent)) if best_file is not None else ""
    final = "\n\n".join(
        f"{title.capitalize()}: {text}" for title, text in winner.final_rows(study, final_results)
    )
    parent.set_tags({PROGRESS: format_done(study)})
    parent.set_description(_make_description(study, parent.page, folder, final))
    if best_file is not None:
        parent.log_text(best_file.read_text(encoding="utf-8"), BEST_PRESET)


def log_progress(parent: Tracker, study: StudyHistory) -> int:
    """Log how many trials ended in which way, what they cost and the best of them; return the step
    that it is logged at, which is the number of trials done.
    """
    step = study.count_done()
    endings = count_endings(study)
    parent.log_metrics(step, {f"trials/{name}": float(count) for name, count in endings.items()})
    parent.log_metrics(step, currency.sum_study_cost(study).metrics())
    best_trials = study.best_trials()
    if len(best_trials) == 1 and values_of(best_trials[0]):
        _log_best_trial(parent, study, best_trials[0], step)
    return step


def _log_best_trial(parent: Tracker, study: StudyHistory, trial: Any, step: int) -> None:
    values = zip(study.options.objectives, values_of(trial), strict=True)
    parent.log_metrics(step, {f"best/{name}": value for name, value in values})
    numbers = {
        f"best/{key}": float(value)
        for key, value in trial.params.items()
        if isinstance(value, int | float)
    }
    parent.log_metrics(step, numbers)
    parent.set_tags(
        {
            "best.trial": trial.number,
            "best.run_id": trial.user_attrs.get(RUN),
            "best.point": format_params(trial.params),
        }
    )


def _make_refused_columns(study: StudyHistory, refused: Sequence[Any]) -> dict[str, list[object]]:
    """Return the refused proposals as columns, as MLflow's tables are."""
    columns: dict[str, list[object]] = {"trial": [trial.number for trial in refused]}
    for key in study.space.dimensions:
        columns[key] = [trial.params.get(key) for trial in refused]
    columns["planned_gib"] = [round(gib(trial.user_attrs.get(PLANNED, 0)), 3) for trial in refused]
    columns["over_by_gib"] = [round(trial.constraints.get(VRAM, 0.0) / GIB, 3) for trial in refused]
    columns["why"] = [trial.user_attrs.get(WHY, "") for trial in refused]
    return columns


def _make_description(study: StudyHistory, page: str, folder: str, final: str) -> str:
    best_trial = select_best_trial(study)
    values: dict[str, float] = {}
    params = ""
    if best_trial is not None:
        values = dict(zip(study.options.objectives, values_of(best_trial), strict=True))
        params = abbreviate_params(best_trial.params) or AS_CONFIGURED
    return mlflow_description.describe_study(
        list(study.space.dimensions), params, values, count_endings(study), page, folder, final
    )


def select_best_trial(study: StudyHistory) -> Any:
    """Return the best trial; of a Pareto front, the one with the best first objective.

    None before a trial has a value.
    """
    sign = study.signs()[0]
    return min(study.best_trials(), key=lambda trial: sign * values_of(trial)[0], default=None)


def register_best(
    tracking_config: Tracking, study: StudyHistory, final_results: Sequence[FinalResult] = ()
) -> registry.ModelVersion | None:
    """Register the adapter of the first final run, else of the best trial, in MLflow as
    models:/STUDY@best.

    Where its run has not logged it, it is logged first. Returns None where the adapter or its run
    is gone.
    """
    run_id, folder = _find_winner(study, final_results)
    if run_id is None:
        return None
    model_name = re.sub("[/:@]", "-", study.name)
    # Its run may be in another store or deleted, or the store locked. The results of the study do
    # not depend on the registry.
    with suppress(RunError), suppress_away():
        if folder is not None and (folder / ADAPTER).is_dir():
            queries.add_folder(tracking_config, run_id, folder / ADAPTER, ADAPTER)
        return registry.register_adapter(tracking_config, run_id, model_name, BEST_ALIAS)
    return None


def _find_winner(
    study: StudyHistory, final_results: Sequence[FinalResult]
) -> tuple[str | None, Path | None]:
    """Return the MLflow run and the folder of what the study has come to."""
    if final_results:
        # The best of several seeds would be chosen by the test part.
        first = final_results[0]
        return first.run_id, study.folder / first.folder if study.folder else None
    best_trial = select_best_trial(study)
    if best_trial is None:
        return None, None
    return best_trial.user_attrs.get(RUN), study.folder_of(best_trial)


def trial_as_dict(trial: Any) -> dict[str, object]:
    """Return `trial` as JSON values, as trials.json holds it."""
    ending = ending_of(trial)
    return {
        "number": trial.number,
        "ending": ending.value if ending else trial.state.name.lower(),
        "params": trial.params,
        "values": values_of(trial) or None,
        "constraints": trial.constraints,
        "planned_bytes": trial.user_attrs.get(PLANNED),
        "measured_bytes": trial.user_attrs.get(MEASURED),
        "planned_s": trial.user_attrs.get(PLANNED_S),
        "elapsed_s": trial.user_attrs.get(ELAPSED),
        "steps": trial.user_attrs.get(STEPS),
        "mlflow_run_id": trial.user_attrs.get(RUN),
        "why": trial.user_attrs.get(WHY),
    }


def print_results(
    console: Console,
    study: StudyHistory,
    best_file: Path | None,
    registered: registry.ModelVersion | None,
    final_results: Sequence[FinalResult] = (),
) -> None:
    """Print the trials that were started, the best, what it beat, and what was not started."""
    best_trials = study.best_trials()
    started = [
        trial
        for trial in study.trials()
        if (ending := ending_of(trial)) is not None and ending.counts
    ]
    console.table(
        f"{study.name}: {', '.join(study.options.objectives)}",
        COLUMNS,
        [make_row(trial) for trial in started],
    )
    title = "best" if len(study.options.objectives) == 1 else "Pareto front"
    rows = [
        (title, f"trial {trial.number}: {format_params(trial.params)}: {_format_values(trial)}")
        for trial in best_trials
    ]
    rows += _comparison_rows(study, best_trials) + _seed_rows(study)
    rows += winner.final_rows(study, final_results)
    endings = count_endings(study)
    not_started = (
        f"{endings.get('infeasible', 0)} proposals could not fit, {endings.get('copied', 0)}"
        " repeated a finished one"
    )
    rows.append(("never started", not_started))
    rows += currency.cost_rows(study)
    if best_file is not None:
        command = f"python -m medexp.train --config-dir {short(best_file.parent)} experiment=best"
        rows.append((BEST_PRESET, str(best_file)))
        rows.append(("again", command))
    if registered is not None:
        rows.append(("registered", f"{registered.uri}: run= of any command takes it"))
    rows.append(("study", storage.hide_password(study.url)))
    console.table("This sweep", ("", ""), rows)


def _name_trial(trial: Any) -> str:
    return f"trial {trial.number} ({format_params(trial.params)})"


def _format_values(trial: Any) -> str:
    return ", ".join(f"{value:.4f}" for value in values_of(trial))


def _comparison_rows(study: StudyHistory, best_trials: Sequence[Any]) -> list[tuple[str, str]]:
    """Return rows that compare the best trial with the second best and with the first one."""
    done = [trial for trial in study.trials() if ending_of(trial) is Ending.done]
    others = [trial for trial in done if trial not in best_trials]
    if len(study.options.objectives) > 1 or not best_trials or not others:
        return []
    # The first trial is the run as it was configured, which the sweep has to beat.
    first = min(done, key=lambda trial: trial.number)
    sign = study.signs()[0]
    second_best = min(others, key=lambda trial: sign * values_of(trial)[0])
    count = f"{len(others)} other{'s' if len(others) > 1 else ''}"
    next_best = f"{_name_trial(second_best)}, had {_format_values(second_best)}"
    rows = [("it beat", f"{count}; the next best, {next_best}")]
    if first in best_trials:
        rows.append(("the first", "is the best: nothing that was tried beat it"))
    elif first is not second_best:
        rows.append(("the first", f"{_name_trial(first)} had {_format_values(first)}"))
    return rows


def compute_seed_statistics(study: StudyHistory) -> tuple[float, float] | None:
    """Return mean and standard deviation of the objective of a sweep over training.seed alone.

    None for another sweep, or with fewer than two values.
    """
    if study.chooses or len(study.options.objectives) > 1:
        return None
    values = [trial.value for trial in study.trials() if ending_of(trial) is Ending.done]
    return (fmean(values), stdev(values)) if len(values) > 1 else None


def _seed_rows(study: StudyHistory) -> list[tuple[str, str]]:
    statistics = compute_seed_statistics(study)
    if statistics is None:
        return []
    mean, deviation = statistics
    return [("over seeds", f"{mean:.4f} on average, standard deviation {deviation:.4f}")]


def average_outcomes(outcomes: Sequence[TrialOutcome]) -> TrialOutcome:
    """Return one outcome of all repeats: the last ending, the mean of each metric that all have."""
    shared = set.intersection(*(set(outcome.metrics) for outcome in outcomes))
    metrics = {
        name: fmean(outcome.metrics[name] for outcome in outcomes) for name in sorted(shared)
    }
    elapsed_s = sum(outcome.elapsed_s for outcome in outcomes)
    return replace(outcomes[-1], metrics=metrics, elapsed_s=elapsed_s)


def explain_error(error: BaseException, folder: Path, study: StudyHistory) -> BaseException:
    """Return `error` as one sentence where the disk or the storage is its cause, else unchanged."""
    if isinstance(error, MedexpError):
        return error
    if (hindrance := disk_space.explain_write_error(error, [folder])) is not None:
        return OutputError(f"{hindrance.what}; the same command continues once {hindrance.until}")
    # By the name of the class's module: SQLAlchemy has many error classes and no common one here.
    is_from_storage = any(
        type(cause).__module__.startswith("sqlalchemy")
        or type(cause).__name__ == "StorageInternalError"
        for cause in (error, error.__cause__, error.__context__)
    )
    if not is_from_storage:
        return error
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else Exception(str(error))
    return storage.make_unreachable_error(study.url, cause)
