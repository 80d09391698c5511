"""Trials that pause where another one is worth more, by where each would come to.

At a rung a trial goes on where no other is expected to improve more on what has ended, of those
that pause and of those that were not tried yet. Else it pauses, and goes on once it is that one.

Source: freeze-thaw, Swersky, Snoek and Adams 2014, arXiv:1406.3896; what is expected comes from
`study.curve_process`. Measured against halving and others in benchmarks/sweep.
"""

import math
from collections.abc import Sequence

from optuna.trial import FrozenTrial

from medexp.sweep.pruners.halving import HalvingPruner
from medexp.sweep.study.curve_process import CurveProcess, can_be_learnt_from, is_completed
from medexp.sweep.study.history import CONTINUES, ending_of
from medexp.sweep.study.trial_files import Ending

# Trials that failed, were refused or copied say nothing of where others would come to.
_LEARNT_FROM = (Ending.done, Ending.paused, Ending.stopped, Ending.died)


class FreezeThawPruner(HalvingPruner):
    """Pauses trials at the rungs of HalvingPruner. Until one has ended every trial runs on.

    After `max_new` trials in a row that began anew the best paused one goes on in any case.

    Raises: ValueError for a reduction factor below 2, a first rung or `max_new` below 1.
    """

    def __init__(self, first_rung: int | None = None, reduction_factor: int = 3, max_new: int = 5):
        super().__init__(first_rung, reduction_factor)
        if max_new < 1:
            raise ValueError(f"max_new={max_new} has to be 1 or more")
        self._max_new = max_new

    def predict_ends(self, trials: Sequence[FrozenTrial]) -> dict[int, float]:
        """Return what each of `trials` would come to by its number; empty before one has ended."""
        learnt = _select_learnt(trials)
        return CurveProcess(learnt).predict_ends() if _has_ended(learnt) else {}

    def _goes_on(
        self,
        trials: Sequence[FrozenTrial],
        trial: FrozenTrial,
        step: int,  # noqa: ARG002
    ) -> bool:
        others = [other for other in _select_learnt(trials) if other.number != trial.number]
        if not _has_ended(others):
            return True
        expected = CurveProcess([*others, trial]).expect_improvements()
        # Without a finite loss it is expected to improve on nothing.
        own = expected.trials.get(trial.number, -math.inf)
        return own >= max([*expected.trials.values(), expected.of_new_point])

    def choose_promotion(
        self, trials: Sequence[FrozenTrial], paused: Sequence[FrozenTrial], is_last: bool
    ) -> FrozenTrial | None:
        """Return the one of the `paused` among `trials` that is to go on, None where none is.

        With `is_last`, where nothing new can begin, that is the best one as long as it would come
        to less than what has ended.
        """
        learnt = _select_learnt(trials)
        if not paused or not _has_ended(learnt):
            return super().choose_promotion(trials, paused, is_last)
        process = CurveProcess(learnt)
        if is_last:
            ends = process.predict_ends()
            ended = min(ends[trial.number] for trial in learnt if is_completed(trial))
            better = [trial for trial in paused if ends.get(trial.number, math.inf) < ended]
            return min(better, key=lambda trial: ends[trial.number], default=None)
        expected = process.expect_improvements()
        best = max(paused, key=lambda trial: expected.trials.get(trial.number, -math.inf))
        is_due = _count_new(trials, paused) >= self._max_new
        is_worth_most = expected.trials.get(best.number, -math.inf) >= expected.of_new_point
        return best if is_due or is_worth_most else None


def _select_learnt(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials with reports that run or ended in a way that says something of others."""
    return [
        trial
        for trial in trials
        if can_be_learnt_from(trial) and ending_of(trial) in (None, *_LEARNT_FROM)
    ]


def _has_ended(trials: Sequence[FrozenTrial]) -> bool:
    return any(map(is_completed, trials))


def _count_new(trials: Sequence[FrozenTrial], paused: Sequence[FrozenTrial]) -> int:
    """Return how many of `paused` have begun since a trial last went on or ended."""
    last = max(
        (trial.number for trial in trials if is_completed(trial) or CONTINUES in trial.user_attrs),
        default=-1,
    )
    return sum(trial.number > last for trial in paused)
