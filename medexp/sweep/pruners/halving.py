"""Successive halving whose trials pause and go on, so that nothing is trained twice.

At a rung a trial goes on in its process where it is among the best 1 / `reduction_factor` of all
that have come so far. Else it pauses: its checkpoint is kept, and it goes on once enough trials
that are worse have come. A trial that pauses and goes on has the losses of one that ran through,
because its schedule is laid out for its full length from the start.

Optuna's SuccessiveHalvingPruner and HyperbandPruner end such a trial for good.

Source: asynchronous successive halving, Li et al. 2020, arXiv:1810.05934, algorithm 2.
"""

from collections.abc import Mapping, Sequence

from optuna.pruners import BasePruner
from optuna.study import Study
from optuna.trial import FrozenTrial

from medexp.sweep.study.history import PROMOTED, collect_reports, first_numbers


class HalvingPruner(BasePruner):  # type: ignore[misc]
    """Pauses trials at the rungs `first_rung` x `reduction_factor` ** k, in training steps.

    Without `first_rung` the first rung is the first report, that of evaluation.every_steps. A trial
    is at a rung with its first report there or after it. Lower reports are better.

    Raises: ValueError for a reduction factor below 2, or a first rung below 1.
    """

    pauses = True

    def __init__(self, first_rung: int | None = None, reduction_factor: int = 3):
        if reduction_factor < 2:
            raise ValueError(f"reduction_factor={reduction_factor} has to be 2 or more")
        if first_rung is not None and first_rung < 1:
            raise ValueError(f"first_rung={first_rung} has to be 1 or more")
        self._first_rung, self._factor = first_rung, reduction_factor

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Is `trial` to pause after its last report?"""
        step = trial.last_step
        # A promoted trial has passed the rung that it was promoted from.
        if step is None or step <= trial.user_attrs.get(PROMOTED, 0):
            return False
        if not self._is_at_rung(trial.intermediate_values, step):
            return False
        return not self._goes_on(study.get_trials(deepcopy=False), trial, step)

    def _goes_on(self, trials: Sequence[FrozenTrial], trial: FrozenTrial, step: int) -> bool:
        """Is `trial`, at a rung with its report of `step`, good enough among all `trials`?"""
        reports = collect_reports(trials)
        own = first_numbers(trials)[trial.number]
        reports[own] = reports.get(own, {}) | trial.intermediate_values
        return own in self._list_best(reports, step)

    def choose_promotion(
        self, trials: Sequence[FrozenTrial], paused: Sequence[FrozenTrial], is_last: bool
    ) -> FrozenTrial | None:
        """Return the one of the `paused` among `trials` that is to go on, None where none is.

        That is the best one of the highest rung where one is among the best by now. With `is_last`,
        where nothing else is left to do, the best of every rung goes on: one trial then ends.
        """
        reports, first = collect_reports(trials), first_numbers(trials)
        by_rung = sorted(paused, key=lambda trial: (-trial.last_step, _last_report(trial)))
        for trial in by_rung:
            best = self._list_best(reports, trial.last_step, at_least=int(is_last))
            if first[trial.number] in best:
                return trial
        return None

    def _list_best(
        self, reports: Mapping[int, Mapping[int, float]], step: int, at_least: int = 0
    ) -> list[int]:
        """Return the numbers of the best 1 / reduction_factor of those that reported at `step`."""
        at_step = [number for number, of_trial in reports.items() if step in of_trial]
        # Of equals the earlier one is better, so that the same one is chosen in every process.
        at_step.sort(key=lambda number: (reports[number][step], number))
        return at_step[: max(len(at_step) // self._factor, at_least)]

    def _is_at_rung(self, reports: Mapping[int, float], step: int) -> bool:
        """Is the report at `step` the first at or after a rung?"""
        before = max((other for other in reports if other < step), default=0)
        # Step 0 may be reported, too: it is the base.
        rung = self._first_rung or max(min(reports), 1)
        while rung <= before:
            rung *= self._factor
        return rung <= step


def _last_report(trial: FrozenTrial) -> float:
    value: float = trial.intermediate_values[trial.last_step]
    return value
