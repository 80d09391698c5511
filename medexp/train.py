"""python -m medexp.train: from a composed config to an adapter, and the answers before and after.

# the embedded model on the shipped cases, on a CPU
python -m medexp.train
# the default recipe on a 6 GB card
python -m medexp.train hardware=rtx4050_6gb
python -m medexp.train dataset=local dataset.path=my_cases.csv training.max_steps=100
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from medexp.cli.app import run_command
from medexp.cli.composition import CommandSpec
from medexp.config.command_options import TrainOptions
from medexp.config.invocation import Invocation
from medexp.config.schema import RunConfig

if TYPE_CHECKING:
    from medexp.tracking.finished_run import FinishedRun


def _run(config: RunConfig, invocation: "Invocation[TrainOptions, FinishedRun | None]") -> float:
    # Imported here, so that what the config alone can be refused for has been, without these.
    from medexp.sweep.workers.trial import open_trial
    from medexp.system.console import Console
    from medexp.training.run import train

    with open_trial(invocation.output_dir) as trial:
        result = train(config, invocation, Console(), trial)
        if trial:
            trial.complete(result.metrics, result.run_id)
    return result.outcome.loss_after


def _recompose(
    cfg: DictConfig, options: TrainOptions, overrides: Sequence[str]
) -> "tuple[DictConfig, FinishedRun | None]":
    """Return the config of the run that experiment=from_run repeats, and that run; else `cfg`."""
    if not options.from_run and options.run is None:
        return cfg, None
    from medexp.tracking.rerun import recompose_for_rerun

    return recompose_for_rerun(cfg, options, overrides)


COMMAND: "CommandSpec[TrainOptions, FinishedRun | None]" = CommandSpec(
    "train", TrainOptions, recompose=_recompose
)


def main() -> None:
    """Run the command that the command line describes; ends the process."""
    run_command(_run, COMMAND)


if __name__ == "__main__":
    main()
