"""Hydra's plugin for trials in processes of their own; medexp.sweep.workers.launcher does the work.

Hydra imports it in every application, so it imports nothing of medexp at its start.
"""

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class MedexpLauncher(Launcher):
    """Runs every job as `python -m medexp.COMMAND` in a process of its own, `n_jobs` at a time,
    each with its card or its share of the cores.
    """

    def __init__(self, n_jobs: int, timeout_s: float | None):
        self.n_jobs, self.timeout_s = n_jobs, timeout_s
        self.launcher: Any = None

    def setup(
        self,
        *,
        hydra_context: HydraContext,
        task_function: TaskFunction,  # noqa: ARG002
        config: DictConfig,
    ) -> None:
        """Called by Hydra before `launch`; the task itself is not needed: a job is a command."""
        from medexp.sweep.workers.launcher import JobLauncher

        self.launcher = JobLauncher(hydra_context, config, self.n_jobs, self.timeout_s)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Return a JobReturn for each job, in order, when all have ended.

        Several threads may call it at once.
        """
        job_returns: Sequence[JobReturn] = self.launcher.launch(job_overrides, initial_job_idx)
        return job_returns

    def interrupt(self) -> None:
        """Ask running jobs to finish their step, keep it and end."""
        self.launcher.pool.interrupt()

    def kill(self) -> None:
        """End running jobs now."""
        self.launcher.pool.kill()
