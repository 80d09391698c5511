"""From Hydra's jobs to commands: a job is `python -m medexp.COMMAND` with its overrides, in a
process of its own.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf, open_dict

from medexp.errors import MedexpError
from medexp.sweep.search.search_space import quote_value
from medexp.sweep.study.trial_files import Ending, TrialOutcome
from medexp.sweep.workers.warm_process import can_fork
from medexp.sweep.workers.worker_pool import (
    WorkerPool,
    make_module_command,
    make_worker_environments,
)
from medexp.system import machine

# Hydra's own keys that make a command a sweep. A job is a plain run and has none of them.
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
    """Runs the jobs of one sweep, `n_jobs` at a time and none for longer than `timeout_s`."""

    def __init__(
        self, hydra_context: Any, config: DictConfig, n_jobs: int, timeout_s: float | None
    ):
        self._config_loader = hydra_context.config_loader
        self._config = config
        self._n_jobs = n_jobs
        self._timeout_s = timeout_s
        device = config.hardware.device
        # An enum member once the schema has been applied, and text before.
        needs_card = getattr(device, "name", str(device)) != "cpu"
        # A preset of before there was the key has none.
        cards = OmegaConf.select(config, "hardware.cards") or 1
        self.pool = WorkerPool(
            make_worker_environments(n_jobs, machine.read(), needs_card, cards),
            is_warm=not needs_card and can_fork(),
        )

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> list[JobReturn]:
        """Run all jobs; returns a JobReturn for each, in order."""
        jobs = list(enumerate(job_overrides, start=initial_job_idx))
        if len(jobs) == 1:
            return [self._launch_job(*jobs[0])]
        with ThreadPoolExecutor(self._n_jobs) as executor:
            return list(executor.map(lambda job: self._launch_job(*job), jobs))

    def _launch_job(self, number: int, overrides: Sequence[str]) -> JobReturn:
        cfg = self._config_loader.load_sweep_config(self._config, list(overrides))
        with open_dict(cfg):
            cfg.hydra.job.id = str(number)
            cfg.hydra.job.num = number
        folder = Path(cfg.hydra.sweep.dir).absolute() / str(cfg.hydra.sweep.subdir)
        outcome = self.pool.run(self._make_command(cfg, folder), folder, self._timeout_s)
        return _make_job_return(overrides, cfg, folder, outcome)

    def _make_command(self, cfg: DictConfig, folder: Path) -> list[str]:
        """Return the command that a person would type for this run alone."""
        hydra_overrides = [
            override
            for override in cfg.hydra.overrides.hydra
            if not override.lstrip("+~").startswith(_SWEEP_KEYS)
        ]
        config_dirs = [
            source.path
            for source in cfg.hydra.runtime.config_sources
            if source.provider == "command-line"
        ]
        return [
            *make_module_command(f"medexp.{cfg.hydra.job.config_name}"),
            *(word for config_dir in config_dirs for word in ("--config-dir", config_dir)),
            *cfg.hydra.overrides.task,
            *hydra_overrides,
            f"hydra.run.dir={quote_value(str(folder))}",
        ]


def _make_job_return(
    overrides: Sequence[str], cfg: DictConfig, folder: Path, outcome: TrialOutcome
) -> JobReturn:
    is_done = outcome.ending is Ending.done
    job_return = JobReturn(
        overrides=list(overrides),
        cfg=cfg,
        hydra_cfg=cfg,
        working_dir=str(folder),
        task_name=cfg.hydra.job.name,
        status=JobStatus.COMPLETED if is_done else JobStatus.FAILED,
    )
    job_return.return_value = (
        outcome.metrics.get("result/loss_after")
        if is_done
        else JobFailed(f"{outcome.ending.value}: {outcome.why}")
    )
    return job_return
