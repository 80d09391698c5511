"""Trial after trial: asked for, planned, started if it fits, told.

A proposal that cannot fit costs no process and none of `n_trials`. Several threads work on one
study, and several sweepers may: the number of a trial says who was first.
"""

import signal
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from medexp.config.schema import RunConfig
from medexp.errors import ConfigError, OutputError
from medexp.sweep.budget import TrialCosts, measure_lost_s, split_elapsed
from medexp.sweep.executor import TrialExecutor, wait_for_process_in
from medexp.sweep.failure_policy import FailurePolicy
from medexp.sweep.reporting import currency
from medexp.sweep.search.proposal import VRAM, Proposal, make_proposal
from medexp.sweep.spec import SweepSpec
from medexp.sweep.study import storage
from medexp.sweep.study.history import (
    ATTEMPT,
    MEASURED,
    OWNER,
    PLANNED,
    PLANNED_S,
    PLANNED_STEP_S,
    is_outside,
    trial_id_of,
)
from medexp.sweep.study.study import Study
from medexp.sweep.study.trial_files import Ending, TrialOutcome
from medexp.system import disk_space, machine
from medexp.system.console import Console
from medexp.system.units import MIB, bytes_of_gib, gib

MAX_ATTEMPTS = 3
# Proposals in a row that cannot fit, or that repeat an earlier one.
MAX_FRUITLESS_PROPOSALS = 200
MIN_FREE_BYTES = 20 * MIB
POLL_S = 0.3


class TrialScheduler:
    """Decides which trial starts next, and tells the study how each ended."""

    def __init__(
        self,
        study: Study,
        spec: SweepSpec,
        base_config: RunConfig,
        executor: TrialExecutor,
        console: Console,
    ):
        self.study = study
        self.failures = FailurePolicy(study, spec.folder)
        self.costs = TrialCosts(study)
        self._spec = spec
        self._base_config = base_config
        self._executor = executor
        self._console = console
        self._options = study.options
        # Reentrant: what is done under the lock calls methods that take it too.
        self._lock = threading.RLock()
        self._started_at = time.monotonic()
        self._refused_in_a_row = 0
        self._repeated_in_a_row = 0
        self._is_spent = False
        self._messages: set[str] = set()
        self.in_flight: dict[int, Any] = {}
        self.error: BaseException | None = None
        self.stop_requests = 0
        self.stopped_by = signal.SIGINT
        self.abandons_trials = False

    def run(self) -> None:
        """Run trials until there are enough; an error of the sweep itself is kept in `error`.

        Each worker thread runs this method.
        """
        try:
            while (ready := self._next_trial()) is not None:
                self._run_trial(*ready)
        except BaseException as error:
            self.error = self.error or error

    def recover_orphans(self) -> None:
        """Take up the trials that a dead sweeper left: tell how they ended, or try them again."""
        for frozen_trial in self.study.list_orphans():
            folder = self.study.folder_of(frozen_trial)
            trial = self.study.reopen(frozen_trial)
            self._wait_for_process_end(frozen_trial.number, folder)
            outcome = self._executor.read_outcome_of_orphan(folder) if folder else None
            if outcome is None:
                why = "its sweeper and it ended without a word"
                self._retry(trial, Ending.died, why, measure_lost_s(self.study, frozen_trial))
            elif outcome.ending is Ending.stopped:
                self._retry(trial, Ending.stopped, outcome.why, outcome.elapsed_s)
            elif self._options.repeats == 1:
                self._tell(trial, outcome, frozen_trial.user_attrs.get(PLANNED, 0))
            # Of several repeats others may be missing: the next trial reads those that there are.
            else:
                why = "its sweeper and it ended without a word"
                self._retry(trial, Ending.died, why, measure_lost_s(self.study, frozen_trial))

    def _wait_for_process_end(self, number: int, folder: Path | None) -> None:
        """Wait for the process of an orphan, because a trial must not be trained twice at once."""
        if folder is not None:
            message = f"trial {number} of an earlier command is still ending"
            wait_for_process_in(folder, lambda: self._console.info(message))

    def _retry(self, trial: Any, ending: Ending, why: str, elapsed_s: float = 0.0) -> None:
        """End a trial that was cut short, and have its parameters tried next.

        The new trial finds the checkpoint and the MLflow run of the old one by its parameters.
        """
        frozen_trial = self.study.reload(trial)
        attempt = frozen_trial.user_attrs.get(ATTEMPT, 1)
        if ending is Ending.died and attempt >= MAX_ATTEMPTS:
            why = f"died {attempt} times without a word"
            self.study.tell(trial, TrialOutcome(Ending.crashed, why, elapsed_s=elapsed_s), {})
            return
        is_told = self.study.tell(trial, TrialOutcome(ending, why, elapsed_s=elapsed_s), {})
        # A trial that was cut short before it had all parameters leaves nothing to continue.
        is_whole = set(frozen_trial.params) >= set(self.study.space.dimensions)
        if is_told and (is_whole or is_outside(frozen_trial)):
            self.study.enqueue(frozen_trial.params, continues=self.study.reload(trial))

    def send_heartbeat(self) -> None:
        """Tell other sweepers that the trials of this one are alive.

        A storage that is away for a moment is tried again at the next beat.
        """
        with self._lock, suppress(Exception):
            self.study.heartbeat([trial_id_of(trial) for trial in self.in_flight.values()])

    def request_stop(self, number: int = signal.SIGINT) -> None:
        """Stop after Ctrl-C or SIGTERM: the first lets running trials keep what they have, the
        second ends them.
        """
        self.stop_requests += 1
        self.stopped_by = signal.Signals(number)
        is_first = self.stop_requests == 1
        if is_first:
            self._console.info(
                "stopping: running trials finish their step and keep it (once more ends them now)"
            )
        is_heard = self._executor.stop(at_once=not is_first)
        if not is_heard and not is_first:
            # The jobs of such a launcher run on; the next command takes them up.
            self.abandons_trials = True

    @property
    def is_cut_by_timeout(self) -> bool:
        """Has hydra.sweeper.timeout ended the search before there were enough trials?"""
        return self._is_timed_out() and self.study.count_done() < self._options.n_trials

    def _is_timed_out(self) -> bool:
        timeout = self._options.timeout
        return timeout is not None and time.monotonic() - self._started_at > timeout

    def _is_over(self) -> bool:
        return bool(self.stop_requests or self.error or self._is_timed_out() or self._is_spent)

    def _next_trial(self) -> tuple[Any, Proposal] | None:
        """Return the next trial that may start; None when there are enough or nothing is left."""
        while not self._is_over():
            with self._lock:
                is_enough = self.study.count_done() >= self._options.n_trials
                # What runs may yet let a paused trial go on.
                if is_enough and not self.study.pauses:
                    return None
                if self._may_ask():
                    if (ready := self._ask()) is not None:
                        return ready
                    continue
                if not self.study.count_pending():
                    if not is_enough:
                        self._explain_shortfall()
                    return None
                if not self.in_flight:
                    self._check_other_sweepers()
            time.sleep(POLL_S)
        return None

    def _may_ask(self) -> bool:
        """Is a trial waiting to be continued, or is there room for another and something to try?"""
        study = self.study
        has_room = study.count_done() + study.count_pending() < self._options.n_trials
        has_proposals = self._repeated_in_a_row < MAX_FRUITLESS_PROPOSALS
        may_propose = has_room and has_proposals and not study.is_exhausted()
        if study.count_waiting():
            return True
        is_last = not may_propose and not study.count_pending()
        return study.enqueue_promotion(is_last) or may_propose

    def _explain_shortfall(self) -> None:
        done, wanted = self.study.count_done(), self._options.n_trials
        if self.study.is_exhausted():
            why = "every point was tried"
        else:
            why = (
                f"nothing new is proposed: the last {self._repeated_in_a_row} points had all been"
                " tried before"
            )
        self._say_once(
            f"{why}, so the sweep ends with {done} of {wanted} trials; a wider space or another"
            " sampler has more"
        )

    def _check_other_sweepers(self) -> None:
        """Say which trials of other sweepers this one waits for, and take up those left behind."""
        self.recover_orphans()
        for trial in self.study.trials():
            if trial.state.name == "RUNNING":
                sweeper = trial.user_attrs.get(OWNER) or {"pid": "?", "host": "?"}
                silent_s = storage.STALE_AFTER_BEATS * self._options.heartbeat_s
                self._say_once(
                    f"waiting for trial {trial.number}, which process {sweeper['pid']} on"
                    f" {sweeper['host']} has begun; it is tried again once nothing was heard of it"
                    f" for {silent_s} s"
                )

    def _say_once(self, text: str) -> None:
        if text not in self._messages:
            self._messages.add(text)
            self._console.info(text)

    def _ask(self) -> tuple[Any, Proposal] | None:
        """Return one more trial with its proposal, None if it is not to be started."""
        trial = self.study.ask()
        params = {} if is_outside(trial) else self._spec.suggest_params(trial)
        # Each of several trials at once has its share of the machine.
        machine_share = machine.share_machine(machine.read(), self._options.n_jobs)
        proposal = make_proposal(
            self.study.space.overrides(params),
            self._spec.compose,
            machine_share,
            self._spec.launch_dir,
        )
        trial.set_user_attr(PLANNED, proposal.planned_bytes)
        for name, seconds in (
            (PLANNED_S, self.costs.plan_s(proposal)),
            (PLANNED_STEP_S, proposal.step_s),
        ):
            if seconds is not None:
                trial.set_user_attr(name, seconds)
        if not self._is_startable(trial, proposal):
            return None
        self._refused_in_a_row = self._repeated_in_a_row = 0
        self.in_flight[trial.number] = trial
        return trial, proposal

    def _is_startable(self, trial: Any, proposal: Proposal) -> bool:
        """Is `trial` worth a process? If not, the study is told why."""
        if self.study.is_surplus(trial):
            surplus = TrialOutcome(Ending.surplus, "another sweeper had asked for the last one")
            self.study.tell(trial, surplus, {})
            return False
        if not proposal.fits:
            infeasible = TrialOutcome(Ending.infeasible, proposal.why)
            self.study.tell(trial, infeasible, proposal.violations)
            self._refused_in_a_row += 1
            self.failures.check_feasible(proposal, self._refused_in_a_row, MAX_FRUITLESS_PROPOSALS)
            return False
        if (twin := self.study.find_twin(trial)) is not None:
            self.study.tell_twin(trial, twin)
            self._repeated_in_a_row += 1
            return False
        if excess := self.costs.explain_excess(trial, proposal):
            self._is_spent = True
            self._say_once(excess)
            self._retry(trial, Ending.stopped, excess)
            return False
        return True

    def _run_trial(self, trial: Any, proposal: Proposal) -> None:
        outcome = self._executor.execute(trial, proposal)
        with self._lock:
            del self.in_flight[trial.number]
            # A sampler that knows of one more trial may propose something else.
            self._repeated_in_a_row = 0
            if outcome.ending.is_failure:
                self._refuse_full_disk(trial)
            if outcome.ending is Ending.stopped:
                self._retry(trial, Ending.stopped, outcome.why, outcome.elapsed_s)
            else:
                self._tell(trial, outcome, proposal.planned_bytes)
                self.failures.check_outcome(outcome)

    def _refuse_full_disk(self, trial: Any) -> None:
        """Stop where the disk is full, which fails every trial, and have this one tried again.

        Raises: OutputError naming the folder.
        """
        folders = [self._spec.folder, Path(self._base_config.tracking.root or ".")]
        try:
            disk_space.refuse_full_disk(folders, MIN_FREE_BYTES)
        except OutputError as error:
            self._retry(trial, Ending.stopped, str(error))
            raise

    def _tell(self, trial: Any, outcome: TrialOutcome, planned_bytes: int) -> None:
        """Tell the study how a trial that was started ended, and how far it is from its limits.

        Raises: ConfigError if it did not log an objective or a constraint; its parameters are then
            tried again.
        """
        measured_bytes = outcome.metrics.get("vram/measured_bytes")
        peak_bytes = measured_bytes or planned_bytes
        metrics = outcome.metrics | {
            "sweep/planned_bytes": float(planned_bytes),
            "sweep/peak_gib": gib(int(peak_bytes)),
            "sweep/elapsed_s": outcome.elapsed_s,
            "sweep/steps": float(self.study.count_steps(trial)),
        }
        if outcome.ending is Ending.done:
            self._refuse_unlogged(trial, metrics)
        ceiling_bytes = bytes_of_gib(self._base_config.hardware.vram_ceiling_gib or 0)
        violations = {VRAM: float(peak_bytes - ceiling_bytes)} if ceiling_bytes else {}
        if outcome.ending is Ending.vram:
            # The allocation was refused, so by how much it was too large is not known. A violation
            # of at least a hundredth of the ceiling keeps samplers away from the point.
            violations[VRAM] = max(violations.get(VRAM, 0.0), ceiling_bytes / 100, 1.0)
        violations |= {
            name: metrics[name] - limit
            for name, limit in self._options.constraints.items()
            if name in metrics
        }
        told = replace(outcome, metrics=metrics)
        measured = split_elapsed(trial, outcome, self._options.repeats)
        self.study.tell(trial, told, violations, {MEASURED: measured_bytes, **measured})
        currency.log_trial_cost(self._base_config.tracking, self.study.reload(trial))

    def _refuse_unlogged(self, trial: Any, metrics: Mapping[str, float]) -> None:
        try:
            self.study.check_logged(metrics)
        except ConfigError as error:
            self._retry(trial, Ending.stopped, str(error))
            raise
