"""A finished run made again (`python -m medexp.train experiment=from_run run=ID`): its config put
back, its loss held beside the first one's."""

from collections.abc import Sequence
from dataclasses import dataclass

from omegaconf import DictConfig

from medexp.config.command_options import TrainOptions
from medexp.config.schema import RunConfig
from medexp.errors import ConfigError
from medexp.tracking import commits, finished_run
from medexp.tracking.finished_run import FinishedRun

LOSS = "result/loss_after"
# They set values of other groups, and those are the run's.
_WITHOUT_A_PLACE = ("debug", "sweep")


def recompose_for_rerun(
    cfg: DictConfig, options: TrainOptions, overrides: Sequence[str]
) -> tuple[DictConfig, FinishedRun | None]:
    """Return `cfg`, with experiment=from_run the config of the run that `options` name, save what
    `overrides` name; and that run.

    Raises: ConfigError for one without the other; RunError or ConfigError as
        `finished_run.recompose_from_options` does.
    """
    if not options.from_run:
        if options.run is not None:
            raise ConfigError(
                f"run={options.run} is only read with experiment=from_run, which makes that run"
                " again; add it, or leave run= out (lora.start_from=FOLDER goes on from an"
                " adapter)"
            )
        return cfg, None
    if options.run is None:
        raise ConfigError(
            "experiment=from_run makes a finished run again: give run=ID, an MLflow run id (make ui"
            " lists them), or last"
        )
    for override in overrides:
        if (group := override.lstrip("+").partition("=")[0]) in _WITHOUT_A_PLACE:
            raise ConfigError(
                f"{override} has no effect with experiment=from_run: leave {group}= out and name"
                " the values themselves"
            )
    made, run = finished_run.recompose_from_options(cfg, options, overrides)
    if run.started_from is not None and not any(
        override.lstrip("+").startswith("lora.start_from=") for override in overrides
    ):
        # The folder it was read from may be gone.
        made.lora.start_from = str(run.started_from)
    return made, run


@dataclass(frozen=True)
class OriginalRun:
    """A run that is made again: which, and what it had come to."""

    run: FinishedRun

    @property
    def tags(self) -> dict[str, object]:
        """What the new run says in MLflow of the first."""
        return {
            "medexp.restores": (
                self.run.kept.run_id if self.run.kept is not None else self.run.asked
            )
        }

    def commits(self, config: RunConfig) -> str | None:
        """Return which Hub commits `run` takes because the first one did; None where there are
        none."""
        kept = self.run.kept
        return commits.describe_commits(config, kept.tags) if kept is not None else None

    def sentence(self, loss: float, held_out: str, trained_on: str) -> str:
        """Return whether `loss`, on held-out cases of digest `held_out` after training on those of
        `trained_on`, is what the first run had come to, as a sentence."""
        kept = self.run.kept
        before = kept.metrics.get(LOSS) if kept is not None else None
        if kept is None or before is None:
            return f"run {self.run.name} has kept no held-out loss to compare with"
        if kept.held_out != held_out:
            return (
                f"the held-out cases are not those of run {kept.run_id}, so {loss:.6g} is not"
                f" comparable with its {before:.6g}"
            )
        if loss == before:
            return f"held-out loss {loss!r}: the same as run {kept.run_id} had, to the digit"
        other = f": the training data is another (digest {trained_on}, there {kept.trained_on})"
        why = other if kept.trained_on not in (None, trained_on) else ""
        return (
            f"held-out loss {loss!r} differs by {loss - before:+.3g} from {before!r} of run"
            f" {kept.run_id}{why}"
        )
