"""Trial after trial: asked for, planned, started if it fits, told.

What cannot fit costs no process and none of the trials asked for. Several threads work on one
study, and several sweepers may: the number of a trial says who was first.
"""

import math
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from medexp.config.schema import RunConfig
from medexp.errors import ConfigError, OutputError, SweepFailed
from medexp.sweep.reporting import results
from medexp.sweep.search.proposal import VRAM, Proposal, make_proposal
from medexp.sweep.search.search_space import quote_value
from medexp.sweep.spec import SweepSpec
from medexp.sweep.study import storage
from medexp.sweep.study.study import (
    FOLDER,
    MEASURED,
    OWNER,
    PLANNED,
    RETRIES,
    WHY,
    Study,
    ending_of,
    trial_id_of,
)
from medexp.sweep.study.trial_files import (
    Ending,
    TrialOutcome,
    TrialSpec,
    read_json_object,
    read_outcome,
)
from medexp.system import disk_space, machine, private_names
from medexp.system.console import Screen
from medexp.system.process_identity import wait_for_end
from medexp.system.units import MIB, bytes_of_gib, gib
from medexp.tracking.run_name import words

MAX_FRUITLESS_PROPOSALS = 200  # proposals that cannot fit, or that repeat an earlier one
MIN_FREE_BYTES = 20 * MIB
END_TIMEOUT_S = 120


class Trials:
    """The trials of one study, as this process works on them."""

    def __init__(
        self, study: Study, question: SweepSpec, base: RunConfig, launcher: Any, show: Screen
    ):
        self.study, self._question, self._base, self._launcher, self._show = (
            study,
            question,
            base,
            launcher,
            show,
        )
        self._settings = study.settings
        self._watched = (*study.settings.objectives, *study.settings.constraints)
        self._lock = threading.RLock()
        self._began = time.monotonic()
        self._refused = self._repeated = 0
        self._told: set[str] = set()
        self.in_flight: dict[int, Any] = {}
        self.error: BaseException | None = None
        self.stops = 0
        self.stopped_by = signal.SIGINT
        self.leaves_now = False
        self.parent_run_id = ""

    def take_up(self) -> None:
        """Trials that a dead sweeper left: told where they have come to an end, tried again where
        they have not.
        """
        for frozen in self.study.leftovers():
            folder, trial = self.study.folder_of(frozen), self.study.trial(frozen)
            self._let_it_end(frozen.number, folder)
            outcome = read_outcome(folder) if folder else None
            if (
                outcome is not None
                and outcome.ending is not Ending.stopped
                and self._settings.repeats == 1
            ):
                self._tell(
                    trial, _mark_diverged(outcome, self._watched), frozen.user_attrs.get(PLANNED, 0)
                )
            elif outcome is not None and outcome.ending is Ending.stopped:
                self._again(trial, Ending.stopped, outcome.why)
            else:
                self._again(trial, Ending.died, "its sweeper and it ended without a word")

    def _let_it_end(self, number: int, folder: Path | None) -> None:
        process = read_json_object(folder / "process.json") if folder else None
        if process:
            wait_for_end(
                process,
                END_TIMEOUT_S,
                lambda: self._show.say(f"trial {number} of an earlier command is still ending"),
            )

    def _again(self, trial: Any, ending: Ending, why: str) -> None:
        """Give up a trial that was cut short and have its values tried next: checkpoint and MLflow
        run are found by them.
        """
        frozen = self.study.frozen(trial)
        attempt = frozen.user_attrs.get("attempt", 1)
        if ending is Ending.died and attempt >= RETRIES:
            self.study.tell(
                trial, TrialOutcome(Ending.crashed, f"died {attempt} times without a word"), {}
            )
        elif self.study.tell(trial, TrialOutcome(ending, why), {}) and set(frozen.params) >= set(
            self.study.space.dimensions
        ):
            self.study.enqueue(frozen.params, continues=self.study.frozen(trial))

    def beat(self) -> None:
        """Tell other sweepers that the trials of this one are alive; a storage that is away for a
        moment is tried again later.
        """
        with self._lock, suppress(Exception):
            self.study.heartbeat([trial_id_of(each) for each in self.in_flight.values()])

    def asked_to_stop(self, number: int = signal.SIGINT) -> None:
        """Ctrl-C or SIGTERM: the first lets running trials keep what they have, the second ends
        them.
        """
        self.stops += 1
        self.stopped_by = signal.Signals(number)
        if self.stops == 1:
            self._show.say(
                "stopping: running trials finish their step and keep it (once more ends them now)"
            )
        stop = getattr(self._launcher, "interrupt" if self.stops == 1 else "kill", None)
        if stop is not None:
            stop()
        elif self.stops > 1:
            # a launcher that cannot be told: its jobs are taken up by the next command
            self.leaves_now = True

    def work(self) -> None:
        """Trials until there are enough; what goes wrong with the sweep itself is kept in `error`."""
        try:
            while (asked := self._next()) is not None:
                self._try_out(*asked)
        except BaseException as error:
            self.error = self.error or error

    def _is_over(self) -> bool:
        timeout = self._settings.timeout
        return bool(
            self.stops
            or self.error
            or (timeout is not None and time.monotonic() - self._began > timeout)
        )

    def _next(self) -> tuple[Any, Proposal] | None:
        """The next trial that may start; None when there are enough, or nothing is left to try."""
        while not self._is_over():
            with self._lock:
                if self.study.done() >= self._settings.n_trials:
                    return None
                if self._may_ask():
                    if (asked := self._asked()) is not None:
                        return asked
                    continue
                if not self.study.pending():
                    self._say_why_fewer()
                    return None
                if not self.in_flight:
                    self._look_after_others()
            time.sleep(0.3)
        return None

    def _may_ask(self) -> bool:
        """Is a trial waiting to be continued, or is there room for one more and something left to
        try?
        """
        if self.study.waiting():
            return True
        has_room = self.study.done() + self.study.pending() < self._settings.n_trials
        return (
            has_room and self._repeated < MAX_FRUITLESS_PROPOSALS and not self.study.is_exhausted()
        )

    def _say_why_fewer(self) -> None:
        done, wanted = self.study.done(), self._settings.n_trials
        if self.study.is_exhausted():
            why = "every point was tried"
        else:
            why = (
                f"nothing new is proposed: the last {self._repeated} points had all been tried"
                " before"
            )
        self._say_once(
            f"{why}, so the sweep ends with {done} of {wanted} trials; a wider space or another"
            " sampler has more"
        )

    def _look_after_others(self) -> None:
        """Only trials of other sweepers are left: say which, and take them up when nobody holds
        them any more.
        """
        self.take_up()
        for each in self.study.trials():
            if each.state.name == "RUNNING":
                held_by = each.user_attrs.get(OWNER) or {"pid": "?", "host": "?"}
                silent_s = storage.STALE_AFTER_BEATS * self._settings.heartbeat_s
                self._say_once(
                    f"waiting for trial {each.number}, which process {held_by['pid']} on"
                    f" {held_by['host']} has begun; it is tried again once nothing was heard of it"
                    f" for {silent_s} s"
                )

    def _say_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._show.say(text)

    def _asked(self) -> tuple[Any, Proposal] | None:
        """One more trial, None if it is not to be started."""
        trial = self.study.ask()
        values = self._question.values(trial)
        here = machine.shared(machine.read(), self.study.settings.n_jobs)
        proposal = make_proposal(
            self.study.space.overrides(values),
            self._question.compose,
            here,
            self._question.launch_dir,
        )
        trial.set_user_attr(PLANNED, proposal.planned_bytes)
        if not self._is_startable(trial, proposal):
            return None
        self._refused = self._repeated = 0
        self.in_flight[trial.number] = trial
        return trial, proposal

    def _is_startable(self, trial: Any, proposal: Proposal) -> bool:
        """Is it worth a process? If not, the study is told why."""
        if self.study.is_surplus(trial):
            self.study.tell(
                trial,
                TrialOutcome(Ending.surplus, "another sweeper had asked for the last one"),
                {},
            )
        elif not proposal.fits:
            self.study.tell(
                trial, TrialOutcome(Ending.infeasible, proposal.why), proposal.violations
            )
            self._count_refused(proposal)
        elif (twin := self.study.same_point(trial)) is not None:
            self.study.copy(trial, twin)
            self._repeated += 1
        else:
            return True
        return False

    def _count_refused(self, proposal: Proposal) -> None:
        self._refused += 1
        nothing_left = (
            self.study.is_exhausted() and not self.study.pending() and not self.study.done()
        )
        if self._refused >= MAX_FRUITLESS_PROPOSALS or nothing_left:
            done, tried = self.study.done(), self.study.count(Ending.infeasible)
            nothing, started = (
                ("nothing more", f"{done} trials are done")
                if done
                else ("nothing", "none was started")
            )
            last = " ".join(proposal.overrides[-len(self.study.space.dimensions) :])
            raise SweepFailed(
                f"{nothing} in this space fits: {tried} proposals were planned, {started}. The last"
                f" one ({last}) {proposal.why}"
            )

    def _try_out(self, trial: Any, proposal: Proposal) -> None:
        outcomes: list[TrialOutcome] = []
        for repeat in range(self._settings.repeats):
            outcomes.append(
                self._finished(trial, repeat) or self._launched(trial, proposal, repeat)
            )
            if outcomes[-1].ending is not Ending.done:
                break
            if self._is_pruned(trial, outcomes):
                outcomes.append(
                    replace(
                        outcomes[-1],
                        ending=Ending.pruned,
                        why=f"after {len(outcomes)} repeats",
                        elapsed_s=0.0,
                    )
                )
                break
        with self._lock:
            del self.in_flight[trial.number]
            self._repeated = 0  # a sampler that has heard of one more may think of something else
            outcome = results.average_outcomes(outcomes)
            if outcome.ending.is_failure:
                self._refuse_full_disk(trial)
            if outcome.ending is Ending.stopped:
                self._again(trial, Ending.stopped, outcome.why)
            else:
                self._tell(trial, outcome, proposal.planned_bytes)
                self._check_failure(outcome)

    def _refuse_full_disk(self, trial: Any) -> None:
        """A full disk fails every trial: stop, and have this one tried again.

        Raises: OutputError naming the folder.
        """
        try:
            disk_space.refuse_full(
                [self._question.folder, Path(self._base.tracking.root or ".")], MIN_FREE_BYTES
            )
        except OutputError as error:
            self._again(trial, Ending.stopped, str(error))
            raise

    def _is_pruned(self, trial: Any, outcomes: list[TrialOutcome]) -> bool:
        """With repeats the pruner is asked after each of them, its value reported at its number."""
        count = len(outcomes)
        if self._settings.repeats == 1 or len(self._settings.objectives) > 1:
            return False
        # said once they are told
        if (objective := self._settings.objectives[0]) not in outcomes[-1].metrics:
            return False
        trial.report(outcomes[-1].metrics[objective], count)
        return count < self._settings.repeats and bool(trial.should_prune())

    def _finished(self, trial: Any, repeat: int) -> TrialOutcome | None:
        """What this repeat came to in a trial that `trial` continues; None where it was cut short."""
        for before in self.study.continued(trial) if self._settings.repeats > 1 else ():
            folder = self._question.folder / self._subdir(before, repeat)
            outcome = read_outcome(folder)
            if outcome is not None and outcome.ending is not Ending.stopped:
                trial.set_user_attr(FOLDER, str(folder))
                return _mark_diverged(outcome, self._watched)
        return None

    def _subdir(self, trial: Any, repeat: int) -> str:
        """The folder of a run; Hydra reads 1_1 as the number 11."""
        of_several = self._settings.repeats > 1
        return f"{trial.number}-{repeat + 1}" if of_several else str(trial.number)

    def _launched(self, trial: Any, proposal: Proposal, repeat: int) -> TrialOutcome:
        """Run it and wait; its outcome comes from its folder, whatever became of the launcher."""
        subdir = self._subdir(trial, repeat)
        folder = self._question.folder / subdir
        trial.set_user_attr(FOLDER, str(folder))
        self._trial_spec(trial, subdir).write(folder)
        seeded = [f"training.seed={first_seed(proposal) + repeat}"] if repeat else []
        (folder / "outcome.json").unlink(missing_ok=True)
        began, failure = time.perf_counter(), None
        try:
            where = [
                f"hydra.sweep.dir={quote_value(str(self._question.folder))}",
                f"hydra.sweep.subdir={subdir}",
            ]
            returned = self._launcher.launch(
                [[*proposal.overrides, *seeded, *where]], initial_job_idx=trial.number
            )
            failure = private_names.JOB_RETURN.of(returned[0]) if returned else None
        except Exception as error:  # a launcher that lost its worker says so in its own way
            failure = error
        found = read_outcome(folder) or TrialOutcome(
            Ending.crashed, str(failure or "no result came back")
        )
        (folder / "trial.json").unlink(missing_ok=True)
        return _mark_diverged(replace(found, elapsed_s=time.perf_counter() - began), self._watched)

    def _trial_spec(self, trial: Any, name: str) -> TrialSpec:
        is_child = hasattr(self._launcher, "interrupt")
        tags = {
            "mlflow.parentRunId": self.parent_run_id,
            "medexp.study": self.study.name,
            "medexp.trial": str(trial.number),
        }
        return TrialSpec(
            study_name=self.study.name,
            storage=self.study.url,
            trial_id=trial_id_of(trial),
            number=trial.number,
            name=f"{name}: {words(trial.params)}",
            pruner=self._settings.pruner,
            reports=len(self._settings.objectives) == 1 and self._settings.repeats == 1,
            tags=tags,
            parent_pid=os.getpid() if is_child else None,
        )

    def _tell(self, trial: Any, outcome: TrialOutcome, planned: int) -> None:
        """Tell the study what a trial that was started came to, and by how much it kept its limits.

        Raises: ConfigError if it did not log what is optimised or limited; its values are then
            tried again.
        """
        measured = outcome.metrics.get("vram/measured_bytes")
        metrics = outcome.metrics | {
            "sweep/planned_bytes": float(planned),
            "sweep/peak_gib": gib(int(measured or planned)),
        }
        if outcome.ending is Ending.done:
            self._refuse_unlogged(trial, metrics)
        ceiling = bytes_of_gib(self._base.hardware.vram_ceiling_gib or 0)
        limits = {VRAM: float((measured or planned) - ceiling)} if ceiling else {}
        if outcome.ending is Ending.vram:  # by how much is not known: it was refused
            limits[VRAM] = max(limits.get(VRAM, 0.0), ceiling / 100, 1.0)
        limits |= {
            name: metrics[name] - most
            for name, most in self._settings.constraints.items()
            if name in metrics
        }
        self.study.tell(trial, replace(outcome, metrics=metrics), limits, {MEASURED: measured})

    def _refuse_unlogged(self, trial: Any, metrics: Mapping[str, float]) -> None:
        try:
            self.study.refuse_unlogged(metrics)
        except ConfigError as error:
            self._again(trial, Ending.stopped, str(error))
            raise

    def refuse_failures(self) -> None:
        """Is there anything to show for the trials?

        Raises: SweepFailed where none came to a value and more failed than may.
        """
        failed = [
            each
            for each in self.study.trials()
            if (ending := ending_of(each)) and ending.is_failure
        ]
        if failed and not self.study.best():
            self._refuse_more(
                TrialOutcome(
                    ending_of(failed[-1]) or Ending.crashed, failed[-1].user_attrs.get(WHY, "")
                )
            )

    def _check_failure(self, outcome: TrialOutcome) -> None:
        """Stop where going on cannot help."""
        if not outcome.ending.is_failure:
            return
        refused = self.study.count(Ending.input)
        if outcome.ending is Ending.input and refused == self.study.done() > 1:
            raise ConfigError(f"the first {refused} trials were refused: {outcome.why}")
        self._refuse_more(outcome)

    def _refuse_more(self, outcome: TrialOutcome) -> None:
        failures, allowed = self.study.failures(), self._settings.max_failure_rate
        if failures > allowed * self._settings.n_trials:
            raise SweepFailed(
                f"{failures} of {self.study.done()} trials failed,"
                f" hydra.sweeper.max_failure_rate={allowed:g} of {self._settings.n_trials} allows"
                f" {int(allowed * self._settings.n_trials)}. The last one, {outcome.ending.value}:"
                f" {outcome.why}. What they printed is in {self._question.folder}/*/trial.log"
            )


def first_seed(proposal: Proposal) -> int:
    """The seed of its first repeat; each further one has the next."""
    assert proposal.run is not None  # what was refused is not started
    return proposal.run.training.seed


def _mark_diverged(outcome: TrialOutcome, names: Sequence[str]) -> TrialOutcome:
    """`outcome`, diverged where one of these metrics is no number that others can be held against."""
    wrong = [
        f"{name} is {outcome.metrics[name]}"
        for name in names
        if not math.isfinite(outcome.metrics.get(name, 0.0))
    ]
    return (
        replace(outcome, ending=Ending.diverged, why=", ".join(wrong))
        if outcome.ending is Ending.done and wrong
        else outcome
    )
