"""Optuna's Gaussian process, learning from every trial.

Optuna's own sampler reads only completed trials. A proposal that cannot fit then leaves no trace,
and the same point is proposed again and again. Here the processes of the constraints learn from
refused proposals, the process of the objective learns from pruned, paused and failed trials, and no
point is proposed twice.

Source: optuna/samplers/_gp/sampler.py of Optuna 5.0, two of whose inner methods are overridden.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import GPSampler
from optuna.search_space import intersection_search_space
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from medexp.sweep.study.extrapolation import extrapolate_end, make_curve
from medexp.sweep.study.history import ending_of, without_continued
from medexp.system import private_names


class ThoroughGPSampler(GPSampler):  # type: ignore[misc]
    """GPSampler that learns from refused, pruned, paused and failed trials. Takes GPSampler's
    options.
    """

    def __init__(self, **options: Any):
        super().__init__(**options)
        # An override of a method that Optuna no longer has would silently change nothing.
        for method in (private_names.GP_LIMITS, private_names.GP_OPTIMUM):
            method.require(GPSampler)
        for private_name in (
            private_names.GP_SAMPLES,
            private_names.GP_RANDOM,
            private_names.GP_CACHE,
        ):
            private_name.require(self)
        # Set by `sample_relative` for the two methods that Optuna calls inside it.
        self._constraint_names: list[str] = []
        self._refused: list[FrozenTrial] = []
        self._tried: list[FrozenTrial] = []

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return the parameters that are drawn together, those that earlier trials share.

        Optuna looks at completed trials. Where none has completed those count that have reported,
        or a sweep whose trials pause would be drawn at random until one ends.
        """
        shared: dict[str, BaseDistribution] = super().infer_relative_search_space(study, trial)
        if shared:
            return shared
        reported = [other for other in study.get_trials(deepcopy=False) if other.last_step]
        known = intersection_search_space(reported, include_pruned=True)
        return {name: kind for name, kind in known.items() if not kind.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the parameters of the next point; empty where they are to be drawn at random."""
        earlier = study.get_trials(deepcopy=False)
        self._tried = [
            other
            for other in earlier
            if other.state.is_finished() and _is_drawn_from(other, search_space)
        ]
        self._refused = [
            other
            for other in self._tried
            if other.state == TrialState.PRUNED and _violates_constraint(other)
        ]
        # A pruner that knows where trials would come to says so.
        predict_ends = getattr(study.pruner, "predict_ends", None)
        ends = predict_ends(self._tried) if predict_ends else {}
        trials_with_values = _pair_with_values(self._tried, study.directions, ends)
        typical = _typical_constraints(
            [*self._refused, *(other for other, _ in trials_with_values)]
        )
        self._constraint_names = list(typical)
        completed = [
            _as_completed_trial(other, values, typical) for other, values in trials_with_values
        ]
        running = [other for other in earlier if other.state == TrialState.RUNNING]
        filtered_study: Any = _FilteredStudy(study, [*completed, *running])
        params: dict[str, Any] = super().sample_relative(filtered_study, trial, search_space)
        return params

    def _get_constraints_acqf_args(
        self, constraint_vals: Any, internal_search_space: Any, normalized_params: Any
    ) -> Any:
        """Return a process and a threshold for each constraint.

        A process learns from the trials with a value and from the refused ones that say how far
        they are from the constraint. Optuna calls this with the former alone: `constraint_vals` has
        the shape (trials, constraints), `normalized_params` (trials, parameters).
        """
        processes, thresholds = [], []
        for column, name in enumerate(self._constraint_names):
            refused = [trial for trial in self._refused if name in trial.constraints]
            violations = np.array([trial.constraints[name] for trial in refused])
            points = np.concatenate(
                [normalized_params, internal_search_space.get_normalized_params(refused)]
            )
            # Optuna starts from the parameters that it fitted last, which here are of another
            # process.
            self._constraints_gprs_cache_list = None
            process, threshold = super()._get_constraints_acqf_args(
                np.concatenate([constraint_vals[:, column], violations])[:, None],
                internal_search_space,
                points,
            )
            processes += process
            thresholds += threshold
        return processes, thresholds

    def _optimize_acqf(self, acqf: Any, best_params: Any) -> Any:
        """Return the best point that has not been tried, or the best one where all have been."""
        best = super()._optimize_acqf(acqf, best_params)
        space = acqf.search_space
        tried = {_round_point(point) for point in space.get_normalized_params(self._tried)}
        if _round_point(best) not in tried:
            return best
        drawn = space.sample_normalized_params(self._n_preliminary_samples, self._rng.rng)
        points = np.array([point for point in drawn if _round_point(point) not in tried])
        return points[np.argmax(acqf.eval_acqf_no_grad(points))] if len(points) else best


class _FilteredStudy:
    """A study of which the sampler sees only `trials`."""

    def __init__(self, study: Study, trials: Sequence[FrozenTrial]):
        self._study = study
        self._trials = trials

    def _get_trials(self, states: Sequence[TrialState], **_: Any) -> list[FrozenTrial]:
        return [trial for trial in self._trials if trial.state in states]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)


def _round_point(point: Any) -> tuple[float, ...]:
    """Return `point` so that it can be looked up: the same point may come with a rounding error."""
    return tuple(np.round(point, 9))


def _is_drawn_from(trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]) -> bool:
    """Were the parameters of `trial` drawn from this space? An earlier command's may be another."""
    return all(
        trial.distributions.get(name) == distribution for name, distribution in search_space.items()
    )


def _violates_constraint(trial: FrozenTrial) -> bool:
    return any(value > 0 for value in trial.constraints.values())


def _pair_with_values(
    trials: Sequence[FrozenTrial],
    directions: Sequence[StudyDirection],
    ends: Mapping[int, float] | None = None,
) -> list[tuple[FrozenTrial, list[float]]]:
    """Return the trials with their objective values.

    A pruned or paused trial has the value that it would have come to, that of `ends` by its number
    where it is there; a failed one has the worst of the others. Of trials that continue each other
    the last one counts.
    """
    ends = ends or {}
    trials = without_continued(trials)
    completed = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    pruned = [
        trial
        for trial in trials
        if trial.state == TrialState.PRUNED
        and trial.intermediate_values
        and not _violates_constraint(trial)
    ]
    curves = [*map(make_curve, completed), *map(make_curve, pruned)]

    def find_end(trial: FrozenTrial) -> float:
        if trial.number in ends:
            return ends[trial.number]
        return extrapolate_end(make_curve(trial), curves)

    extrapolated = [(trial, [find_end(trial)]) for trial in pruned]
    if not completed:
        return extrapolated
    columns = zip(*(trial.values for trial in completed), strict=True)
    worst = [
        (max if direction == StudyDirection.MINIMIZE else min)(column)
        for direction, column in zip(directions, columns, strict=True)
    ]
    failed = [
        trial
        for trial in trials
        if trial.state == TrialState.FAIL and (ending := ending_of(trial)) and ending.is_failure
    ]
    return [
        *((trial, trial.values) for trial in completed),
        *extrapolated,
        *((trial, worst) for trial in failed),
    ]


def _typical_constraints(trials: Sequence[FrozenTrial]) -> dict[str, float]:
    """Return the value of each constraint that a trial is given which has none of its own.

    It is taken to be as far within the constraint as other trials are from it on average.
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
    """Return `trial` as completed with `values`, and with a value for every constraint."""
    constraints = {name: trial.constraints.get(name, value) for name, value in typical.items()}
    return create_trial(
        values=values,
        params=trial.params,
        distributions=trial.distributions,
        constraints=constraints,
    )
