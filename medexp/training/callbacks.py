"""What is done after every optimizer step."""

import math
import time
from collections.abc import Callable, Sequence

from rich.progress import MofNCompleteColumn, TextColumn

from medexp.errors import TrainingDiverged
from medexp.evaluation.record import CaseLoss, mean_loss
from medexp.models import memory_guard
from medexp.system import machine
from medexp.system.console import NOTE, Console, make_progress_bar
from medexp.system.units import GIB, format_duration, gib
from medexp.training import trainer
from medexp.training.context import TrainContext


class StepRecorder:
    """Logs every step to MLflow, and the held-out loss every so many steps.

    The loss after the last step is measured once training is over.
    """

    def __init__(self, context: TrainContext):
        self._context = context
        self._spill = memory_guard.SpillGuard(context.meter, machine.read().system)

    def on_step_end(self, step: int, metrics: dict[str, float]) -> bool:
        """Log the step, and evaluate where it is time to; return whether going on is of no use.

        Raises: TrainingDiverged; TrialPruned and TrialPaused in a sweep.
        """
        context, steps = self._context, self._context.prepared.steps
        memory = self._read_memory()
        if context.meter.on_card:
            self._spill.check_step(metrics["speed/step_s"], self._planned_step_s(step))
        context.tracker.log_metrics(step, metrics | memory)
        if context.trial:
            context.trial.report_progress(step, steps)
        if step % context.config.evaluation.every_steps == 0 and step < steps:
            return self._evaluate(step)
        return False

    def _evaluate(self, step: int) -> bool:
        context = self._context
        loss = mean_finite_loss(context.measure_validation_losses(), step)
        context.tracker.log_metrics(step, {"eval/loss": loss})
        name = "validation" if context.prepared.validation.cases else "held-out"
        context.console.info(f"  step {step}/{context.prepared.steps}  {name} loss {loss:.4f}")
        context.best.add_loss(step, loss)
        if context.trial:
            context.trial.report(step, loss)
        if context.best.is_hopeless:
            context.console.info(
                f"stopped after step {step}: the {name} loss was lowest after step"
                f" {context.best.best_step} (training.early_stopping_patience)",
                NOTE,
            )
        return context.best.is_hopeless

    def _read_memory(self) -> dict[str, float]:
        """Return the metrics of GPU memory, none on a CPU."""
        meter = self._context.meter
        if not meter.on_card:
            return {}
        return {
            "vram/reserved_gib": gib(meter.reserved_bytes()),
            "vram/peak_gib": gib(meter.peak_bytes()),
            "vram/peak_allocated_gib": gib(meter.peak_allocated_bytes()),
            "vram/alloc_retries": float(meter.retries()),
        }

    def _planned_step_s(self, step: int) -> float | None:
        """Return how long `step` should take; None where the card's pace is not known."""
        config, plan = self._context.config, self._context.plan
        if plan is None or not plan.is_timed:
            return None
        rows = trainer.rows_of_step(config, self._context.prepared.rows, step)
        return trainer.predict_step_s(config, [len(row.input_ids) for row in rows])


def mean_finite_loss(losses: Sequence[CaseLoss], step: int) -> float:
    """Return the mean of held-out losses after `step`, in nats a token.

    Raises: TrainingDiverged if it is not finite.
    """
    loss = mean_loss(losses)
    if not math.isfinite(loss):
        raise TrainingDiverged(
            f"the held-out loss is {loss} after step {step}; lower training.learning_rate, or"
            " lengthen training.warmup_steps"
        )
    return loss


class TrainingProgress:
    """Shows a bar with step, loss, tokens/s, VRAM and ETA on a terminal, else a line every tenth of
    the way.
    """

    def __init__(
        self,
        console: Console,
        last_step: int,
        reserved_bytes: Callable[[], int],
        ceiling_bytes: int,
    ):
        self._console, self._last_step = console, last_step
        self._reserved_bytes, self._ceiling_bytes = reserved_bytes, ceiling_bytes
        self._every = max(1, last_step // 10)
        self._began = time.perf_counter()
        self._first_step: int | None = None
        self._progress = make_progress_bar(
            console.log, MofNCompleteColumn(), TextColumn("{task.fields[now]}", markup=False)
        )
        self._task = self._progress.add_task("training", total=last_step, now="")

    def __enter__(self) -> "TrainingProgress":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def on_step_end(self, step: int, metrics: dict[str, float]) -> None:
        """Show the step."""
        now = (
            f"loss {metrics['train/loss']:.3f}  {metrics['speed/tokens_per_s']:,.0f}"
            f" tokens/s{self._vram()}"
        )
        # The first step's time is compilation and warming up: the rest is estimated without it.
        if self._first_step is None:
            self._first_step, self._began = step, time.perf_counter()
        self._progress.update(self._task, completed=step, now=now)
        is_line_due = step % self._every == 0 or step in (1, self._last_step)
        if is_line_due and not self._console.log.is_terminal:
            self._console.info(f"  step {step}/{self._last_step}  {now}{self._eta(step)}")

    def _vram(self) -> str:
        if not self._ceiling_bytes:
            return ""
        return f"  VRAM {self._reserved_bytes() / GIB:.2f}/{self._ceiling_bytes / GIB:.2f} GiB"

    def _eta(self, step: int) -> str:
        done = step - (self._first_step or step)
        if done == 0 or step == self._last_step:
            return ""
        step_s = (time.perf_counter() - self._began) / done
        return f"  {format_duration(step_s * (self._last_step - step))} to go"
