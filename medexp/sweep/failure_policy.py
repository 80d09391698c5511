"""When a sweep gives up: what has failed too often, and what would fail again."""

from pathlib import Path

from medexp.errors import ConfigError, SweepFailed
from medexp.sweep.search.proposal import Proposal
from medexp.sweep.study.history import WHY, StudyHistory, ending_of
from medexp.sweep.study.trial_files import Ending, TrialOutcome


class FailurePolicy:
    """Ends a sweep whose trials fail. `folder` is the study's, which holds what they printed."""

    def __init__(self, history: StudyHistory, folder: Path):
        self._history = history
        self._options = history.options
        self._folder = folder

    def check_outcome(self, outcome: TrialOutcome) -> None:
        """Check whether the sweep may go on after `outcome`, which the study has been told.

        Raises: ConfigError where every trial so far was refused as bad input; SweepFailed where
            more failed than hydra.sweeper.max_failure_rate allows.
        """
        if not outcome.ending.is_failure:
            return
        refused = self._history.count_ended(Ending.input)
        if outcome.ending is Ending.input and refused == self._history.count_done() > 1:
            raise ConfigError(f"the first {refused} trials were refused: {outcome.why}")
        self._check_failure_rate(outcome)

    def check_has_result(self) -> None:
        """Check that a sweep whose trials failed has at least one value to show.

        Raises: SweepFailed where it has none and more failed than may.
        """
        failed = [
            trial
            for trial in self._history.trials()
            if (ending := ending_of(trial)) is not None and ending.is_failure
        ]
        if failed and not self._history.best_trials():
            last = failed[-1]
            self._check_failure_rate(
                TrialOutcome(ending_of(last) or Ending.crashed, last.user_attrs.get(WHY, ""))
            )

    def _check_failure_rate(self, last: TrialOutcome) -> None:
        failures = self._history.count_failures()
        allowed_rate = self._options.max_failure_rate
        allowed = allowed_rate * self._options.n_trials
        if failures > allowed:
            raise SweepFailed(
                f"{failures} of {self._history.count_done()} trials failed,"
                f" hydra.sweeper.max_failure_rate={allowed_rate:g} of {self._options.n_trials}"
                f" allows {int(allowed)}. The last one, {last.ending.value}: {last.why}. What they"
                f" printed is in {self._folder}/*/trial.log"
            )

    def check_feasible(self, proposal: Proposal, refused_in_a_row: int, allowed: int) -> None:
        """Check that refused proposals do not follow each other without end.

        Raises: SweepFailed where `allowed` were refused in a row, or the whole space was.
        """
        history = self._history
        is_space_infeasible = (
            history.is_exhausted() and not history.count_pending() and not history.count_done()
        )
        if refused_in_a_row < allowed and not is_space_infeasible:
            return
        done = history.count_done()
        refused = history.count_ended(Ending.infeasible)
        nothing = "nothing more" if done else "nothing"
        started = f"{done} trials are done" if done else "none was started"
        last_point = " ".join(proposal.overrides[-len(history.space.dimensions) :])
        raise SweepFailed(
            f"{nothing} in this space fits: {refused} proposals were planned, {started}. The last"
            f" one ({last_point}) {proposal.why}"
        )
