"""The Python API: compose an experiment, plan it, train it; load a finished run, ask it, measure it
again, export it; set runs side by side.

    import medexp

    experiment = medexp.compose("hardware=rtx4050_6gb", "lora.r=8")
    print(experiment.plan().budget.peak_bytes)
    result = experiment.train()
    run = medexp.load_run(result.run_id)
    print(run.ask("A 54-year-old man has crushing chest pain. What now?").answer)

Everything takes the overrides of the command of its name, and raises what `medexp.errors` lists
where a command would print one sentence and end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from medexp.cli.composition import CommandSpec, compose_call, make_output_dir
from medexp.config.schema import RunConfig
from medexp.system.console import Console

if TYPE_CHECKING:
    from medexp.chat.reply import Reply
    from medexp.chat.responder import Responder
    from medexp.comparison.comparison import RunComparison
    from medexp.config.invocation import Invocation
    from medexp.evaluation.scorecard import Scorecard
    from medexp.planning.step_time import Plan
    from medexp.tracking.finished_run import FinishedRun
    from medexp.tracking.registry import ModelVersion
    from medexp.training.context import TrainResult

__all__ = ["Experiment", "LoadedRun", "compare_runs", "compose", "load_run"]


OptionsT = TypeVar("OptionsT")


@dataclass(frozen=True)
class Experiment:
    """A training run that was composed and checked, and has not begun."""

    config: RunConfig
    overrides: tuple[str, ...]

    def plan(self) -> Plan:
        """Return the fastest plan that fits the ceiling: memory in bytes, time in seconds.

        Imports no torch. Raises: VramPlanError with what would fit, where nothing does.
        """
        from medexp.planning import planner

        return planner.choose_plan(self.config)[0]

    def train(self) -> TrainResult:
        """Train the adapter, and measure the held-out answers before and after.

        A run that was interrupted goes on where it stopped, as with the command.
        Raises: any error of `medexp.errors`; what was done until then is kept.
        """
        from medexp.train import COMMAND
        from medexp.training.run import train

        config, invocation = compose_call(COMMAND, self.overrides)
        return train(config, replace(invocation, output_dir=make_output_dir()), Console())


def compose(*overrides: str) -> Experiment:
    """Return the experiment that `overrides` describe, as `python -m medexp.train` reads them.

    Paths are relative to the current folder. Torch is not imported, and the card that the config
    names may be missing until the experiment is trained.
    Raises: ConfigError with every problem found.
    """
    from medexp.train import COMMAND

    config, invocation = compose_call(replace(COMMAND, needs_card=False), overrides)
    return Experiment(config, invocation.overrides)


class LoadedRun:
    """A finished run: an MLflow run, the folder of an adapter, or the last one."""

    def __init__(self, name: str, tracking_root: str | None = None):
        self.name, self.tracking_root = name, tracking_root
        self._responder: tuple[tuple[str, ...], Responder] | None = None

    def __repr__(self) -> str:
        """Return how the run was named."""
        return f"LoadedRun({self.name!r})"

    def ask(self, question: str, *overrides: str, base: bool = False) -> Reply:
        """Return the reply of the tuned model, or of its base, to `question`.

        The first question loads the model, which stays until this object goes, or until other
        overrides are given (`"ask.temperature=0.6"`).
        Raises: ConfigError where the question is too long; VramCeilingError.
        """
        if self._responder is None or self._responder[0] != overrides:
            # Let the old model go before the new one is loaded: two may not fit the card.
            self._responder = None
            self._responder = overrides, self._open_responder(overrides)
        return self._responder[1].reply(question, lambda _: False, base=base)

    def evaluate(self, *overrides: str) -> Scorecard:
        """Return the scorecard of the run measured again, or measured more, as the command does.

        `evaluate.rescore=true` scores the stored answers again and loads no model.
        """
        from medexp.evaluate import COMMAND, evaluate

        config, invocation = self._compose(COMMAND, overrides)
        invocation = replace(invocation, output_dir=make_output_dir())
        return evaluate(config, invocation.options, invocation.run, invocation, Console())

    def export(self, to: str, *overrides: str) -> Path | ModelVersion:
        """Export the run as `to` (adapter, merged, gguf, ollama, vllm or registry); return the
        folder, or the registered version.
        """
        from medexp.export import COMMAND, export

        config, invocation = self._compose(COMMAND, (f"to={to}", *overrides))
        invocation = replace(invocation, output_dir=make_output_dir())
        return export(config, invocation.options, invocation.run, invocation, Console())

    def _open_responder(self, overrides: Sequence[str]) -> Responder:
        from medexp.ask import COMMAND, open_responder
        from medexp.models.session import prepare_finished_run
        from medexp.tracking.finished_run import recompose_from_options

        console = Console()
        # The command also looks whether there is something to ask; here there is.
        command = replace(COMMAND, recompose=recompose_from_options)
        config, invocation = self._compose(command, overrides)
        config, weights = prepare_finished_run(config, invocation.run, console)
        return open_responder(config, invocation.options, invocation.run, weights, (), console)

    def _compose(
        self, command: CommandSpec[OptionsT, FinishedRun], overrides: Sequence[str]
    ) -> tuple[RunConfig, Invocation[OptionsT, FinishedRun]]:
        root = [f"tracking.root='{self.tracking_root}'"] if self.tracking_root else []
        return compose_call(command, [f"run='{self.name}'", *root, *overrides])


def load_run(run: str = "last", tracking_root: str | None = None) -> LoadedRun:
    """Return the finished run that `run` names: an MLflow id, the folder of an adapter,
    `models:/NAME@ALIAS`, or last.

    `tracking_root` is the folder of MLflow's store, mlruns here where it is None.
    Raises: RunError where there is no such run.
    """
    from medexp.config import resolve
    from medexp.tracking import finished_run

    finished_run.find_run(run, resolve.find_tracking_root(tracking_root, Path.cwd()), Path.cwd())
    return LoadedRun(run, tracking_root)


def compare_runs(runs: Sequence[str], *overrides: str) -> RunComparison:
    """Return the comparison of finished runs, each against its own base and against the first.

    It loads no model. `comparison.as_dict()` gives plain values.
    Raises: ConfigError where there are too few or too many; RunError for one that is not there.
    """
    from medexp.compare import COMMAND, list_run_names
    from medexp.comparison import loading

    names = ",".join(f"'{name}'" for name in runs)
    config, invocation = compose_call(COMMAND, [f"run=[{names}]", *overrides])
    return loading.load_runs(list_run_names(invocation.options), config.tracking, Path.cwd())
