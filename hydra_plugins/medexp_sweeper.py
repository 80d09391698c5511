"""Hydra's plugin for a sweep; medexp.sweep.sweeper does the work.

Hydra imports it in every application, so it imports nothing of medexp at its start.
"""

from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class MedexpSweeper(Sweeper):
    """Finds the best run under the VRAM ceiling with Optuna. Its options are in
    conf/hydra/sweeper/medexp.yaml.
    """

    def __init__(self, **options: Any):
        self.options = options
        self.hydra_context: HydraContext | None = None
        self.config: DictConfig | None = None
        self.task_function: TaskFunction | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Called by Hydra before `sweep`; the launcher is made there, once the study has its name
        and folder.
        """
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> Any:
        """Run the sweep over the overrides in `arguments`."""
        from medexp.sweep.sweeper import sweep

        assert self.config is not None
        assert self.hydra_context is not None
        assert self.task_function is not None
        return sweep(self.options, arguments, self.config, self.hydra_context, self.task_function)
