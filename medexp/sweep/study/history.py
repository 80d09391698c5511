"""What is known of a study's trials: how many ended in which way, which is best, which are left
over.

Every trial ends in one of `trial_files.Ending`. Optuna knows it as COMPLETE where it has a value;
as PRUNED where it was pruned or paused and, with its violation as a constraint, where it could not
fit or ran out of memory; as FAIL elsewhere. Samplers learn from pruned trials and forget failed
ones.

A trial that goes on after it was stopped, died or paused is another trial of the study, which
continues it.
"""

import math
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medexp.errors import ConfigError, listing, nearest
from medexp.sweep.search.labels import contains_value
from medexp.sweep.search.options import SweepOptions
from medexp.sweep.search.search_space import SearchSpace
from medexp.sweep.study import storage
from medexp.sweep.study.trial_files import TRIED, Ending, read_json_object
from medexp.system import private_names
from medexp.system.process_identity import describe_this_process, is_alive

# Optuna's user attribute of a study: its final runs, as `sweep.final_run` writes them.
FINAL = "final"
# Optuna's user attributes of a trial. Studies that were begun earlier hold these names.
ENDING = "ending"
FOLDER = "folder"
OWNER = "sweeper"
PLANNED = "planned_bytes"
MEASURED = "measured_bytes"
WHY = "why"
ELAPSED = "elapsed_s"
PLANNED_S = "planned_s"
STEPS = "steps"
# Seconds of a step, planned and measured, and of a run beside its steps.
PLANNED_STEP_S = "planned_step_s"
STEP_S = "step_s"
BESIDE_S = "beside_s"
RUN = "mlflow_run_id"
CONTINUES = "continues"
ATTEMPT = "attempt"
# The step that a paused trial was promoted from.
PROMOTED = "promoted"
BEAT = "beat"
# The run as configured where it lies outside the space: a trial without parameters. Optuna knows it
# as FAIL, because samplers read the space off completed trials, and it has none; its values are
# kept as an attribute.
CONFIGURED = "configured"
# Of which study and trial it is a copy.
WARM = "warm_start"
# The first objective of every repeat.
REPEAT_VALUES = "repeat_values"
VALUES = "values"

# Another trial with the same parameters would end in the same way.
CONCLUSIVE_ENDINGS = (Ending.done, Ending.pruned, Ending.vram, Ending.diverged, Ending.paused)


class StudyHistory:
    """The trials of an Optuna study, as its storage has them now. Changes nothing in the study."""

    def __init__(self, optuna_study: Any, url: str, space: SearchSpace, options: SweepOptions):
        self.optuna = optuna_study
        self.url = url
        self.space = space
        self.options = options
        # None for a study that is only read: each trial then says itself where its folder is.
        self.folder: Path | None = None
        self.is_sampler_exhausted = False
        self._this_sweeper = describe_this_process()

    @property
    def name(self) -> str:
        """The name of the study."""
        return str(self.optuna.study_name)

    @property
    def chooses(self) -> bool:
        """Whether something is chosen by its trials: repeats with other seeds choose nothing."""
        return self.space.chooses

    @property
    def _storage(self) -> Any:
        return private_names.STUDY_STORAGE.require(self.optuna)

    def trials(self) -> list[Any]:
        """Return every trial, oldest first."""
        return list(self.optuna.get_trials(deepcopy=False))

    def reload(self, trial: Any) -> Any:
        """Return `trial` as the storage has it now, as an Optuna FrozenTrial."""
        return self._storage.get_trial(trial_id_of(trial))

    def folder_of(self, trial: Any) -> Path | None:
        """Return the folder of a trial that was started, None for another.

        The study's folder may lie elsewhere than it did when the trial ran, so only the name of the
        trial's folder is taken from the trial.
        """
        recorded = trial.user_attrs.get(FOLDER)
        if not recorded:
            return None
        if is_from_other_study(trial):
            return Path(recorded)
        return (self.folder or Path(recorded).parent) / Path(recorded).name

    def list_run_folders(self, trial: Any) -> list[Path]:
        """Return the folders of the runs of a trial that was started: one for each repeat."""
        last = self.folder_of(trial)
        if last is None:
            return []
        number, dash, _ = last.name.partition("-")
        return sorted(last.parent.glob(f"{number}-*")) if dash else [last]

    def count_steps(self, trial: Any) -> int:
        """Return how many optimizer steps the runs of a trial have come to, by their own word."""
        reports = (
            read_json_object(folder / "progress.json") for folder in self.list_run_folders(trial)
        )
        return sum(int(progress["step"]) for progress in reports if progress)

    def count_done(self) -> int:
        """Return how many of `n_trials` are used up."""
        trials = self.trials()
        paused = _select_paused(trials)
        return sum(map(counts, trials)) + sum(not is_beside(trial) for trial in paused)

    def list_paused(self) -> list[Any]:
        """Return the paused trials that no other trial continues."""
        return _select_paused(self.trials())

    def count_failures(self) -> int:
        """Return how many trials failed."""
        return sum(ending.is_failure for ending in self._endings())

    def count_ended(self, ending: Ending) -> int:
        """Return how many trials ended with `ending`."""
        return self._endings().count(ending)

    def _endings(self) -> list[Ending]:
        return [ending for ending in map(ending_of, self.trials()) if ending is not None]

    def count_pending(self) -> int:
        """Return how many trials run or wait, in this process or in another."""
        return sum(not trial.state.is_finished() for trial in self.trials())

    def count_waiting(self) -> int:
        """Return how many trials are enqueued and not yet taken by a sweeper."""
        return sum(trial.state.name == "WAITING" for trial in self.trials())

    def list_continued(self, trial: Any) -> list[Any]:
        """Return the trials that `trial` continues, the last one first."""
        by_number = {candidate.number: candidate for candidate in self.trials()}
        continued: list[Any] = []
        number = self.reload(trial).user_attrs.get(CONTINUES)
        while number in by_number:
            continued.append(by_number.pop(number))
            number = continued[-1].user_attrs.get(CONTINUES)
        return continued

    def is_surplus(self, trial: Any) -> bool:
        """Were enough trials asked for before this one?

        Several sweepers ask at once; the numbers say who was first.
        """
        if is_beside(trial):
            return False
        trials = self.trials()
        first = first_numbers(trials)
        # Trials that continue each other are one.
        taken = {
            first[other.number]
            for other in trials
            if other.number < trial.number
            and not is_beside(other)
            and (
                not other.state.is_finished() or counts(other) or ending_of(other) is Ending.paused
            )
        }
        return len(taken - {first[trial.number]}) >= self.options.n_trials

    def is_exhausted(self) -> bool:
        """Has every point of a finite space been tried, or is it being tried?

        Of an infinite space only its sampler can tell.
        """
        if not math.isfinite(self.space.size):
            return self.is_sampler_exhausted
        points = {
            tuple(str(trial.params[key]) for key in self.space.dimensions)
            for trial in self.trials()
            if (trial.state.name == "RUNNING" or ending_of(trial) in TRIED)
            and self.is_in_space(trial.params)
        }
        return len(points) >= self.space.size

    def is_in_space(self, params: Mapping[str, Any]) -> bool:
        """Do `params` lie in the space of this command? Earlier commands may have had others."""
        return all(
            key in params and contains_value(dimension, params[key])
            for key, dimension in self.space.dimensions.items()
        )

    def objective_values(self, metrics: Mapping[str, float]) -> list[float]:
        """Return the objectives among `metrics`, in the order of hydra.sweeper.objective.

        Raises: ConfigError for one that was not logged.
        """
        self.check_logged(metrics)
        return [float(metrics[objective]) for objective in self.options.objectives]

    def check_logged(self, metrics: Mapping[str, float]) -> None:
        """Check that a run that is done has logged every objective and every constraint.

        Raises: ConfigError for a metric that it has not.
        """
        wanted = {"objective": self.options.objectives, "constraints": self.options.constraints}
        for option, names in wanted.items():
            for name in names:
                if name not in metrics:
                    raise ConfigError(
                        f"hydra.sweeper.{option}: {name} is not logged by a"
                        f" run{nearest(name, metrics)}; there are {listing(sorted(metrics))}"
                    )

    def best_trials(self) -> list[Any]:
        """Return the best feasible trial, or with several objectives the Pareto front.

        The list is empty where no trial came to a value within the constraints.
        """
        feasible = [
            trial
            for trial in self.trials()
            if ending_of(trial) is Ending.done
            and all(violation <= 0 for violation in trial.constraints.values())
        ]
        if len(self.options.objectives) > 1:
            return [
                trial
                for trial in feasible
                if not any(self._dominates(other, trial) for other in feasible)
            ]
        sign = self.signs()[0]
        return sorted(feasible, key=lambda trial: sign * values_of(trial)[0])[:1]

    def signs(self) -> list[int]:
        """Return 1 for every objective that is minimised and -1 for every other."""
        return [1 if direction == "minimize" else -1 for direction in self.options.directions]

    def _dominates(self, trial: Any, other: Any) -> bool:
        """Is `trial` at least as good as `other` in every objective and better in one?"""
        pairs = [
            (sign * value, sign * other_value)
            for sign, value, other_value in zip(
                self.signs(), values_of(trial), values_of(other), strict=True
            )
        ]
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    def list_orphans(self) -> list[Any]:
        """Return the trials marked as running whose sweeper is gone."""
        return [
            trial
            for trial in self.trials()
            if trial.state.name == "RUNNING" and self._is_orphan(trial)
        ]

    def has_other_sweeper(self) -> bool:
        """Is another sweeper at work on this study?"""
        return any(
            trial.state.name == "RUNNING"
            and trial.user_attrs.get(OWNER) != self._this_sweeper
            and not self._is_orphan(trial)
            for trial in self.trials()
        )

    def _is_orphan(self, trial: Any) -> bool:
        sweeper = trial.user_attrs.get(OWNER)
        # Without an owner it was asked for a moment ago, or its sweeper died in between.
        if sweeper is None:
            return self._age_s(trial) > self._stale_after_s
        if sweeper["host"] == socket.gethostname():
            return not is_alive(sweeper)
        if hasattr(self._storage, "record_heartbeat"):
            return trial_id_of(trial) in self._stale_trial_ids()
        beat = trial.user_attrs.get(BEAT)
        silent_s = self._age_s(trial) if beat is None else time.time() - beat
        return silent_s > self._stale_after_s

    @property
    def _stale_after_s(self) -> float:
        return storage.STALE_AFTER_BEATS * self.options.heartbeat_s

    def _age_s(self, trial: Any) -> float:
        return time.time() - trial.datetime_start.timestamp() if trial.datetime_start else 0.0

    def _stale_trial_ids(self) -> list[int]:
        """Return what Optuna's storage itself holds for stale, by its own heartbeat."""
        get_stale_trial_ids = private_names.STALE_TRIALS.of(self._storage)
        if not get_stale_trial_ids:
            return []
        return list(get_stale_trial_ids(private_names.STUDY_ID.require(self.optuna)))


def trial_id_of(trial: Any) -> int:
    """Return the id of `trial` in the storage, which is not its number in the study."""
    trial_id: int = private_names.TRIAL_ID.require(trial)
    return trial_id


def is_outside(trial: Any) -> bool:
    """Is `trial` the run as configured, outside the space?"""
    return CONFIGURED in trial.user_attrs


def is_from_other_study(trial: Any) -> bool:
    """Is `trial` a copy of one of the study that this one was warm-started from?"""
    return WARM in trial.user_attrs


def is_beside(trial: Any) -> bool:
    """Is `trial` beside the `n_trials` that were asked for?"""
    return is_outside(trial) or is_from_other_study(trial)


def counts(trial: Any) -> bool:
    """Does `trial` use up one of `n_trials`?"""
    ending = ending_of(trial)
    return ending is not None and ending.counts and not is_beside(trial)


def values_of(trial: Any) -> list[float]:
    """Return the objective values of `trial`, an empty list before it has any."""
    return list(trial.values or trial.user_attrs.get(VALUES) or ())


def without_continued(trials: Sequence[Any]) -> list[Any]:
    """Return the `trials` that no other one of them continues, in their order."""
    continued = {trial.user_attrs.get(CONTINUES) for trial in trials}
    return [trial for trial in trials if trial.number not in continued]


def _select_paused(trials: Sequence[Any]) -> list[Any]:
    return [trial for trial in without_continued(trials) if ending_of(trial) is Ending.paused]


def first_numbers(trials: Sequence[Any]) -> dict[int, int]:
    """Return by number the first trial of those that continue each other, a trial's own number
    where it continues none.
    """
    first: dict[int, int] = {}
    # A trial has a higher number than the one that it continues.
    for trial in sorted(trials, key=lambda trial: trial.number):
        continued = trial.user_attrs.get(CONTINUES)
        first[trial.number] = first.get(continued, trial.number)
    return first


def collect_reports(trials: Sequence[Any]) -> dict[int, dict[int, float]]:
    """Return the losses reported at every step, of trials that continue each other together, by
    the number of the first of them. Those that failed, and what was copied, are left out.
    """
    first = first_numbers(trials)
    reports: dict[int, dict[int, float]] = {}
    failed: set[int] = set()
    for trial in trials:
        ending = ending_of(trial)
        if ending is not None and (ending.is_failure or ending is Ending.vram):
            failed.add(first[trial.number])
        elif trial.intermediate_values and ending is not Ending.copied:
            reports.setdefault(first[trial.number], {}).update(trial.intermediate_values)
    return {number: reports[number] for number in reports if number not in failed}


def ending_of(trial: Any) -> Ending | None:
    """Return how a finished trial ended, None for one that has not.

    A trial that medexp did not end, as one of optuna-dashboard, goes by Optuna's own state.
    """
    if not trial.state.is_finished():
        return None
    recorded = trial.user_attrs.get(ENDING)
    if recorded:
        return Ending(recorded)
    by_state = {"COMPLETE": Ending.done, "PRUNED": Ending.pruned}
    return by_state.get(trial.state.name, Ending.died)
