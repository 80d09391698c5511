"""TODO: say what this module holds."""

import math
from collections.abc import Sequence

from medexp.errors import TrainingDiverged
from medexp.evaluation.record import CaseLoss, mean_loss
from medexp.models import memory_guard as guard
from medexp.system import machine
from medexp.system.units import gib
from medexp.training import trainer
from medexp.training.context import TrainContext


def mean_finite_loss(losses: Sequence[CaseLoss], step: int) -> float:
    """The mean of held-out losses.

    Raises: TrainingDiverged if it is no number.
    """
    loss = mean_loss(losses)
    if not math.isfinite(loss):
        raise TrainingDiverged(
            f"the held-out loss is {loss} after step {step}; lower training.learning_rate, or"
            " lengthen training.warmup_steps"
        )
    return loss


class StepRecorder:
    """A watcher: every step to MLflow, and the held-out loss every so many steps (the last one is
    measured afterwards).
    """

    def __init__(self, job: TrainContext):
        self._job = job
        self._spill = guard.SpillGuard(job.meter, machine.read().system)

    def on_step_end(self, step: int, metrics: dict[str, float]) -> None:
        """Log the step."""
        job, memory = self._job, {}
        if job.meter.on_card:
            memory = {
                "vram/reserved_gib": gib(job.meter.reserved_bytes()),
                "vram/peak_gib": gib(job.meter.peak_bytes()),
                "vram/peak_allocated_gib": gib(job.meter.peak_allocated_bytes()),
                "vram/alloc_retries": float(job.meter.retries()),
            }
            self._spill.stepped(metrics["speed/step_s"], self._planned_s(step))
        job.tracker.metrics(step, metrics | memory)
        if job.trial:
            job.trial.stepped(step, job.ready.steps)
        if step % job.run.evaluation.every_steps == 0 and step < job.ready.steps:
            loss = mean_finite_loss(job.losses(), step)
            job.tracker.metrics(step, {"eval/loss": loss})
            job.show.say(f"  step {step}/{job.ready.steps}  held-out loss {loss:.4f}")
            if job.trial:
                job.trial.report(step, loss)

    def _planned_s(self, step: int) -> float | None:
        """What `step` should take; None where the card's pace is not known."""
        run, plan = self._job.run, self._job.plan
        if plan is None or not plan.is_timed:
            return None
        return trainer.predict_step_s(
            run,
            [len(row.input_ids) for row in trainer.rows_of_step(run, self._job.ready.rows, step)],
        )
