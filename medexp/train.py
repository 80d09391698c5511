"""python -m medexp.train: from a composed config to an adapter, and the answers before and after.

# the embedded model on the shipped cases, on a CPU
python -m medexp.train
# the seed's recipe on a 6 GB card
python -m medexp.train hardware=rtx4050_6gb
python -m medexp.train dataset=local dataset.path=my_cases.csv training.max_steps=100
"""

from collections.abc import Sequence

from omegaconf import DictConfig

from medexp.cli.app import run_command
from medexp.config.command_options import TrainOptions
from medexp.config.invocation import Invocation
from medexp.config.schema import RunConfig


def _door(run: RunConfig, invocation: Invocation) -> float:
    from medexp.sweep.workers.trial import open_trial
    from medexp.system.console import Console

    # what the config alone can be refused for has been, without these
    from medexp.tracking.finished_run import FinishedRun
    from medexp.tracking.rerun import Restored
    from medexp.training.run import train

    restored = Restored(invocation.subject) if isinstance(invocation.subject, FinishedRun) else None
    with open_trial(invocation.output_dir) as trial:
        result = train(run, invocation, Console(), trial, restored)
        if trial:
            trial.finished(result.metrics, result.run_id)
    return result.outcome.loss_after


def _recomposed(
    cfg: DictConfig, options: object, overrides: Sequence[str]
) -> tuple[DictConfig, object]:
    assert isinstance(options, TrainOptions)
    if not options.from_run and options.run is None:
        return cfg, None
    from medexp.tracking.rerun import as_it_was_made

    return as_it_was_made(cfg, options, overrides)


if __name__ == "__main__":
    run_command(_door, "train", recompose=_recomposed)
