"""An Optuna study that several sweepers may share and a later command may continue: asking for
trials, telling how they ended, and keeping them alive.
"""

import math
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from medexp.errors import ConfigError, listing
from medexp.sweep.search.options import SweepOptions
from medexp.sweep.search.search_space import SearchSpace, Value
from medexp.sweep.study import storage
from medexp.sweep.study.history import (
    ATTEMPT,
    BEAT,
    CONCLUSIVE_ENDINGS,
    CONFIGURED,
    CONTINUES,
    ELAPSED,
    ENDING,
    OWNER,
    PROMOTED,
    RUN,
    STEPS,
    VALUES,
    WHY,
    StudyHistory,
    ending_of,
    is_outside,
    trial_id_of,
)
from medexp.sweep.study.optuna_factory import (
    check_pruner,
    check_sampler,
    make_distribution,
    make_pruner,
    make_sampler,
    pauses,
    suggest,
)
from medexp.sweep.study.trial_files import Ending, TrialOutcome
from medexp.system import private_names

# A trial that another sweeper has asked for has its parameters within this time.
SUGGEST_TIMEOUT_S = 5.0
PRUNED_ENDINGS = (Ending.pruned, Ending.paused, Ending.vram, Ending.infeasible)
MAX_WHY_CHARACTERS = 500


class Study(StudyHistory):
    """The study `name` at `url`, which several processes may use at once."""

    def __init__(self, optuna_study: Any, url: str, space: SearchSpace, options: SweepOptions):
        super().__init__(optuna_study, url, space, options)
        self._is_reseeded = False
        self._asking = storage.lock_for_asking(url)
        self._beat_at: dict[int, float] = {}
        # Grid and brute-force samplers call study.stop() when no point is left.
        optuna_study.stop = self._mark_sampler_exhausted

    def ask(self) -> Any:
        """Return a new trial with suggested parameters, or one that waits to be continued."""
        with self._asking:
            trial = self.optuna.ask()
        # The heartbeat comes before the owner: a sweeper that dies in between must be found out.
        self.heartbeat([trial_id_of(trial)])
        trial.set_user_attr(OWNER, self._this_sweeper)
        self._reseed_if_shared()
        dimensions = {} if is_outside(trial) else self.space.dimensions
        for key, dimension in dimensions.items():
            suggest(trial, key, dimension)
        self._repeat_reports(trial)
        return trial

    def _reseed_if_shared(self) -> None:
        """Draw from this process's own chance where another sweeper is at work.

        Sweepers that begin together begin with the same seed, and would propose the same points.
        """
        if not self._is_reseeded and self.has_other_sweeper():
            self.optuna.sampler.reseed_rng()
            self._is_reseeded = True

    def _repeat_reports(self, trial: Any) -> None:
        """Report again what the trial that `trial` continues has reported, for the pruner.

        With repeats each of them is reported once its outcome is read again.
        """
        if self.options.repeats == 1:
            for predecessor in self.list_continued(trial)[:1]:
                for step, loss in predecessor.intermediate_values.items():
                    trial.report(loss, step)

    def enqueue(self, params: Mapping[str, Value], continues: Any | None = None) -> None:
        """Have `params` tried next, in a trial that continues `continues` where that is given."""
        user_attrs = {}
        if continues is not None:
            # A stop by the user uses up none of the attempts.
            has_died = ending_of(continues) is Ending.died
            attempt = continues.user_attrs.get(ATTEMPT, 1)
            user_attrs = {CONTINUES: continues.number, ATTEMPT: attempt + has_died}
            if is_outside(continues):
                user_attrs[CONFIGURED] = True
            if promoted := self._promoted_from(continues):
                user_attrs[PROMOTED] = promoted
        self.optuna.enqueue_trial(
            dict(params), user_attrs=user_attrs, skip_if_exists=continues is None
        )

    def enqueue_outside(self) -> None:
        """Have the run as configured tried next, which is no point of the space."""
        self.optuna.enqueue_trial({}, user_attrs={CONFIGURED: True}, skip_if_exists=True)

    def _promoted_from(self, continued: Any) -> int | None:
        """Return the rung that the trial which continues `continued` has passed, in steps."""
        if ending_of(continued) is Ending.paused:
            step: int | None = continued.last_step
            return step
        passed: int | None = continued.user_attrs.get(PROMOTED)
        return passed

    @property
    def pauses(self) -> bool:
        """Whether the pruner has trials pause and go on, as `HalvingPruner` does."""
        return pauses(self.optuna.pruner)

    def enqueue_promotion(self, is_last: bool) -> bool:
        """Have the paused trial go on that the pruner chooses; `is_last` says that nothing else is
        left to do. Returns whether it chose one.
        """
        if not self.pauses:
            return False
        paused = [trial for trial in self.list_paused() if self.is_in_space(trial.params)]
        promoted = self.optuna.pruner.choose_promotion(self.trials(), paused, is_last)
        if promoted is None:
            return False
        self.enqueue(promoted.params, continues=promoted)
        return True

    def find_twin(self, trial: Any) -> Any | None:
        """Return the trial that `trial` would repeat, None where there is none.

        That is one with the same parameters whose end would be the same again, or an earlier one
        that is still running.
        """
        if is_outside(trial):
            return None
        self._wait_for_earlier_params(trial)
        # A trial does not repeat the paused one that it goes on from.
        own = {trial.number} | {
            continued.number
            for continued in self.list_continued(trial)
            if ending_of(continued) is Ending.paused
        }
        twins = [
            other
            for other in self.trials()
            if other.number not in own and other.params == trial.params
        ]
        ended = [twin for twin in twins if ending_of(twin) in CONCLUSIVE_ENDINGS]
        # One that a paused trial has gone on to says more than that one.
        ended.sort(key=lambda twin: ending_of(twin) is Ending.paused)
        running = [
            twin for twin in twins if twin.number < trial.number and twin.state.name == "RUNNING"
        ]
        return next(iter(ended + running), None)

    def _wait_for_earlier_params(self, trial: Any) -> None:
        """Wait until the trials that other sweepers asked for earlier have their parameters: of two
        that agree, the earlier one runs.
        """
        deadline = time.monotonic() + SUGGEST_TIMEOUT_S
        while time.monotonic() < deadline and any(
            other.number < trial.number
            and other.state.name == "RUNNING"
            and set(other.params) < set(self.space.dimensions)
            and not is_outside(other)
            for other in self.trials()
        ):
            time.sleep(0.1)

    def tell(
        self,
        trial: Any,
        outcome: TrialOutcome,
        violations: Mapping[str, float],
        notes: Mapping[str, object] | None = None,
        twin: Any | None = None,
    ) -> bool:
        """Record how `trial` ended; where it has a `twin`, with the twin's state and values.

        Returns False, and changes nothing, where another process had already recorded an end.
        """
        import optuna

        states = optuna.trial.TrialState
        if twin is None:
            state, values = self._state_and_values(outcome, states)
        else:
            state, values = twin.state, twin.values
        has_no_point = is_outside(trial)
        if has_no_point:
            state = states.FAIL
        user_attrs = {
            ENDING: outcome.ending.value,
            WHY: outcome.why[:MAX_WHY_CHARACTERS],
            ELAPSED: round(outcome.elapsed_s, 3),
            RUN: outcome.run_id,
            STEPS: self.count_steps(trial) or None,
            VALUES: values if has_no_point else None,
            **dict(notes or {}),
        }
        try:
            for name, value in user_attrs.items():
                if value not in (None, ""):
                    trial.set_user_attr(name, value)
            for name, violation in violations.items():
                trial.set_constraint(name, violation)
            self.optuna.tell(trial, values if state is states.COMPLETE else None, state=state)
        except (optuna.exceptions.UpdateFinishedTrialError, ValueError):
            if not self.reload(trial).state.is_finished():
                raise
            return False
        return True

    def tell_twin(self, trial: Any, twin: Any) -> None:
        """Tell `trial` how its `twin` ended, or that it is one too many where that still runs."""
        ending = ending_of(twin)
        same_point = f"the same point as trial {twin.number}"
        if ending is None:
            surplus = TrialOutcome(Ending.surplus, f"{same_point}, which is under way")
            self.tell(trial, surplus, {})
            return
        for step, loss in twin.intermediate_values.items():
            trial.report(loss, step)
        why = same_point if ending is Ending.done else f"{same_point}: {ending.value}"
        self.tell(trial, TrialOutcome(Ending.copied, why), twin.constraints, twin=twin)

    def _state_and_values(
        self, outcome: TrialOutcome, states: Any
    ) -> tuple[Any, list[float] | None]:
        if outcome.ending in (Ending.done, Ending.copied):
            return states.COMPLETE, self.objective_values(outcome.metrics)
        return (states.PRUNED if outcome.ending in PRUNED_ENDINGS else states.FAIL), None

    def heartbeat(self, trial_ids: Sequence[int]) -> None:
        """Tell other sweepers that these trials are alive.

        A database has its own table for it. A journal has none, so there the time is written as a
        user attribute, at most once in `heartbeat_s` because a journal only ever grows.
        """
        from optuna.exceptions import UpdateFinishedTrialError

        record_heartbeat = getattr(self._storage, "record_heartbeat", None)
        for trial_id in trial_ids:
            if record_heartbeat is not None:
                record_heartbeat(trial_id)
                continue
            next_beat_at = self._beat_at.get(trial_id, -math.inf) + 0.9 * self.options.heartbeat_s
            if time.monotonic() > next_beat_at:
                with suppress(UpdateFinishedTrialError):
                    self._storage.set_trial_user_attr(trial_id, BEAT, time.time())
                self._beat_at[trial_id] = time.monotonic()

    def reopen(self, frozen_trial: Any) -> Any:
        """Return `frozen_trial` as a live Optuna Trial, which can be told how it ended."""
        import optuna

        return optuna.trial.Trial(self.optuna, trial_id_of(frozen_trial))

    def close(self) -> None:
        """Close the connections to the storage."""
        backend = private_names.CACHED_STORAGE.of(self._storage) or self._storage
        if hasattr(backend, "engine"):
            backend.remove_session()
            backend.engine.dispose()

    def _mark_sampler_exhausted(self) -> None:
        self.is_sampler_exhausted = True


def open_study(name: str, url: str, space: SearchSpace, options: SweepOptions) -> Study:
    """Return the study `name` at `url`, new or as an earlier command left it.

    Raises: OutputError for a storage that does not answer; ConfigError where the study there was
        made for other directions, distributions or a sampler that cannot draw from `space`.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    check_sampler(options.sampler, space, options.objectives)
    check_pruner(options)
    optuna_storage = storage.connect(url, options.heartbeat_s)
    try:
        summaries = {
            summary.study_name: summary
            for summary in optuna.study.get_all_study_summaries(
                optuna_storage, include_best_trial=False
            )
        }
        if name in summaries:
            _check_directions(name, summaries[name], options)
        optuna_study = optuna.create_study(
            storage=optuna_storage,
            study_name=name,
            directions=list(options.directions),  # type: ignore[arg-type]
            load_if_exists=True,
            pruner=make_pruner(options.pruner),
        )
        study = Study(optuna_study, url, space, options)
        trials = study.trials()
        # Once a trial has a value, what that value is called stays.
        if not any(trial.state.name == "COMPLETE" for trial in trials):
            _name_objectives(optuna_study, options.objectives)
        _check_distributions(study)
        optuna_study.sampler = make_sampler(options.sampler, space, len(trials))
    except SQLAlchemyError as error:
        raise storage.make_unreachable_error(url, error) from error
    return study


def _name_objectives(optuna_study: Any, objectives: Sequence[str]) -> None:
    """Set the names that plots and optuna-dashboard give the axes."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        optuna_study.set_metric_names(list(objectives))


def _check_directions(name: str, summary: Any, options: SweepOptions) -> None:
    """Raises ConfigError where the stored study optimises in other directions."""
    stored = tuple(direction.name.lower() for direction in summary.directions)
    if stored != options.directions:
        raise ConfigError(
            f"study {name} has direction {listing(stored)} and hydra.sweeper.direction is"
            f" {listing(options.directions)}; set it back, or give the new study a name:"
            " hydra.sweeper.study_name=NAME"
        )


def _check_distributions(study: Study) -> None:
    """Raises ConfigError where a dimension has changed its kind or its choices.

    Optuna itself refuses such a study too, but only in the middle of the sweep.
    """
    for trial in study.trials():
        for key, stored in trial.distributions.items():
            if key not in study.space.dimensions:
                continue
            current = make_distribution(study.space.dimensions[key])
            if type(current) is not type(stored) or (
                hasattr(stored, "choices") and current.choices != stored.choices
            ):
                raise ConfigError(
                    f"study {study.name} was begun with {key} from"
                    f" {_describe_distribution(stored)} and is now asked for"
                    f" {_describe_distribution(current)}; set it back, or give the new study a"
                    " name: hydra.sweeper.study_name=NAME"
                )


def _describe_distribution(distribution: Any) -> str:
    """Return `distribution` as Hydra's sweep syntax writes it."""
    if hasattr(distribution, "choices"):
        return f"choice({', '.join(map(str, distribution.choices))})"
    if hasattr(distribution, "low"):
        return f"interval({distribution.low:g}, {distribution.high:g})"
    return str(distribution)
