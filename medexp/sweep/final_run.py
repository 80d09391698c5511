"""The winner of a sweep: the best trial's settings, trained at full length and measured once on the
test part, which no trial has seen.

It keeps what the trials were, but for what a sweep's preset makes short: length, warm-up and
checkpoints, the number of training cases, and what is asked and kept at the end are those of the
same command without the preset.
"""

import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from omegaconf import DictConfig, OmegaConf

from medexp.config.changes import change_values
from medexp.config.flatten import Value, fingerprint, format_value, list_leaves
from medexp.errors import ConfigError, RunInterrupted, SweepFailed
from medexp.sweep.budget import Reserve, TrialCosts, measure_folder_s
from medexp.sweep.executor import TrialExecutor, first_seed, wait_for_process_in
from medexp.sweep.reporting.results import select_best_trial
from medexp.sweep.search.labels import AS_CONFIGURED, format_params
from medexp.sweep.search.proposal import Proposal, make_proposal
from medexp.sweep.search.search_space import quote_value
from medexp.sweep.signals import SignalHandlers
from medexp.sweep.spec import SweepSpec
from medexp.sweep.study.final_results import (
    FinalResult,
    list_done,
    load_final_results,
    store_final_result,
)
from medexp.sweep.study.study import Study
from medexp.sweep.study.trial_files import Ending, TrialOutcome, read_json_object, read_outcome
from medexp.system import machine
from medexp.system.console import NOTE, Console
from medexp.system.units import format_duration
from medexp.tracking.run_name import abbreviate_params

# What a final run has of the command without the sweep's preset.
_OF_THE_PLAIN_RUN = (
    "training.max_steps",
    "training.epochs",
    "training.warmup_steps",
    "training.warmup_ratio",
    "training.save_steps",
    "dataset.max_cases",
    "evaluation.",
    "tracking.",
)
_GROUPS = tuple(dict.fromkeys(name.partition(".")[0] for name in _OF_THE_PLAIN_RUN))
_PRESET = "sweep"
# In the place of the cases' digest: they are those of the study.
_FINAL = "final"
# Of a run whose number of steps is not known before it starts.
_PERCENT = 100
POLL_S = 0.2


@dataclass(frozen=True)
class _Job:
    """A final run to be made: its overrides, its seed and its folder in that of the study."""

    overrides: tuple[str, ...]
    seed: int
    folder: str


class FinalRun:
    """The final run of a sweep. Use `check` before the trials and `train` after them."""

    def __init__(self, spec: SweepSpec, console: Console):
        self._spec = spec
        self._options = spec.options
        self._console = console
        self._stopped_by: int | None = None
        self._stop_requests = 0
        self._abandons = False

    @property
    def is_wanted(self) -> bool:
        """Is a final run asked for? Other seeds of one recipe choose nothing that could win."""
        return self._options.final and self._spec.space.chooses

    def check(self) -> Reserve | None:
        """Check that a final run of the first point can be made; return what it takes.

        Returns None where none is wanted.
        Raises: ConfigError for one that could not be trained, as with more warm-up than steps.
        """
        if not self.is_wanted:
            if self._options.final:
                self._console.info("no final run: other seeds of one recipe choose nothing", NOTE)
            return None
        proposal = self._propose(self._spec.space.first_point)
        if proposal.config is None:
            raise ConfigError(f"sweep.final=true: the final run could not start: {proposal.why}")
        return Reserve(proposal.config.training.max_steps, self._options.final_seeds)

    def train(self, study: Study, executor: TrialExecutor, costs: TrialCosts) -> list[FinalResult]:
        """Train the best trial's settings as often as asked for; return the result of each seed.

        What an earlier command has trained is not trained again; what it was cut in goes on.

        Raises: SweepFailed where a run failed; RunInterrupted after Ctrl-C or SIGTERM.
        """
        best = select_best_trial(study) if self.is_wanted else None
        if best is None:
            return []
        proposal = self._propose(best.params)
        name = f"the final run of trial {best.number} ({format_params(best.params)})"
        if not proposal.fits:
            raise SweepFailed(f"{name} cannot start: {proposal.why}")
        jobs = self._make_jobs(best.number, proposal)
        with self._hold_lock():
            for job in jobs:
                self._settle(study, best.number, job)
            done = {result.folder for result in list_done(study, [job.folder for job in jobs])}
            missing = [job for job in jobs if job.folder not in done]
            if missing:
                planned_s = costs.plan_final_s(proposal, len(missing))
                self._announce(name, proposal, missing, planned_s)
                self._train_jobs(study, executor, best, proposal, missing)
        return list_done(study, [job.folder for job in jobs])

    def make_overrides(self, params: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the overrides of the final run of a trial with `params`."""
        of_trial = self._spec.space.overrides(params)
        plain = [override for override in of_trial if _key_of(override) != _PRESET]
        as_trial, as_plain = (
            dict(_list_leaves(self._spec.compose(overrides))) for overrides in (of_trial, plain)
        )
        changed = {
            key: value
            for key, value in as_plain.items()
            if key.startswith(_OF_THE_PLAIN_RUN) and as_trial.get(key) != value
        }
        if self._options.final_steps is not None:
            changed |= {"training.max_steps": self._options.final_steps, "training.epochs": None}
        kept = (override for override in of_trial if _key_of(override) not in changed)
        return (*kept, *(f"{key}={_format(value)}" for key, value in changed.items()))

    def _propose(self, params: Mapping[str, Any]) -> Proposal:
        machine_share = machine.share_machine(machine.read(), self._options.n_jobs)
        overrides = self.make_overrides(params)
        return make_proposal(overrides, self._spec.compose, machine_share, self._spec.launch_dir)

    def _make_jobs(self, number: int, proposal: Proposal) -> list[_Job]:
        """Return the run of each seed. Its folder is named by the run's fingerprint, so that the
        same run is found again.
        """
        assert proposal.config is not None
        jobs = []
        first = first_seed(proposal)
        for seed in range(first, first + self._options.final_seeds):
            others = () if seed == first else (f"training.seed={seed}",)
            config = change_values(proposal.config, {"training.seed": seed})
            folder = f"final-{number}-{fingerprint(config, _FINAL)[:8]}"
            jobs.append(_Job((*proposal.overrides, *others), seed, folder))
        return jobs

    @contextmanager
    def _hold_lock(self) -> Iterator[None]:
        """Hold the study's lock for final runs: of several sweepers one trains them."""
        lock = FileLock(self._spec.folder / ".final.lock")
        if not lock.acquire(blocking=False):
            self._console.info("waiting for the final run, which another sweeper trains")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _settle(self, study: Study, number: int, job: _Job) -> None:
        """Take up what an earlier process has left of `job`, once it has ended."""
        folder = self._spec.folder / job.folder
        earlier = load_final_results(study).get(job.folder)
        is_left = (folder / "process.json").exists()
        if not is_left or (earlier is not None and earlier.is_done):
            return
        wait_for_process_in(
            folder,
            lambda: self._console.info("the final run of an earlier command is still ending"),
        )
        elapsed_s = measure_folder_s(folder)
        outcome = read_outcome(folder) or TrialOutcome(Ending.died, elapsed_s=elapsed_s)
        self._store(study, number, job, outcome)

    def _store(self, study: Study, number: int, job: _Job, outcome: TrialOutcome) -> None:
        """Keep how an attempt at `job` ended, and count its time once."""
        folder = self._spec.folder / job.folder
        progress = read_json_object(folder / "progress.json") or {"step": 0}
        steps = outcome.metrics.get("result/steps", progress["step"])
        store_final_result(
            study,
            FinalResult(
                number,
                job.seed,
                job.folder,
                outcome.ending.value,
                outcome.run_id,
                int(steps),
                outcome.elapsed_s,
                outcome.metrics,
            ),
        )
        (folder / "process.json").unlink(missing_ok=True)

    def _announce(
        self, name: str, proposal: Proposal, jobs: Sequence[_Job], planned_s: float | None
    ) -> None:
        assert proposal.config is not None
        steps, epochs = proposal.config.training.max_steps, proposal.config.training.epochs
        length = f"{steps} steps" if steps else f"{epochs:g} epochs"
        seeds = ", ".join(str(job.seed) for job in jobs)
        about = f", about {format_duration(planned_s)}" if planned_s else ""
        self._console.info(f"{name}: {length}, training.seed={seeds}{about}")

    def _train_jobs(
        self,
        study: Study,
        executor: TrialExecutor,
        best: Any,
        proposal: Proposal,
        jobs: Sequence[_Job],
    ) -> None:
        """Run `jobs`, as many at a time as trials; keep how each ended.

        Raises: SweepFailed with the first that failed; RunInterrupted after a stop.
        """
        waiting, outcomes = deque(jobs), dict[str, TrialOutcome]()
        errors: list[Exception] = []
        point = abbreviate_params(best.params) or AS_CONFIGURED

        def work() -> None:
            try:
                while waiting and not self._stop_requests:
                    job = waiting.popleft()
                    name = f"final of {best.number}: {point}, seed {job.seed}"
                    spec = executor.make_final_spec(best.number, name)
                    outcomes[job.folder] = executor.run(job.overrides, spec, job.folder)
            except Exception as error:
                errors.append(error)

        def stop(number: int) -> None:
            self._stopped_by = number
            self._stop_requests += 1
            is_heard = executor.stop(at_once=self._stop_requests > 1)
            # The jobs of a launcher that cannot be asked run on; the next command takes them up.
            self._abandons = self._stop_requests > 1 and not is_heard

        workers = [threading.Thread(target=work, daemon=True) for _ in range(self._options.n_jobs)]
        with SignalHandlers(stop):
            for worker in workers:
                worker.start()
            self._show_progress(workers, jobs, proposal)
        for job in jobs:
            if job.folder in outcomes:
                self._store(study, best.number, job, outcomes[job.folder])
        if self._stopped_by is not None:
            raise RunInterrupted(
                "stopped in the final run; everything is kept, the same command continues",
                self._stopped_by,
            )
        if errors:
            raise errors[0]
        for job in jobs:
            outcome = outcomes[job.folder]
            if outcome.ending is not Ending.done:
                raise SweepFailed(
                    f"the final run ended, {outcome.ending.value}: {outcome.why}. What it printed"
                    f" is in {self._spec.folder / job.folder}/trial.log; the same command tries it"
                    " again"
                )

    def _show_progress(
        self, workers: Sequence[threading.Thread], jobs: Sequence[_Job], proposal: Proposal
    ) -> None:
        """Show how many steps of `jobs` are trained, until all `workers` have ended."""
        assert proposal.config is not None
        steps = proposal.config.training.max_steps or _PERCENT
        shown = 0
        with self._console.progress("the final run", steps * len(jobs)) as advance:
            while any(worker.is_alive() for worker in workers):
                if self._abandons:
                    return
                done = sum(_read_share(self._spec.folder / job.folder) * steps for job in jobs)
                advance(int(done) - shown)
                shown = int(done)
                for worker in workers:
                    worker.join(POLL_S / len(workers))


def _read_share(folder: Path) -> float:
    """Return the share of its steps that the run in `folder` has come to."""
    progress = read_json_object(folder / "progress.json")
    return progress["step"] / progress["steps"] if progress else 0.0


def _key_of(override: str) -> str:
    """Return the key of an override, without + or ++."""
    return override.partition("=")[0].lstrip("+")


def _list_leaves(cfg: DictConfig) -> Iterator[tuple[str, Value]]:
    """Yield every value of the groups of `cfg` that a final run may have otherwise, by its dotted
    name.
    """
    for group in _GROUPS:
        yield from list_leaves(group, OmegaConf.to_container(cfg[group], resolve=True))


def _format(value: object) -> str:
    """Return `value` as an override writes it."""
    if isinstance(value, list):
        return f"[{','.join(map(_format, value))}]"
    return quote_value(value) if isinstance(value, str) else format_value(value)
