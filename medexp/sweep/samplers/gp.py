"""Optuna's Gaussian process, learning from every trial: as Optuna has it, it reads finished trials
and nothing else.

What cannot fit then leaves no trace, and the same point is proposed again and again. Here the
processes of the limits learn from refused proposals, that of the objective from what was pruned or
failed, and no point is proposed twice.

Source: optuna/samplers/_gp/sampler.py of Optuna 5.0, two of whose inner methods are overridden.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import GPSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from medexp.sweep.study.history import ending_of
from medexp.system import private_names


class ThoroughGPSampler(GPSampler):  # type: ignore[misc]
    """GPSampler that hears of refused, pruned and failed trials. Takes what GPSampler takes."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        # An override of a method that Optuna no longer has would change nothing, silently.
        for method in (private_names.GP_LIMITS, private_names.GP_OPTIMUM):
            method.needed(GPSampler)
        for private_name in (
            private_names.GP_SAMPLES,
            private_names.GP_RANDOM,
            private_names.GP_CACHE,
        ):
            private_name.needed(self)
        self._limits: list[str] = []
        self._refused: list[FrozenTrial] = []
        self._tried: list[FrozenTrial] = []

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The next point; empty where it is to be drawn at random."""
        trials = study.get_trials(deepcopy=False)
        self._tried = [
            trial
            for trial in trials
            if trial.state.is_finished() and _is_drawn_from(trial, search_space)
        ]
        self._refused = [
            trial
            for trial in self._tried
            if trial.state == TrialState.PRUNED and _violates_limit(trial)
        ]
        valued = _pair_with_values(self._tried, study.directions)
        typical = _typical_constraints([*self._refused, *(trial for trial, _ in valued)])
        self._limits = list(typical)
        finished = [_as_completed_trial(trial, values, typical) for trial, values in valued]
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        shown: Any = _FilteredStudy(study, [*finished, *running])
        proposed: dict[str, Any] = super().sample_relative(shown, trial, search_space)
        return proposed

    def _get_constraints_acqf_args(
        self, constraint_vals: Any, internal_search_space: Any, normalized_params: Any
    ) -> Any:
        """A process for each limit, over the trials with a value and the refused ones that say how
        far they are from it.
        """
        processes, thresholds = [], []
        for column, name in enumerate(self._limits):
            refused = [trial for trial in self._refused if name in trial.constraints]
            over = np.array([trial.constraints[name] for trial in refused])
            points = np.concatenate(
                [normalized_params, internal_search_space.get_normalized_params(refused)]
            )
            self._constraints_gprs_cache_list = None
            process, threshold = super()._get_constraints_acqf_args(
                np.concatenate([constraint_vals[:, column], over])[:, None],
                internal_search_space,
                points,
            )
            processes += process
            thresholds += threshold
        return processes, thresholds

    def _optimize_acqf(self, acqf: Any, best_params: Any) -> Any:
        """The best point that has not been tried; where all seem to have been, the best."""
        best = super()._optimize_acqf(acqf, best_params)
        space = acqf.search_space
        tried = {_round_point(point) for point in space.get_normalized_params(self._tried)}
        if _round_point(best) not in tried:
            return best
        drawn = space.sample_normalized_params(self._n_preliminary_samples, self._rng.rng)
        points = np.array([point for point in drawn if _round_point(point) not in tried])
        return points[np.argmax(acqf.eval_acqf_no_grad(points))] if len(points) else best


class _FilteredStudy:
    """A study of which the sampler sees these trials."""

    def __init__(self, study: Study, trials: Sequence[FrozenTrial]):
        self._study, self._trials = study, trials

    def _get_trials(self, states: Sequence[TrialState], **_: Any) -> list[FrozenTrial]:
        return [trial for trial in self._trials if trial.state in states]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)


def _round_point(point: Any) -> tuple[float, ...]:
    return tuple(np.round(point, 9))


def _is_drawn_from(trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]) -> bool:
    """Were its values drawn from this space?"""
    return all(
        trial.distributions.get(name) == distribution for name, distribution in search_space.items()
    )


def _violates_limit(trial: FrozenTrial) -> bool:
    return any(value > 0 for value in trial.constraints.values())


def _pair_with_values(
    trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection]
) -> list[tuple[FrozenTrial, list[float]]]:
    """Trials with their values: pruned ones with what they would have come to, failed ones with the
    worst of the others.
    """
    completed = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not completed:
        return []
    columns = zip(*(trial.values for trial in completed), strict=True)
    worst = [
        (max if way == StudyDirection.MINIMIZE else min)(column)
        for way, column in zip(directions, columns, strict=True)
    ]
    pruned = [
        trial
        for trial in trials
        if trial.state == TrialState.PRUNED
        and trial.intermediate_values
        and not _violates_limit(trial)
    ]
    failed = [
        trial
        for trial in trials
        if trial.state == TrialState.FAIL and (ending := ending_of(trial)) and ending.is_failure
    ]
    return [
        *((trial, trial.values) for trial in completed),
        *((trial, [_extrapolate_value(trial, completed)]) for trial in pruned),
        *((trial, worst) for trial in failed),
    ]


def _extrapolate_value(trial: FrozenTrial, completed: Sequence[FrozenTrial]) -> float:
    """The last value that a pruned trial reported, moved on by what completed ones moved from that
    step to their end.
    """
    step = max(trial.intermediate_values)
    moves = [
        trial.values[0] - trial.intermediate_values[step]
        for trial in completed
        if step in trial.intermediate_values
    ]
    known = [move for move in moves if math.isfinite(move)]
    reported: float = trial.intermediate_values[step]
    return reported + (statistics.median(known) if known else 0.0)


def _typical_constraints(trials: Sequence[FrozenTrial]) -> dict[str, float]:
    """For each limit, where a trial is taken to be that does not say: as far below it as others are
    from it on average.
    """
    names = sorted({name for trial in trials for name in trial.constraints})
    return {
        name: -statistics.mean(
            abs(trial.constraints[name]) for trial in trials if name in trial.constraints
        )
        for name in names
    }


def _as_completed_trial(
    trial: FrozenTrial, values: Sequence[float], typical: Mapping[str, float]
) -> FrozenTrial:
    """`trial` as one that came to these values and says where it is to every limit."""
    limits = {name: trial.constraints.get(name, value) for name, value in typical.items()}
    return create_trial(
        values=values, params=trial.params, distributions=trial.distributions, constraints=limits
    )
