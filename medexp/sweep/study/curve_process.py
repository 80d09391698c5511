"""Where trials would come to: a Gaussian process over what was configured and the training step.

Every report of every trial teaches it, so that a few trials at full length say what losses at the
first rung are worth, at each learning rate. What leads on the way is not always what leads at the
end: a line from one step to the next (`study.extrapolation`) knows nothing of that.

Source: the idea is that of freeze-thaw, Swersky, Snoek and Adams 2014, arXiv:1406.3896. Here the
step is one more dimension of an ordinary process with a Matern kernel, as a logarithm, and what all
trials gain from one step to the next is taken off first.
"""

import math
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from medexp.sweep.study.history import without_continued

# A process is fitted in the cube of their number. The newest trials' are kept.
MAX_REPORTS = 300
# New points that a paused trial is weighed against, half of them near the best PARENTS.
CANDIDATES = 1024
PARENTS = 3
# How far from them, in shares of a dimension.
NEAR = 0.1

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Improvements:
    """What trials may be expected to take off the lowest value of a completed one: of `trials` that
    have not ended, by number, and of the best point that was not tried.
    """

    trials: Mapping[int, float]
    of_new_point: float


class CurveProcess:
    """A Gaussian process fitted to what `trials`, Optuna's FrozenTrials, have reported.

    Trials without parameters or reports are left out, and those that another one continues. A
    choice lies on its dimension by its place among the choices.

    Raises: ValueError where no trial is left.
    """

    def __init__(self, trials: Sequence[Any]):
        trials = [*filter(can_be_learnt_from, without_continued(trials))]
        if not trials:
            raise ValueError("no trial has reported a loss")
        newest = trials[-1]
        self._distributions = {
            name: distribution
            for name, distribution in newest.distributions.items()
            if all(name in trial.params for trial in trials)
        }
        self._trials = trials
        self._curves, self._end = _collect_curves(trials)
        self._level = _measure_levels([*self._curves.values()])
        self._fit()

    def predict_ends(self) -> dict[int, float]:
        """Return the value at the end of every trial by its number: a completed one's own."""
        means, _ = self._predict(self._points(self._trials))
        return {
            trial.number: trial.values[0] if is_completed(trial) else float(mean)
            for trial, mean in zip(self._trials, means, strict=True)
        }

    def expect_improvements(self) -> Improvements:
        """Return the expected improvements over the lowest completed value.

        Points that were not tried are drawn within what was, the same ones for the same trials.

        Raises: ValueError where no trial has completed.
        """
        best = min(trial.values[0] for trial in self._trials if is_completed(trial))
        points = self._points(self._trials)
        means, deviations = self._predict(points)
        expected = _expect_improvement(means, deviations, best)
        drawn = self._draw_near(points[np.argsort(means)[:PARENTS]])
        drawn = np.clip(drawn, points.min(axis=0), points.max(axis=0))
        return Improvements(
            {
                trial.number: float(value)
                for trial, value in zip(self._trials, expected, strict=True)
                if not is_completed(trial)
            },
            float(_expect_improvement(*self._predict(drawn), best).max()),
        )

    def _fit(self) -> None:
        rows: list[tuple[list[float], float]] = []
        for trial in reversed(self._trials):
            point = self._point(trial)
            curve = self._curves[trial.number]
            rows += [
                ([*point, self._place(step)], value - self._level[step])
                for step, value in curve.items()
            ]
            if len(rows) >= MAX_REPORTS:
                break
        values = np.array([value for _, value in rows])
        self._mean, self._scale = float(values.mean()), float(values.std()) or 1.0
        dimensions = len(self._distributions)
        kernel = ConstantKernel(1.0, (0.05, 50.0)) * Matern(
            [0.5] * dimensions + [2.0], [(0.05, 20.0)] * dimensions + [(0.3, 50.0)], nu=2.5
        ) + WhiteKernel(1e-3, (1e-6, 0.1))
        self._process = GaussianProcessRegressor(kernel)
        with warnings.catch_warnings():
            # Said where a bound is the best value, as of a parameter that changes nothing.
            warnings.simplefilter("ignore", ConvergenceWarning)
            self._process.fit(
                np.array([point for point, _ in rows]), (values - self._mean) / self._scale
            )

    def _predict(self, points: Array) -> tuple[Array, Array]:
        """Return the mean and the deviation of the ends of `points`, of shape (points,) each."""
        ends = np.full((len(points), 1), self._place(self._end))
        means, deviations = self._process.predict(np.hstack([points, ends]), return_std=True)
        # What a measurement would scatter by is no hope of a lower end.
        noise = self._process.kernel_.k2.noise_level
        deviations = np.sqrt(np.maximum(deviations**2 - noise, 0.0))
        return means * self._scale + self._mean, deviations * self._scale

    def _draw_near(self, parents: Array) -> Array:
        """Return CANDIDATES points of the unit cube, half of them near `parents`."""
        rng = np.random.default_rng(len(self._trials))
        half = (CANDIDATES // 2, parents.shape[1])
        near = parents[rng.integers(len(parents), size=half[0])]
        return np.concatenate([rng.random(half), near + NEAR * rng.standard_normal(half)])

    def _points(self, trials: Sequence[Any]) -> Array:
        return np.array([self._point(trial) for trial in trials])

    def _point(self, trial: Any) -> list[float]:
        """Return where `trial` lies, a number for every dimension, 0 to 1 within the space."""
        return [
            _place_value(trial.params[name], distribution)
            for name, distribution in self._distributions.items()
        ]

    def _place(self, step: int) -> float:
        return math.log(step) / math.log(max(self._end, 2))


def can_be_learnt_from(trial: Any) -> bool:
    """Has `trial` parameters and a finite report?"""
    return bool(trial.params and _reports(trial))


def _collect_curves(trials: Sequence[Any]) -> tuple[dict[int, dict[int, float]], int]:
    """Return what every trial has reported by step, at the steps where any of them stopped, and the
    step of the end, where completed ones have their value.

    The end is taken to be as far from the last report of any as that is from the one before.
    """
    curves = {trial.number: _reports(trial) for trial in trials}
    steps = sorted({step for curve in curves.values() for step in curve})
    end = 2 * steps[-1] - (steps[-2] if len(steps) > 1 else 0)
    for trial in trials:
        if is_completed(trial):
            curves[trial.number][end] = trial.values[0]
    stops = {max(curve) for curve in curves.values()}
    return {
        number: {step: value for step, value in curve.items() if step in stops}
        for number, curve in curves.items()
    }, end


def _measure_levels(curves: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """Return by step how far trials are above what they come to at the last step of any, on
    average over those that were measured at both of two steps.
    """
    steps = sorted({step for curve in curves for step in curve})
    levels = {steps[-1]: 0.0}
    for before, after in reversed([*pairwise(steps)]):
        gains = [curve[before] - curve[after] for curve in curves if {before, after} <= {*curve}]
        levels[before] = levels[after] + (statistics.mean(gains) if gains else 0.0)
    return levels


def _expect_improvement(means: Array, deviations: Array, best: float) -> Array:
    """Return by how much each is expected to be below `best`, 0 where it is not."""
    deviations = np.maximum(deviations, 1e-12)
    z = (best - means) / deviations
    expected: Array = (best - means) * norm.cdf(z) + deviations * norm.pdf(z)
    return expected


def _reports(trial: Any) -> dict[int, float]:
    """Return what `trial` has reported by step. A report of step 0 is that of the base."""
    return {
        step: value
        for step, value in trial.intermediate_values.items()
        if step > 0 and math.isfinite(value)
    }


def is_completed(trial: Any) -> bool:
    """Did `trial` come to a value at its end?"""
    return bool(trial.state.name == "COMPLETE")


def _place_value(value: Any, distribution: Any) -> float:
    """Return where `value` lies between the ends of `distribution`, 0 to 1."""
    if hasattr(distribution, "choices"):
        choices = distribution.choices
        return float(choices.index(value) / max(len(choices) - 1, 1))
    ends = [distribution.low, value, distribution.high]
    low, place, high = map(math.log, ends) if distribution.log else ends
    return float((place - low) / (high - low)) if high > low else 0.0
