"""Hydra's door to trials in processes of their own; what it does is in medexp.sweep.launch. Imports
nothing of medexp.
"""

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class MedexpLauncher(Launcher):
    """Runs every job as a fresh `python -m medexp.<door>`, `n_jobs` at a time, each with its card
    or its share of the cores.
    """

    def __init__(self, n_jobs: int, timeout_s: float | None):
        self.n_jobs, self.timeout_s = n_jobs, timeout_s
        self.jobs: Any = None

    def setup(
        self,
        *,
        hydra_context: HydraContext,
        task_function: TaskFunction,  # noqa: ARG002
        config: DictConfig,
    ) -> None:
        """Called by Hydra before `launch`; the task itself is not needed: a job is a command."""
        from medexp.sweep.workers.launcher import JobLauncher

        self.jobs = JobLauncher(hydra_context, config, self.n_jobs, self.timeout_s)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """One JobReturn a job, in order, when all have ended. May be called from several threads."""
        returns: Sequence[JobReturn] = self.jobs.launch(job_overrides, initial_job_idx)
        return returns

    def interrupt(self) -> None:
        """Ask running jobs to finish their step, keep it and end."""
        self.jobs.processes.interrupt()

    def kill(self) -> None:
        """End running jobs now."""
        self.jobs.processes.kill()
