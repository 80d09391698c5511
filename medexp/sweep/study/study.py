"""An Optuna study that is shared, continued and counted: what was asked, what is told, and what
still has to be done.

Every trial ends in one of `outcome.Ending`. Optuna is told COMPLETE for a value; PRUNED for what
was pruned and, with its violation as a constraint, for what cannot fit or ran out of memory; FAIL
for the rest. Samplers learn from pruned trials and forget failed ones.
"""

import math
import socket
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from medexp.errors import ConfigError, listing, nearest
from medexp.sweep.search.labels import contains_value
from medexp.sweep.search.options import SweepOptions
from medexp.sweep.search.search_space import SearchSpace, Value
from medexp.sweep.study import storage
from medexp.sweep.study.optuna_factory import (
    check_sampler,
    make_distribution,
    make_pruner,
    make_sampler,
)
from medexp.sweep.study.trial_files import TRIED, Ending, TrialOutcome
from medexp.system import private_names
from medexp.system.process_identity import is_alive, owner

ENDING, FOLDER, OWNER, PLANNED, MEASURED, WHY, ELAPSED, RUN, CONTINUES, BEAT = (
    "ending", "folder", "sweeper", "planned_bytes", "measured_bytes", "why", "elapsed_s", "mlflow_run_id", "continues", "beat",
)  # fmt: skip
RETRIES = 3
SUGGEST_TIMEOUT_S = 5.0  # a trial that another sweeper has asked for has its values
PRUNED_ENDINGS = (Ending.pruned, Ending.vram, Ending.infeasible)


def trial_id_of(trial: Any) -> int:
    """What the storage calls `trial`."""
    found: int = private_names.TRIAL_ID.needed(trial)
    return found


class Study:
    """The study `name` at `url`; several processes may hold it at once."""

    def __init__(self, optuna_study: Any, url: str, space: SearchSpace, settings: SweepOptions):
        self.optuna = optuna_study
        self.url, self.space, self.settings = url, space, settings
        self.folder: Path | None = None  # None: where each trial says
        self.exhausted = False
        self._me = owner()
        self._draws_apart = False
        self._beaten_at: dict[int, float] = {}
        optuna_study.stop = self._stop  # grid and brute-force samplers call it when nothing is left

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.optuna.study_name)

    @property
    def _storage(self) -> Any:
        return private_names.STUDY_STORAGE.needed(self.optuna)

    def trials(self) -> list[Any]:
        """Every trial, oldest first."""
        return list(self.optuna.get_trials(deepcopy=False))

    def done(self) -> int:
        """Trials that have used up one of those asked for."""
        return sum(ending.counts for ending in map(ending_of, self.trials()) if ending)

    def pending(self) -> int:
        """Trials under way or waiting, here or elsewhere."""
        return sum(not each.state.is_finished() for each in self.trials())

    def waiting(self) -> int:
        """Trials whose values are known and that nobody has taken yet."""
        return sum(each.state.name == "WAITING" for each in self.trials())

    def folder_of(self, trial: Any) -> Path | None:
        """Where a trial that was started keeps its files: in the study's folder, which may lie
        elsewhere than it did then."""
        kept = trial.user_attrs.get(FOLDER)
        return (self.folder or Path(kept).parent) / Path(kept).name if kept else None

    def count(self, wanted: Ending) -> int:
        """Trials that ended this way."""
        return sum(ending_of(each) is wanted for each in self.trials())

    def frozen(self, trial: Any) -> Any:
        """`trial` as the storage has it now."""
        return self._storage.get_trial(trial_id_of(trial))

    def failures(self) -> int:
        """Trials that failed."""
        return sum(ending.is_failure for ending in map(ending_of, self.trials()) if ending)

    def ask(self) -> Any:
        """A new trial with its values drawn, or one that waits to be continued."""
        trial = self.optuna.ask()
        # before it has an owner: one that dies here must be found out, too
        self.heartbeat([trial_id_of(trial)])
        trial.set_user_attr(OWNER, self._me)
        self._draw_apart()
        for key, dimension in self.space.dimensions.items():
            private_names.SUGGEST.needed(trial)(key, make_distribution(dimension))
        self._hand_on(trial)
        return trial

    def _hand_on(self, trial: Any) -> None:
        """Report again what the trial that `trial` continues has reported: the pruner holds it
        against others. With repeats every one of them is reported once it is known again."""
        if self.settings.repeats == 1:
            for before in self.continued(trial)[:1]:
                for step, value in before.intermediate_values.items():
                    trial.report(value, step)

    def continued(self, trial: Any) -> list[Any]:
        """The trials that `trial` continues, the last one first."""
        numbered = {each.number: each for each in self.trials()}
        found: list[Any] = []
        number = self.frozen(trial).user_attrs.get(CONTINUES)
        while number in numbered:
            found.append(numbered.pop(number))
            number = found[-1].user_attrs.get(CONTINUES)
        return found

    def _draw_apart(self) -> None:
        """Sweepers that begin together begin with one seed: where another is at work, draw from
        chance of one's own.
        """
        if not self._draws_apart and any(
            each.state.name == "RUNNING"
            and each.user_attrs.get(OWNER) != self._me
            and not self._is_orphan(each)
            for each in self.trials()
        ):
            self.optuna.sampler.reseed_rng()
            self._draws_apart = True

    def is_surplus(self, trial: Any) -> bool:
        """Were enough trials asked for before this one? Several sweepers ask at once; numbers say
        who was first.
        """
        before = [each for each in self.trials() if each.number < trial.number]
        held = sum(
            not each.state.is_finished() or bool((ending := ending_of(each)) and ending.counts)
            for each in before
        )
        return held >= self.settings.n_trials

    def enqueue(self, values: Mapping[str, Value], continues: Any | None = None) -> None:
        """Have these values tried next."""
        attempt = {}
        if continues is not None:
            has_died = ending_of(continues) is Ending.died  # a stop uses up none of the attempts
            earlier = continues.user_attrs.get("attempt", 1)
            attempt = {CONTINUES: continues.number, "attempt": earlier + has_died}
        self.optuna.enqueue_trial(
            dict(values), user_attrs=attempt, skip_if_exists=continues is None
        )

    def same_point(self, trial: Any) -> Any | None:
        """The trial that `trial` would repeat: one whose end would be the same again, or an earlier
        one that is under way.
        """
        self._let_earlier_be_drawn(trial)
        twins = [
            each
            for each in self.trials()
            if each.number != trial.number and each.params == trial.params
        ]
        settled = [each for each in twins if ending_of(each) in CONCLUSIVE_ENDINGS]
        under_way = [
            each for each in twins if each.number < trial.number and each.state.name == "RUNNING"
        ]
        return next(iter(settled + under_way), None)

    def _let_earlier_be_drawn(self, trial: Any) -> None:
        """Wait for the values of trials that other sweepers asked for before this one: of two that
        agree, the earlier one runs.
        """
        deadline = time.monotonic() + SUGGEST_TIMEOUT_S
        while time.monotonic() < deadline and any(
            each.number < trial.number
            and each.state.name == "RUNNING"
            and set(each.params) < set(self.space.dimensions)
            for each in self.trials()
        ):
            time.sleep(0.1)

    def copy(self, trial: Any, twin: Any) -> None:
        """Tell `trial` what `twin`, the same point, came to; where that is still under way, that it
        is one too many.
        """
        ending = ending_of(twin)
        same = f"the same point as trial {twin.number}"
        if ending is None:
            self.tell(trial, TrialOutcome(Ending.surplus, f"{same}, which is under way"), {})
            return
        for step, loss in twin.intermediate_values.items():
            trial.report(loss, step)
        why = same if ending is Ending.done else f"{same}: {ending.value}"
        self.tell(trial, TrialOutcome(Ending.copied, why), twin.constraints, twin=twin)

    def is_exhausted(self) -> bool:
        """Has every point of a finite space been tried, or is under way? Of another space only its
        sampler can tell.
        """
        if not math.isfinite(self.space.size):
            return self.exhausted
        taken = (
            each
            for each in self.trials()
            if each.state.name == "RUNNING" or ending_of(each) in TRIED
        )
        points = {
            tuple(str(each.params[key]) for key in self.space.dimensions)
            for each in taken
            if self.space_holds(each.params)
        }
        return len(points) >= self.space.size

    def space_holds(self, params: Mapping[str, Any]) -> bool:
        """Do these values lie in the space as it is asked for now? A study's ranges may have been
        others before.
        """
        return all(
            key in params and contains_value(each, params[key])
            for key, each in self.space.dimensions.items()
        )

    def tell(
        self,
        trial: Any,
        outcome: TrialOutcome,
        violations: Mapping[str, float],
        notes: Mapping[str, object] | None = None,
        twin: Any | None = None,
    ) -> bool:
        """Record how `trial` ended, its state and values those of `twin` where it has one; False
        where somebody else had already done so, and it stays as it is."""
        import optuna

        states = optuna.trial.TrialState
        state, values = self._state(outcome, states) if twin is None else (twin.state, twin.values)
        kept = {
            ENDING: outcome.ending.value,
            WHY: outcome.why[:500],
            ELAPSED: round(outcome.elapsed_s, 3),
            RUN: outcome.run_id,
        }
        try:
            for name, value in (kept | dict(notes or {})).items():
                if value not in (None, ""):
                    trial.set_user_attr(name, value)
            for name, value in violations.items():
                trial.set_constraint(name, value)
            self.optuna.tell(trial, values if state is states.COMPLETE else None, state=state)
        except (optuna.exceptions.UpdateFinishedTrialError, ValueError):
            if not self.frozen(trial).state.is_finished():
                raise
            return False
        return True

    def _state(self, outcome: TrialOutcome, states: Any) -> tuple[Any, list[float] | None]:
        if outcome.ending in (Ending.done, Ending.copied):
            return states.COMPLETE, self.values(outcome.metrics)
        return (states.PRUNED if outcome.ending in PRUNED_ENDINGS else states.FAIL), None

    def values(self, metrics: Mapping[str, float]) -> list[float]:
        """The objectives among `metrics`.

        Raises: ConfigError for one that was not logged.
        """
        self.refuse_unlogged(metrics)
        return [float(metrics[each]) for each in self.settings.objectives]

    def refuse_unlogged(self, metrics: Mapping[str, float]) -> None:
        """Has a run that is done logged what is optimised and what is limited?

        Raises: ConfigError for a metric that it has not.
        """
        asked = {"objective": self.settings.objectives, "constraints": self.settings.constraints}
        for option, names in asked.items():
            for each in names:
                if each not in metrics:
                    raise ConfigError(
                        f"hydra.sweeper.{option}: {each} is not logged by a"
                        f" run{nearest(each, metrics)}; there are {listing(sorted(metrics))}"
                    )

    def best(self) -> list[Any]:
        """The best trial, or with several objectives the Pareto front; empty where none finished.
        Feasible ones only.
        """
        finished = [
            each
            for each in self.trials()
            if ending_of(each) is Ending.done and all(v <= 0 for v in each.constraints.values())
        ]
        if len(self.settings.objectives) > 1:
            return [
                each for each in finished if not any(self._beats(other, each) for other in finished)
            ]
        sign = self._signs()[0]
        return sorted(finished, key=lambda each: sign * each.value)[:1]

    def _signs(self) -> list[int]:
        return [1 if each == "minimize" else -1 for each in self.settings.directions]

    def _beats(self, one: Any, other: Any) -> bool:
        pairs = [
            (sign * a, sign * b)
            for sign, a, b in zip(self._signs(), one.values, other.values, strict=True)
        ]
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    def leftovers(self) -> list[Any]:
        """Trials marked as running whose sweeper is gone."""
        return [
            each for each in self.trials() if each.state.name == "RUNNING" and self._is_orphan(each)
        ]

    def _is_orphan(self, trial: Any) -> bool:
        held_by = trial.user_attrs.get(OWNER)
        if held_by is None:  # asked for a moment ago, or its sweeper died in between
            return self._age_s(trial) > storage.STALE_AFTER_BEATS * self.settings.heartbeat_s
        if held_by["host"] == socket.gethostname():
            return not is_alive(held_by)
        if hasattr(self._storage, "record_heartbeat"):
            return trial_id_of(trial) in self._stale_ids()
        beat = trial.user_attrs.get(BEAT)
        silent_s = self._age_s(trial) if beat is None else time.time() - beat
        return silent_s > storage.STALE_AFTER_BEATS * self.settings.heartbeat_s

    def _age_s(self, trial: Any) -> float:
        return time.time() - trial.datetime_start.timestamp() if trial.datetime_start else 0.0

    def _stale_ids(self) -> list[int]:
        find = private_names.STALE_TRIALS.of(self._storage)
        return list(find(private_names.STUDY_ID.needed(self.optuna))) if find else []

    def heartbeat(self, trial_ids: Sequence[int]) -> None:
        """Tell other sweepers that these trials are alive: in the storage's own way, or as a note
        where it has none (journals).
        """
        from optuna.exceptions import UpdateFinishedTrialError

        record = getattr(self._storage, "record_heartbeat", None)
        for each in trial_ids:
            if record is not None:
                record(each)
            elif (
                time.monotonic()
                > self._beaten_at.get(each, -math.inf) + 0.9 * self.settings.heartbeat_s
            ):
                with suppress(UpdateFinishedTrialError):
                    self._storage.set_trial_user_attr(each, BEAT, time.time())
                self._beaten_at[each] = time.monotonic()

    def trial(self, frozen: Any) -> Any:
        """`frozen` as a trial that can be told."""
        import optuna

        return optuna.trial.Trial(self.optuna, trial_id_of(frozen))

    def close(self) -> None:
        """Let go of the connections to the storage."""
        kept_in = private_names.CACHED_STORAGE.of(self._storage) or self._storage
        if hasattr(kept_in, "engine"):
            kept_in.remove_session()
            kept_in.engine.dispose()

    def _stop(self) -> None:
        self.exhausted = True


# another try of the same point would end so, too
CONCLUSIVE_ENDINGS = (Ending.done, Ending.pruned, Ending.vram, Ending.diverged)


def open_study(name: str, url: str, space: SearchSpace, settings: SweepOptions) -> Study:
    """The study `name` at `url`, new or as it was left.

    Raises: OutputError for a storage that does not answer; ConfigError where the study there was
        made for something else.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    check_sampler(settings.sampler, space, settings.objectives)
    kept_in = storage.connect(url, settings.heartbeat_s)
    try:
        earlier = {
            each.study_name: each
            for each in optuna.study.get_all_study_summaries(kept_in, include_best_trial=False)
        }
        if name in earlier:
            _check_directions(name, earlier[name], settings)
        study = optuna.create_study(
            storage=kept_in,
            study_name=name,
            directions=list(settings.directions),  # type: ignore[arg-type]
            load_if_exists=True,
            pruner=make_pruner(settings.pruner),
        )
        if not any(each.state.name == "COMPLETE" for each in study.get_trials(deepcopy=False)):
            _name_objectives(study, settings.objectives)
        made = Study(study, url, space, settings)
        _check_distributions(made)
        study.sampler = make_sampler(settings.sampler, space, len(made.trials()))
    except SQLAlchemyError as error:
        raise storage.make_unreachable_error(url, error) from error
    return made


def _name_objectives(study: Any, objectives: Sequence[str]) -> None:
    """What plots and optuna-dashboard call the axes."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names(list(objectives))


def _check_directions(name: str, earlier: Any, settings: SweepOptions) -> None:
    kept = tuple(each.name.lower() for each in earlier.directions)
    if kept != settings.directions:
        raise ConfigError(
            f"study {name} has direction {listing(kept)} and hydra.sweeper.direction is"
            f" {listing(settings.directions)}; set it back, or give the new study a name:"
            " hydra.sweeper.study_name=NAME"
        )


def _check_distributions(study: Study) -> None:
    """Optuna refuses a categorical that has changed in the middle of a sweep: say so before it
    begins.
    """
    for each in study.trials():
        for key, kept in each.distributions.items():
            if key not in study.space.dimensions:
                continue
            now = make_distribution(study.space.dimensions[key])
            if type(now) is not type(kept) or (
                hasattr(kept, "choices") and now.choices != kept.choices
            ):
                raise ConfigError(
                    f"study {study.name} was begun with {key} from {_describe_distribution(kept)} and is now asked"
                    f" for {_describe_distribution(now)}; set it back, or give the new study a name:"
                    " hydra.sweeper.study_name=NAME"
                )


def _describe_distribution(kept: Any) -> str:
    if hasattr(kept, "choices"):
        return f"choice({', '.join(map(str, kept.choices))})"
    return f"interval({kept.low:g}, {kept.high:g})" if hasattr(kept, "low") else str(kept)


def ending_of(trial: Any) -> Ending | None:
    """How a finished trial ended; None while it has not. Trials of another hand (optuna-dashboard)
    go by Optuna's own state.
    """
    if not trial.state.is_finished():
        return None
    word = trial.user_attrs.get(ENDING)
    plain = {"COMPLETE": Ending.done, "PRUNED": Ending.pruned}
    return Ending(word) if word else plain.get(trial.state.name, Ending.died)
