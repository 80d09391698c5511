"""From Hydra's jobs to commands: each is `python -m medexp.<door>` with its overrides, in a process
of its own.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, open_dict

from medexp.errors import MedexpError
from medexp.sweep.search.search_space import quote_value
from medexp.sweep.study.trial_files import Ending, TrialOutcome
from medexp.sweep.workers.worker_pool import (
    WorkerPool,
    make_module_command,
    make_worker_environments,
)
from medexp.system import machine

# Hydra's own settings that make a command a sweep: a job is a plain run.
_SWEEP_KEYS = (
    "hydra.sweep",
    "hydra/sweeper",
    "hydra/launcher",
    "hydra.launcher",
    "hydra.mode",
    "hydra.run",
    "hydra.job.num",
    "hydra.job.id",
)


class JobFailed(MedexpError):
    """A job ended without a value; the message says how."""


class JobLauncher:
    """The jobs of one sweep."""

    def __init__(
        self, hydra_context: Any, config: DictConfig, n_jobs: int, timeout_s: float | None
    ):
        self._loader, self._config, self._timeout_s = hydra_context.config_loader, config, timeout_s
        on_card = (
            config.hardware.device != "cpu"
            and str(getattr(config.hardware.device, "name", "")) != "cpu"
        )
        self.processes = WorkerPool(make_worker_environments(n_jobs, machine.read(), on_card))
        self._n_jobs = n_jobs

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> list[JobReturn]:
        """Run all jobs; one JobReturn each, in order."""
        numbered = list(enumerate(job_overrides, start=initial_job_idx))
        if len(numbered) == 1:
            return [self._launch_one(*numbered[0])]
        with ThreadPoolExecutor(self._n_jobs) as pool:
            return list(pool.map(lambda job: self._launch_one(*job), numbered))

    def _launch_one(self, number: int, overrides: Sequence[str]) -> JobReturn:
        cfg = self._loader.load_sweep_config(self._config, list(overrides))
        with open_dict(cfg):
            cfg.hydra.job.id, cfg.hydra.job.num = str(number), number
        folder = Path(cfg.hydra.sweep.dir).absolute() / str(cfg.hydra.sweep.subdir)
        outcome = self.processes.run(self._command(cfg, folder), folder, self._timeout_s)
        return _make_job_return(overrides, cfg, folder, outcome)

    def _command(self, cfg: DictConfig, folder: Path) -> list[str]:
        """What a person would type for this run alone."""
        kept = [
            override
            for override in cfg.hydra.overrides.hydra
            if not override.lstrip("+~").startswith(_SWEEP_KEYS)
        ]
        added = [
            source.path
            for source in cfg.hydra.runtime.config_sources
            if source.provider == "command-line"
        ]
        folders = [word for path in added for word in ("--config-dir", path)]
        door = make_module_command(f"medexp.{cfg.hydra.job.config_name}")
        return [
            *door,
            *folders,
            *cfg.hydra.overrides.task,
            *kept,
            f"hydra.run.dir={quote_value(str(folder))}",
        ]


def _make_job_return(
    overrides: Sequence[str], cfg: DictConfig, folder: Path, outcome: TrialOutcome
) -> JobReturn:
    done = outcome.ending is Ending.done
    made = JobReturn(
        overrides=list(overrides), cfg=cfg, hydra_cfg=cfg, working_dir=str(folder), task_name=cfg.hydra.job.name,
        status=JobStatus.COMPLETED if done else JobStatus.FAILED,
    )  # fmt: skip
    made.return_value = (
        outcome.metrics.get("result/loss_after")
        if done
        else JobFailed(f"{outcome.ending.value}: {outcome.why}")
    )
    return made
