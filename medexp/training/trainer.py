"""One optimisation with TRL's SFT trainer, on rows that are already tokens, in an order that is
already decided.

Adds to it: checkpoints that continue with the very next case, a stop that finishes the step and
keeps it, and an end when the loss is no longer a number. Refuses to know what its watchers do with
what it tells them.
"""

import math
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from medexp.config.schema import BatchBy, Checkpointing, Device, Engine, Optimizer, RunConfig
from medexp.data.batching import batch_for_least_time, batch_in_order
from medexp.data.encoding import IGNORED, EncodedCase
from medexp.errors import MachineError, MedexpError, RunInterrupted, TrainingDiverged
from medexp.models.adapter_model import AdapterModel
from medexp.models.backend import capture_library_output
from medexp.planning.step_memory import count_attended_tokens
from medexp.planning.step_time import estimate_short_micro_batch
from medexp.system import private_names, stopping
from medexp.system.files import flush
from medexp.system.stopping import Asked

MICRO_BATCHES, TOKENS = "micro_batches", "tokens"


class StepCallback(Protocol):
    """Told after every optimizer step; `metrics` holds train/loss, train/grad_norm,
    train/learning_rate, speed/tokens_per_s and speed/step_s."""

    def on_step_end(self, step: int, metrics: dict[str, float]) -> None: ...


@dataclass(frozen=True)
class FitResult:
    """What training came to: the last step, its loss; tokens without padding and seconds in steps
    of this process.
    """

    last_step: int
    last_loss: float
    tokens: int
    steps_s: float


def fit(
    tuned: AdapterModel,
    rows: Sequence[EncodedCase],
    run: RunConfig,
    checkpoints: Path | None,
    resume_from: Path | None,
    watchers: Sequence[StepCallback],
) -> FitResult:
    """Train on `rows`, taken in order, `micro_batch x accumulation` a step, from `resume_from` (a
    checkpoint) where there is one; nothing is written without `checkpoints`. A step's rows go
    through the model in the micro-batches of `micro_batches`.

    Raises: RunInterrupted after Ctrl-C or SIGTERM, with a checkpoint of the last whole step;
    TrainingDiverged when the loss is not finite; MedexpError when a step was not trained on its own
    rows.
    """
    steps = len(rows) // run.training.cases_a_step
    bridge = _bridge(
        tuned,
        watchers,
        lambda step: sum(len(row.input_ids) for row in rows_of_step(run, rows, step)),
    )
    with capture_library_output():
        trainer = _trainer_class(tuned, bridge.trained_on)(
            model=tuned.network,
            args=_arguments(run, tuned, steps, checkpoints),
            train_dataset=_dataset(tuned, rows),
            data_collator=_step_collator(run, tuned.tokenizer.pad_token_id),
            processing_class=tuned.tokenizer,
            callbacks=[bridge],
        )
    for printer in (
        tuned.stack.transformers.PrinterCallback,
        tuned.stack.transformers.ProgressCallback,
    ):
        trainer.remove_callback(printer)
    tuned.stack.transformers.set_seed(run.training.seed)
    what = "the step under way is finished and kept" if checkpoints else "a step is being tried"
    with capture_library_output(), stopping.noted(what) as asked:
        bridge.asked = asked
        trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    if asked.by is not None:  # also in the last step: what comes after it may take long
        done = f" after step {trainer.state.global_step} of {steps}"
        kept = f"{done}; the checkpoint is kept, the same command continues it"
        again = kept if checkpoints else "; the same command begins again"
        raise RunInterrupted(f"stopped by {signal.Signals(asked.by).name}{again}", asked.by)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return FitResult(trainer.state.global_step, losses[-1], bridge.tokens, bridge.steps_s)


def rows_of_step(run: RunConfig, rows: Sequence[EncodedCase], step: int) -> Sequence[EncodedCase]:
    """Those of `rows` that optimizer step `step` is taken on; steps count from 1."""
    size = run.training.cases_a_step
    return rows[(step - 1) * size : step * size]


def split_into_micro_batches(run: RunConfig, lengths: Sequence[int]) -> list[list[int]]:
    """Which of a step's cases, `lengths` tokens each, go through the model together, as
    `training.batch_by` says.
    """
    training = run.training
    if training.batch_by is BatchBy.cases:
        return batch_in_order(len(lengths), training.micro_batch)

    planned = count_attended_tokens(training.micro_batch, training.max_seq_tokens)
    return batch_for_least_time(
        lengths,
        lambda cases, longest: count_attended_tokens(cases, longest) <= planned,
        estimate_short_micro_batch(run).seconds,
    )


def predict_step_s(run: RunConfig, lengths: Sequence[int]) -> float:
    """What a step with cases of these lengths should take on the card, by the planner's cost model;
    the plan's own figure is for cases as long as the limit."""
    one = estimate_short_micro_batch(run)
    return sum(
        one.seconds(len(cases) * max(lengths[case] for case in cases))
        for cases in split_into_micro_batches(run, lengths)
    )


def _trainer_class(tuned: AdapterModel, trained_on: Callable[[int], None]) -> Any:
    """TRL's trainer, for batches that hold a whole step: it goes through their micro-batches one
    after another, and tells `trained_on` how many tokens they had."""

    class Stepping(tuned.stack.trl.SFTTrainer):  # type: ignore[misc, name-defined]
        def training_step(
            self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
        ) -> Any:
            loss, together = 0.0, inputs[MICRO_BATCHES]
            # divides means, where a loss is not a sum over tokens
            self.current_gradient_accumulation_steps = len(together)
            for micro_batch in together:
                loss = loss + super().training_step(model, micro_batch, num_items_in_batch)
            trained_on(inputs[TOKENS])
            return loss

        # A checkpoint lasts as long as the run, and TRL's card of it cannot be made where the
        # locale is not UTF-8: its template is read in the locale's encoding
        # (huggingface_hub.RepoCard.from_template).
        def create_model_card(self, *_: Any, **__: Any) -> None:
            return None

    return Stepping


def _arguments(run: RunConfig, tuned: AdapterModel, steps: int, checkpoints: Path | None) -> Any:
    training, on_cpu = run.training, run.hardware.device is Device.cpu
    options: dict[str, Any] = {
        "output_dir": str(checkpoints or Path(tempfile.gettempdir()) / "medexp-writes-nothing"),
        # cut into micro-batches by the trainer class
        "per_device_train_batch_size": training.cases_a_step,
        "gradient_accumulation_steps": 1,  # Unsloth's own default is 2
        "max_steps": steps,
        "learning_rate": training.learning_rate,
        "warmup_steps": training.warmup_steps,
        "lr_scheduler_type": training.schedule.value,
        "optim": _optimizer(run),
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "seed": training.seed,
        "use_cpu": on_cpu,
        "bf16": run.hardware.dtype.value == "bfloat16",
        "fp16": run.hardware.dtype.value == "float16",
        "max_length": training.max_seq_tokens,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "train_sampling_strategy": "sequential",
        "save_strategy": "steps" if checkpoints else "no",
        "save_steps": training.save_steps,
        "save_total_limit": 2,
        "logging_steps": 1,
        # Either would ask the card for a number between backward pass and optimizer, whose kernels
        # then start late.
        "logging_nan_inf_filter": False,
        "include_num_input_tokens_seen": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": not on_cpu,
    }
    if tuned.stack.engine is Engine.transformers:  # Unsloth has set up its own
        options["gradient_checkpointing"] = training.gradient_checkpointing is not Checkpointing.off
        options["gradient_checkpointing_kwargs"] = {"use_reentrant": False}
    else:
        options["loss_type"] = "nll"  # its own fused loss; TRL's chunked one would take its place
    arguments = tuned.stack.trl.SFTConfig(**options)
    # A plan is for one card; with two in sight the Trainer would double the batch.
    setattr(arguments, private_names.CARDS_USED.last, min(1, arguments.n_gpu))
    if arguments.n_gpu > 1:
        raise MachineError(
            f"{private_names.CARDS_USED.absence()}; let one card be seen: CUDA_VISIBLE_DEVICES=0"
        )
    return arguments


def _optimizer(run: RunConfig) -> str:
    paged = run.hardware.page_optimizer is True
    return (Optimizer.paged_adamw_8bit if paged else run.training.optimizer).value


def _dataset(tuned: AdapterModel, rows: Sequence[EncodedCase]) -> Any:
    return tuned.stack.datasets.Dataset.from_dict(
        {"input_ids": [row.input_ids for row in rows], "labels": [row.labels for row in rows]}
    )


def _step_collator(
    run: RunConfig, pad_id: int
) -> Callable[[list[dict[str, list[int]]]], dict[str, Any]]:
    """A collator: a step's rows padded on the right and masked by their length (the padding token
    may be EOS), as the micro-batches they are trained in; their tokens without padding; and all of
    it whole, by which the Trainer counts what a loss is divided by. It is cut and counted before it
    is on a card: to look cases up there, or to count, waits for all that the card was given to do.
    """
    import torch

    def collate(rows: list[dict[str, list[int]]]) -> dict[str, Any]:
        lengths = [len(row["input_ids"]) for row in rows]
        longest = max(lengths)

        def padded(lists: list[list[int]], value: int) -> Any:
            return torch.tensor([each + [value] * (longest - len(each)) for each in lists])

        whole = {
            "input_ids": padded([row["input_ids"] for row in rows], pad_id),
            "labels": padded([row["labels"] for row in rows], IGNORED),
            "attention_mask": padded([[1] * length for length in lengths], 0),
        }

        def together(cases: list[int]) -> dict[str, Any]:
            width = max(lengths[case] for case in cases)
            return {name: each[cases, :width] for name, each in whole.items()}

        return whole | {
            MICRO_BATCHES: [*map(together, split_into_micro_batches(run, lengths))],
            TOKENS: sum(lengths),
        }

    return collate


def _bridge(
    tuned: AdapterModel, watchers: Sequence[StepCallback], tokens_of: Callable[[int], int]
) -> Any:
    """A Trainer callback that times steps, tells `watchers`, and stops after a step when it was
    asked to. It holds the tokens of a step against `tokens_of`: Unsloth patches the trainer and its
    defaults, and has once taken two steps' rows for one."""
    synchronize = _synchronizer(tuned)

    class Bridge(tuned.stack.transformers.TrainerCallback):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.asked = Asked()
            self.tokens = self.step_tokens = 0
            self.steps_s = self.step_s = self.began = 0.0

        def trained_on(self, tokens: int) -> None:
            self.step_tokens += tokens

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            synchronize()
            self.began, self.step_tokens = time.perf_counter(), 0

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            synchronize()
            self.step_s = time.perf_counter() - self.began
            self.steps_s += self.step_s

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            for place in [
                *(each for each in checkpoint.rglob("*") if each.is_file()),
                checkpoint,
                checkpoint.parent,
            ]:
                flush(place)  # a power cut leaves the last two whole

        def on_log(
            self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any
        ) -> None:
            if "loss" not in logs:  # the summary at the end of training
                return
            if not math.isfinite(logs["loss"]):
                raise TrainingDiverged(
                    f"the training loss is {logs['loss']} at step {state.global_step}; lower"
                    " training.learning_rate, lengthen training.warmup_steps, or look at the cases"
                    " of this step"
                )
            self.tokens += self.step_tokens
            if self.step_tokens != (given := tokens_of(state.global_step)):
                raise MedexpError(
                    f"step {state.global_step} was trained on {self.step_tokens:,} tokens and its"
                    f" cases have {given:,}: this version of the training stack batches differently"
                    " from what medexp expects; install the versions of pyproject.toml, and"
                    " report it"
                )
            metrics = {
                "train/loss": logs["loss"],
                "train/grad_norm": float(logs.get("grad_norm", math.nan)),
                "train/learning_rate": logs["learning_rate"],
                "speed/tokens_per_s": self.step_tokens / self.step_s,
                "speed/step_s": self.step_s,
            }
            for watcher in watchers:
                watcher.on_step_end(state.global_step, metrics)
            # What a watcher measured meanwhile belongs to this step: no other is begun.
            if self.asked.by is not None:
                control.should_save = args.save_strategy != "no"
                control.should_training_stop = True

    return Bridge()


def _synchronizer(tuned: AdapterModel) -> Callable[[], None]:
    import torch

    return torch.cuda.synchronize if tuned.device.type == "cuda" else lambda: None
