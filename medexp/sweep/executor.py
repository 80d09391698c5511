"""One trial as processes: launched once a repeat, its outcome read from its folder."""

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medexp.sweep.reporting.results import average_outcomes
from medexp.sweep.search.labels import AS_CONFIGURED
from medexp.sweep.search.options import SweepOptions
from medexp.sweep.search.proposal import Proposal
from medexp.sweep.search.search_space import quote_value
from medexp.sweep.spec import SweepSpec
from medexp.sweep.study.history import FOLDER, REPEAT_VALUES, trial_id_of
from medexp.sweep.study.study import Study
from medexp.sweep.study.trial_files import (
    Ending,
    TrialOutcome,
    TrialSpec,
    read_json_object,
    read_outcome,
)
from medexp.system import private_names
from medexp.system.process_identity import wait_for_end
from medexp.tracking.run_name import abbreviate_params

# How long a process may take to end that an earlier command has left.
END_TIMEOUT_S = 120


class TrialExecutor:
    """Runs the trials of a study through Hydra's launcher. Several threads may use it at once."""

    def __init__(self, study: Study, spec: SweepSpec, launcher: Any):
        self._study = study
        self._spec = spec
        self._options = study.options
        self._launcher = launcher
        # The MLflow run that the trials are nested under; known once the study's own run is open.
        self.parent_run_id = ""

    def execute(self, trial: Any, proposal: Proposal) -> TrialOutcome:
        """Run every repeat of `trial` that is still to be run; returns their mean."""
        outcomes: list[TrialOutcome] = []
        for repeat in range(self._options.repeats):
            outcome = self._read_earlier_outcome(trial, repeat)
            outcomes.append(outcome or self._launch(trial, proposal, repeat))
            if outcomes[-1].ending is not Ending.done:
                break
            if self._should_prune(trial, outcomes):
                why = f"after {len(outcomes)} repeats"
                # It is the last repeat's outcome again, whose time has been counted.
                outcomes.append(replace(outcomes[-1], ending=Ending.pruned, why=why, elapsed_s=0.0))
                break
        self._keep_repeats(trial, outcomes)
        return average_outcomes(outcomes)

    def _keep_repeats(self, trial: Any, outcomes: Sequence[TrialOutcome]) -> None:
        """Keep the first objective of every repeat, which says how far equal runs lie apart."""
        objective = self._options.objectives[0]
        done = [outcome.metrics for outcome in outcomes if outcome.ending is Ending.done]
        values = [metrics[objective] for metrics in done if objective in metrics]
        if len(values) > 1:
            trial.set_user_attr(REPEAT_VALUES, values)

    def set_launcher(self, launcher: Any) -> None:
        """Run what comes next through `launcher`."""
        self._launcher = launcher

    def read_outcome_of_orphan(self, folder: Path) -> TrialOutcome | None:
        """Return the outcome in the `folder` of a trial whose sweeper is gone, None without one."""
        outcome = read_outcome(folder)
        return outcome and mark_diverged(outcome, self._options)

    def stop(self, *, at_once: bool) -> bool:
        """Ask running trials to keep what they have and end, or end them `at_once`.

        Returns False for a launcher that cannot be asked, as one of a cluster.
        """
        stop = getattr(self._launcher, "kill" if at_once else "interrupt", None)
        if stop is None:
            return False
        stop()
        return True

    def _read_earlier_outcome(self, trial: Any, repeat: int) -> TrialOutcome | None:
        """Return the outcome of this repeat in a trial that `trial` continues, None where it was
        cut short.
        """
        if self._options.repeats == 1:
            return None
        for predecessor in self._study.list_continued(trial):
            folder = self._spec.folder / self._subdir(predecessor, repeat)
            outcome = read_outcome(folder)
            if outcome is not None and outcome.ending is not Ending.stopped:
                trial.set_user_attr(FOLDER, str(folder))
                return mark_diverged(outcome, self._options)
        return None

    def _should_prune(self, trial: Any, outcomes: list[TrialOutcome]) -> bool:
        """Ask the pruner after each of several repeats, its value reported as that of a step."""
        repeats_done = len(outcomes)
        if self._options.repeats == 1 or len(self._options.objectives) > 1:
            return False
        # A metric that was not logged is refused later, when the trial is told.
        if (objective := self._options.objectives[0]) not in outcomes[-1].metrics:
            return False
        trial.report(outcomes[-1].metrics[objective], repeats_done)
        return repeats_done < self._options.repeats and bool(trial.should_prune())

    def _launch(self, trial: Any, proposal: Proposal, repeat: int) -> TrialOutcome:
        """Run a repeat and wait for it.

        The outcome comes from the trial's folder, whatever became of the launcher.
        """
        subdir = self._subdir(trial, repeat)
        folder = self._spec.folder / subdir
        trial.set_user_attr(FOLDER, str(folder))
        overrides = [
            *proposal.overrides,
            # The first repeat has the seed of the config.
            *([f"training.seed={first_seed(proposal) + repeat}"] if repeat else []),
        ]
        outcome = self.run(overrides, self._make_trial_spec(trial, subdir), subdir)
        return mark_diverged(outcome, self._options)

    def run(self, overrides: Sequence[str], trial_spec: TrialSpec, subdir: str) -> TrialOutcome:
        """Run the command of these `overrides` in the study's folder `subdir`; wait for its end."""
        folder = self._spec.folder / subdir
        trial_spec.write(folder)
        (folder / "outcome.json").unlink(missing_ok=True)
        job = [
            *overrides,
            f"hydra.sweep.dir={quote_value(str(self._spec.folder))}",
            f"hydra.sweep.subdir={subdir}",
        ]
        started_at = time.perf_counter()
        failure = None
        try:
            job_returns = self._launcher.launch([job], initial_job_idx=trial_spec.number)
            failure = private_names.JOB_RETURN.of(job_returns[0]) if job_returns else None
        # A launcher that has lost its worker may raise anything, and one trial is all that it cost.
        except Exception as error:
            failure = error
        outcome = read_outcome(folder) or TrialOutcome(
            Ending.crashed, str(failure or "no result came back")
        )
        (folder / "trial.json").unlink(missing_ok=True)
        return replace(outcome, elapsed_s=time.perf_counter() - started_at)

    def _subdir(self, trial: Any, repeat: int) -> str:
        """Return the folder of a repeat. It is not 1_1, which Hydra would read as the number 11."""
        has_repeats = self._options.repeats > 1
        return f"{trial.number}-{repeat + 1}" if has_repeats else str(trial.number)

    def _make_trial_spec(self, trial: Any, subdir: str) -> TrialSpec:
        return TrialSpec(
            study_name=self._study.name,
            storage=self._study.url,
            trial_id=trial_id_of(trial),
            number=trial.number,
            name=f"{subdir}: {abbreviate_params(trial.params) or AS_CONFIGURED}",
            pruner=self._options.pruner,
            reports=len(self._options.objectives) == 1 and self._options.repeats == 1,
            tags=self._make_tags() | {"medexp.trial": str(trial.number)},
            parent_pid=self._find_parent_pid(),
            chooses=self._study.chooses,
        )

    def make_final_spec(self, number: int, name: str) -> TrialSpec:
        """Return what tells a process that it is the final run of trial `number`: it chooses
        nothing, so it is measured on the test part, and reports nothing to the study.
        """
        return TrialSpec(
            study_name=self._study.name,
            storage=self._study.url,
            trial_id=-1,
            number=number,
            name=name,
            pruner=None,
            reports=False,
            tags=self._make_tags() | {"medexp.final_of_trial": str(number)},
            parent_pid=self._find_parent_pid(),
            chooses=False,
        )

    def _make_tags(self) -> dict[str, str]:
        return {"mlflow.parentRunId": self.parent_run_id, "medexp.study": self._study.name}

    def _find_parent_pid(self) -> int | None:
        # medexp's own launcher can be interrupted, and starts its trials as children of this
        # process.
        return os.getpid() if hasattr(self._launcher, "interrupt") else None


def wait_for_process_in(folder: Path, say: Callable[[], None]) -> None:
    """Wait, after saying so, for the process that an earlier command has left in `folder`: nothing
    must be trained twice at once.
    """
    if process := read_json_object(folder / "process.json"):
        wait_for_end(process, END_TIMEOUT_S, say)


def first_seed(proposal: Proposal) -> int:
    """Return the seed of the first repeat; each further repeat has the next one."""
    # A proposal that could not be composed to a config is never started.
    assert proposal.config is not None
    return proposal.config.training.seed


def mark_diverged(outcome: TrialOutcome, options: SweepOptions) -> TrialOutcome:
    """Return `outcome`, as diverged where an objective or a constraint is not finite.

    Optuna would refuse such a value, and no other trial can be compared with it.
    """
    names: Sequence[str] = (*options.objectives, *options.constraints)
    not_finite = [
        f"{name} is {outcome.metrics[name]}"
        for name in names
        if not math.isfinite(outcome.metrics.get(name, 0.0))
    ]
    if outcome.ending is not Ending.done or not not_finite:
        return outcome
    return replace(outcome, ending=Ending.diverged, why=", ".join(not_finite))
