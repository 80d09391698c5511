"""How much of a sweep's gain is luck: the best of several equal trials is better than one of them.

A trial's value is what it would be on average over seeds, and noise. Whoever takes the best of k
trials takes the best noise with it. How large the noise is, only equal trials tell: the repeats of
one point with other seeds (hydra.sweeper.repeats). Nothing else is taken for it: runs at other
points differ by more than noise, and the answers of one adapter asked twice by less.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean
from typing import Any

from medexp.sweep.study.history import REPEAT_VALUES, StudyHistory, ending_of, values_of
from medexp.sweep.study.trial_files import Ending

# Random numbers drawn; the expected best is then known to about a percent.
_DRAWS = 400_000
_SEED = 3407


@dataclass(frozen=True)
class Noise:
    """Standard deviation of a run's value around that of its point, pooled over points with
    repeats; `runs` and `points` are how many there were.
    """

    deviation: float
    runs: int
    points: int


def estimate_noise(trials: Sequence[Any]) -> Noise | None:
    """Return the noise of a run's first objective, None where no point was run more than once."""
    groups = [
        values for trial in trials if len(values := trial.user_attrs.get(REPEAT_VALUES, ())) > 1
    ]
    degrees = sum(len(values) - 1 for values in groups)
    if not degrees:
        return None
    squares = sum((value - fmean(values)) ** 2 for values in groups for value in values)
    return Noise(sqrt(squares / degrees), sum(map(len, groups)), len(groups))


def expect_best_of(equal_trials: int) -> float:
    """Return by how many standard deviations the best of `equal_trials` values, normally
    distributed around one mean, is expected to be better than that mean; found by simulation.
    """
    import numpy as np

    generator = np.random.default_rng(_SEED)
    draws = generator.standard_normal((max(1000, _DRAWS // equal_trials), equal_trials))
    return float(draws.max(axis=1).mean())


def describe_luck(study: StudyHistory) -> str:
    """Return how much of the gain over the first trial luck would explain, or what is missing to
    say so; "" where there is no gain or more than one objective.
    """
    done = [trial for trial in study.trials() if ending_of(trial) is Ending.done]
    if len(study.options.objectives) > 1 or len(done) < 2 or not study.chooses:
        return ""
    best = study.best_trials()
    first = min(done, key=lambda trial: trial.number)
    if not best or best[0].number == first.number:
        return ""
    gain = abs(values_of(best[0])[0] - values_of(first)[0])
    noise = estimate_noise(done)
    if noise is None:
        return (
            f"how much of the gain of {gain:.4f} the best of {len(done)} equal trials would show by"
            " luck is not known, because no point was run twice; hydra.sweeper.repeats=2 runs each"
            " with two seeds"
        )
    # The mean of several repeats has less noise than a run.
    of_a_trial = noise.deviation / sqrt(study.options.repeats)
    by_luck = of_a_trial * expect_best_of(len(done))
    return (
        f"of the gain of {gain:.4f}, {by_luck:.4f} is what the best of {len(done)} equal trials"
        f" would show by luck (standard deviation of a run {noise.deviation:.4f}, from {noise.runs}"
        f" runs of {noise.points} points)"
    )
