"""Pausing by where a trial would come to, not by where it is.

At a rung a trial goes on where the end that its losses are extrapolated to is the lowest of all
trials, wherever these are. Else it is frozen: it pauses. It thaws once its extrapolated end is the
lowest, as when others end worse than was thought.

Source: the idea is that of freeze-thaw, Swersky, Snoek and Adams 2014, arXiv:1406.3896. The model
of a curve is another one: a line from each report to the next (`study.extrapolation`), because
there are few reports a trial and few trials that end. A contestant of card_seconds.py: it was not
clearly better than halving, so medexp does not have it.
"""

import math
from collections.abc import Mapping, Sequence

from optuna.trial import FrozenTrial

from medexp.sweep.pruners.halving import HalvingPruner
from medexp.sweep.study.extrapolation import extrapolate_end
from medexp.sweep.study.history import collect_reports, first_numbers


class FreezeThawPruner(HalvingPruner):
    """Pauses trials at the rungs of HalvingPruner. The first `reduction_factor` - 1 trials run to
    their end, so that there is an end to extrapolate to.

    Raises: ValueError for a reduction factor below 2, or a first rung below 1.
    """

    def _goes_on(
        self,
        trials: Sequence[FrozenTrial],
        trial: FrozenTrial,
        step: int,  # noqa: ARG002
    ) -> bool:
        own = first_numbers(trials)[trial.number]
        curves = _collect_curves(trials)
        curves[own] = curves.get(own, {}) | trial.intermediate_values
        return len(curves) < self._factor or _find_best(curves) == own

    def choose_promotion(
        self,
        trials: Sequence[FrozenTrial],
        paused: Sequence[FrozenTrial],
        is_last: bool,  # noqa: ARG002
    ) -> FrozenTrial | None:
        """Return the one of the `paused` among `trials` whose extrapolated end is the lowest of
        all, None where that is another's.
        """
        curves, first = _collect_curves(trials), first_numbers(trials)
        best = _find_best(curves) if curves else None
        return next((trial for trial in paused if first[trial.number] == best), None)


def _collect_curves(trials: Sequence[FrozenTrial]) -> dict[int, dict[float, float]]:
    """Return the reports of trials that continue each other by the first one's number, with the
    value of a completed one at step infinity.
    """
    first = first_numbers(trials)
    curves: dict[int, dict[float, float]] = {
        number: {float(step): loss for step, loss in reports.items()}
        for number, reports in collect_reports(trials).items()
    }
    for trial in trials:
        if trial.state.name == "COMPLETE" and first[trial.number] in curves:
            curves[first[trial.number]][math.inf] = trial.values[0]
    return curves


def _find_best(curves: Mapping[int, Mapping[float, float]]) -> int:
    """Return the number of the curve with the lowest extrapolated end, the first of equals."""
    every = [*curves.values()]
    ends = {number: extrapolate_end(curve, every) for number, curve in curves.items()}
    return min(ends, key=lambda number: (ends[number], number))
