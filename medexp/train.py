"""python -m medexp.train: from a composed config to an adapter, and the answers before and after.

# the embedded model on the shipped cases, on a CPU
python -m medexp.train
# the default recipe on a 6 GB card
python -m medexp.train hardware=rtx4050_6gb
python -m medexp.train dataset=local dataset.path=my_cases.csv training.max_steps=100
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from medexp.cli.app import run_command
from medexp.cli.composition import CommandSpec
from medexp.config.command_options import TrainOptions
from medexp.config.invocation import Invocation
from medexp.config.schema import Planning, Resume, RunConfig
from medexp.errors import VramCeilingError

if TYPE_CHECKING:
    from medexp.tracking.finished_run import FinishedRun
    from medexp.training.context import TrainResult


def _run(config: RunConfig, invocation: "Invocation[TrainOptions, FinishedRun | None]") -> float:
    # Imported here, so that what the config alone can be refused for has been, without these.
    from medexp.sweep.workers.trial import open_trial
    from medexp.system.console import NOTE, Console
    from medexp.training.run import train

    console = Console()
    with open_trial(invocation.output_dir) as trial:
        # A sweep learns from a trial that ran out, and goes on with others.
        attempts = 0 if trial or not _may_replan(config) else config.hardware.replan
        result = repeat_with_safer_plans(
            lambda: train(config, invocation, console, trial),
            attempts,
            lambda sentence: console.info(sentence, NOTE),
        )
        if trial:
            trial.complete(result.metrics, result.run_id)
    return result.outcome.loss_after


def repeat_with_safer_plans(
    run: "Callable[[], TrainResult]", attempts: int, say: Callable[[str], None]
) -> "TrainResult":
    """Return what `run` does, called again where it runs out of GPU memory on its way: it goes on
    from its last checkpoint with the next-safer plan, at most so many `attempts` times.

    Raises: VramCeilingError after the last of them, or where nothing safer is left.
    """
    from medexp.models import memory_guard

    while True:
        try:
            return run()
        except VramCeilingError as error:
            if error.nothing_safer or not attempts:
                raise
            said = str(error).partition(". ")[0]
        # Outside the handler, because its traceback holds what was on the card.
        say(f"{said}. It goes on from the last checkpoint, with the next-safer plan")
        memory_guard.release_all()
        attempts -= 1


def _may_replan(config: RunConfig) -> bool:
    """Return whether the run finds its checkpoint again, and another plan may be taken for it."""
    return config.training.resume is Resume.auto and config.training.plan is not Planning.manual


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
