"""One optimisation with TRL's SFT trainer, on rows that are already tokens, in an order that is
already decided.

Adds to it: checkpoints that continue with the very next case, a stop that finishes the step and
keeps it, and an end when the loss is no longer finite.
"""

import math
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from medexp.config.schema import (
    BatchBy,
    Checkpointing,
    Device,
    Engine,
    Optimizer,
    RunConfig,
    Schedule,
    Training,
)
from medexp.data.batching import batch_for_least_time, batch_in_order
from medexp.data.encoding import IGNORED, EncodedCase
from medexp.errors import (
    MachineError,
    MedexpError,
    RunInterrupted,
    TrainingDiverged,
    TrialPaused,
)
from medexp.models.adapter_model import AdapterModel, Decision
from medexp.models.backend import capture_library_output
from medexp.models.tokenizer import unbind_run_prompt
from medexp.planning.step_memory import count_attended_tokens
from medexp.planning.step_time import estimate_short_micro_batch
from medexp.system import private_names, stopping
from medexp.system.files import flush
from medexp.system.stopping import StopRequest
from medexp.training.resume import step_of

Item = TypeVar("Item")
# What a batch holds beside the columns that a model takes.
MICRO_BATCHES = "micro_batches"
TOKENS = "tokens"


class StepCallback(Protocol):
    """Is called after every optimizer step."""

    def on_step_end(self, step: int, metrics: dict[str, float]) -> bool | None:
        """Do what is to be done after `step`; `metrics` holds train/loss, train/grad_norm,
        train/learning_rate, speed/tokens_per_s and speed/step_s. True ends training here.

        Raises: TrialPaused to end it here with a checkpoint of this step.
        """


@dataclass(frozen=True)
class FitResult:
    """The last step of a training and its loss; tokens without padding and seconds in steps of
    this process.
    """

    last_step: int
    last_loss: float
    tokens: int
    steps_s: float


def fit(
    model: AdapterModel,
    rows: Sequence[EncodedCase],
    config: RunConfig,
    checkpoints: Path | None,
    resume_from: Path | None,
    callbacks: Sequence[StepCallback],
) -> FitResult:
    """Train on `rows`, taken in order, `micro_batch x accumulation` a step, from `resume_from` (a
    checkpoint) where there is one.

    A step's rows go through the model as `split_into_micro_batches` says, on several cards each
    through its part of them. Nothing is written without `checkpoints`.

    Raises: RunInterrupted after Ctrl-C or SIGTERM, TrialPaused where a callback raises it, both
        with a checkpoint of the last whole step; TrainingDiverged when the loss is not finite;
        MedexpError when a step was not trained on its own rows; RunInterrupted or MedexpError when
        another card's process has ended.
    """
    # The other cards take their part of every step, and call nobody back.
    beside = (list(rows), unbind_run_prompt(config), checkpoints, resume_from)
    with model.on_other_cards(_fit, *beside):
        return _fit(model, rows, config, checkpoints, resume_from, callbacks)


def _fit(
    model: AdapterModel,
    rows: Sequence[EncodedCase],
    config: RunConfig,
    checkpoints: Path | None,
    resume_from: Path | None,
    callbacks: Sequence[StepCallback] = (),
) -> FitResult:
    def count_tokens(step: int) -> list[int]:
        parts = split_over_cards(rows_of_step(config, rows, step), model.cards)
        return [sum(len(row.input_ids) for row in part) for part in parts]

    steps = len(rows) // config.training.cases_a_step
    bridge = _make_bridge(model, callbacks, count_tokens)
    with capture_library_output(), _keeping_precision(model):
        trainer = _make_trainer_class(model, config, bridge.add_tokens)(
            model=model.network,
            args=_arguments(config, model, steps, checkpoints),
            train_dataset=_make_dataset(model, rows),
            data_collator=_make_collator(config, model.tokenizer.pad_token_id),
            processing_class=model.tokenizer,
            callbacks=[bridge],
        )
    transformers = model.stack.transformers
    for printer in (transformers.PrinterCallback, transformers.ProgressCallback):
        trainer.remove_callback(printer)
    if model.cards > 1:
        # TRL gathers figures that nobody reads here, in every micro-batch: cards with more of them
        # than others would wait for ever.
        trainer.accelerator.gather_for_metrics = lambda figure, **_: figure
    transformers.set_seed(_choose_seed(config, model, resume_from))
    what = "the step under way is finished and kept" if checkpoints else "a step is being tried"
    # The first card hears signals for all.
    hearing = nullcontext(StopRequest()) if model.rank else stopping.catch_first_signal(what)
    with capture_library_output(), hearing as asked:
        bridge.asked = asked
        trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    if bridge.pause is not None:
        raise bridge.pause
    # A stop in the last step counts, too: what comes after training may take long.
    if asked.by is not None:
        what_next = "; the same command begins again"
        if checkpoints:
            what_next = (
                f" after step {trainer.state.global_step} of {steps}; the checkpoint is kept, the"
                " same command continues it"
            )
        raise RunInterrupted(f"stopped by {signal.Signals(asked.by).name}{what_next}", asked.by)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return FitResult(trainer.state.global_step, losses[-1], bridge.tokens, bridge.steps_s)


@contextmanager
def _keeping_precision(model: AdapterModel) -> Iterator[None]:
    """Leave the adapter in the float32 in which PEFT has made it and a checkpoint puts it back: TRL
    casts that of a quantised base to bfloat16, where small updates round to nothing.
    """
    trained = [each for each in model.network.parameters() if each.requires_grad]
    values = [parameter.data for parameter in trained]
    yield
    for parameter, value in zip(trained, values, strict=True):
        parameter.data = value


def _choose_seed(config: RunConfig, model: AdapterModel, resume_from: Path | None) -> int:
    """Return what dropout is drawn from: on every card and after every stop from something else.
    The first card's state is in its checkpoint.
    """
    done = step_of(resume_from) if resume_from is not None else 0
    return config.training.seed + (model.rank + model.cards * done if model.rank else 0)


def rows_of_step(
    config: RunConfig, rows: Sequence[EncodedCase], step: int
) -> Sequence[EncodedCase]:
    """Return those of `rows` that optimizer step `step` is taken on; steps count from 1."""
    size = config.training.cases_a_step
    return rows[(step - 1) * size : step * size]


def split_over_cards(rows: Sequence[Item], cards: int) -> list[Sequence[Item]]:
    """Return the part of a step's `rows` that each card takes, in their order: as many for each."""
    size = len(rows) // cards
    return [rows[card * size : (card + 1) * size] for card in range(cards)]


def split_into_micro_batches(config: RunConfig, lengths: Sequence[int]) -> list[list[int]]:
    """Return which of the cases that a card takes in a step, `lengths` tokens each, go through the
    model together, as `training.batch_by` says.
    """
    training = config.training
    if training.batch_by is BatchBy.cases:
        return batch_in_order(len(lengths), training.micro_batch)
    planned = count_attended_tokens(training.micro_batch, training.max_seq_tokens)
    return batch_for_least_time(
        lengths,
        lambda cases, longest: count_attended_tokens(cases, longest) <= planned,
        estimate_short_micro_batch(config).seconds,
    )


def predict_step_s(config: RunConfig, lengths: Sequence[int]) -> float:
    """Return what a step with cases of these lengths should take, by the planner's cost model, on
    the card with most to do; the plan's own figure is for cases as long as the limit.
    """
    micro_batch = estimate_short_micro_batch(config)
    return max(
        sum(
            micro_batch.seconds(len(cases) * max(part[case] for case in cases))
            for cases in split_into_micro_batches(config, part)
        )
        for part in split_over_cards(lengths, config.hardware.cards)
    )


def _make_trainer_class(
    model: AdapterModel, config: RunConfig, add_tokens: Callable[[int], None]
) -> Any:
    """Return TRL's trainer, for batches that hold a whole step: it goes through their micro-batches
    one after another, and tells `add_tokens` how many tokens they had.
    """
    ratio = config.training.loraplus_lr_ratio

    rank = model.rank

    class StepTrainer(model.stack.trl.SFTTrainer):  # type: ignore[misc, name-defined]
        def training_step(
            self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
        ) -> Any:
            loss, micro_batches = 0.0, inputs[MICRO_BATCHES]
            # The Trainer divides by it where a loss is a mean, not a sum over tokens.
            self.current_gradient_accumulation_steps = len(micro_batches)
            for place, micro_batch in enumerate(micro_batches, start=1):
                # Cards exchange gradients once a step, whose sum they then have: they may have cut
                # their parts of it into more and fewer micro-batches.
                is_last = place == len(micro_batches)
                with nullcontext() if is_last else self.accelerator.no_sync(model):
                    loss = loss + super().training_step(model, micro_batch, num_items_in_batch)
            add_tokens(inputs[TOKENS])
            return loss

        def create_optimizer(self, *given: Any, **named: Any) -> Any:
            optimizer = super().create_optimizer(*given, **named)
            if ratio is not None:
                raise_rate_of_b(optimizer, model.network.named_parameters(), ratio)
            return optimizer

        # Every card takes part in saving, in which the Trainer adds figures up, and the first one
        # alone writes: what is checked, flushed and removed is then written by nobody else.
        def _save_rng_state(self, output_dir: str) -> None:
            if not rank:
                super()._save_rng_state(output_dir)

        # A checkpoint lasts as long as the run, and TRL's card of it cannot be made where the
        # locale is not UTF-8: its template is read in the locale's encoding
        # (huggingface_hub.RepoCard.from_template).
        def create_model_card(self, *_: Any, **__: Any) -> None:
            return None

    return StepTrainer


def raise_rate_of_b(
    optimizer: Any, named_parameters: Iterable[tuple[str, Any]], ratio: float
) -> None:
    """Give the B matrices of an adapter among the groups of `optimizer`, which has taken no step,
    `ratio` times the learning rate; everything else of their groups, weight decay too, stays.

    PEFT's `create_loraplus_optimizer` would also raise the rate of DoRA's magnitudes and of trained
    biases, and Unsloth's trainer has a third grouping; this one is the same with both engines and
    with every optimizer, and a checkpoint finds its groups again.

    Source: LoRA+, Hayou et al. 2024, arXiv:2402.12354.
    """
    of_b = {id(parameter) for name, parameter in named_parameters if ".lora_B." in name}
    for group in list(optimizer.param_groups):
        faster = [parameter for parameter in group["params"] if id(parameter) in of_b]
        if not faster:
            continue
        group["params"] = [each for each in group["params"] if id(each) not in of_b]
        optimizer.add_param_group(group | {"params": faster, "lr": ratio * group["lr"]})


def _choose_schedule(training: Training) -> tuple[str, dict[str, float]]:
    """Return the schedule by its name in Transformers, and its options."""
    least = training.min_lr_ratio
    if not least:
        return training.schedule.value, {}
    if training.schedule is Schedule.cosine:
        return "cosine_with_min_lr", {"min_lr_rate": least}
    # Transformers' linear schedule ends at zero, and a polynomial of degree one where it is told.
    return "polynomial", {"lr_end": least * training.learning_rate, "power": 1.0}


def _arguments(config: RunConfig, model: AdapterModel, steps: int, checkpoints: Path | None) -> Any:
    training, on_cpu = config.training, config.hardware.device is Device.cpu
    schedule, schedule_options = _choose_schedule(training)
    options: dict[str, Any] = {
        "output_dir": str(checkpoints or Path(tempfile.gettempdir()) / "medexp-writes-nothing"),
        # A batch is a whole step, which the trainer class cuts into micro-batches.
        "per_device_train_batch_size": training.cases_a_step // model.cards,
        # Unsloth's own default is 2.
        "gradient_accumulation_steps": 1,
        "max_steps": steps,
        "learning_rate": training.learning_rate,
        "warmup_steps": training.count_warmup_steps(steps),
        "lr_scheduler_type": schedule,
        "lr_scheduler_kwargs": schedule_options,
        "optim": _choose_optimizer(config),
        "adam_beta1": training.adam_beta1,
        "adam_beta2": training.adam_beta2,
        "adam_epsilon": training.adam_epsilon,
        "weight_decay": training.weight_decay,
        # Off whenever the model is not in training mode: nothing that is measured has noise.
        "neftune_noise_alpha": training.neftune_noise_alpha,
        "max_grad_norm": training.max_grad_norm,
        "seed": training.seed,
        "use_cpu": on_cpu,
        "bf16": config.hardware.dtype.value == "bfloat16",
        "fp16": config.hardware.dtype.value == "float16",
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
        # Every matrix of an adapter has a gradient in every step.
        "ddp_find_unused_parameters": False,
    }
    if model.stack.engine is Engine.transformers:
        options["gradient_checkpointing"] = training.gradient_checkpointing is not Checkpointing.off
        options["gradient_checkpointing_kwargs"] = {"use_reentrant": False}
    else:
        # Unsloth has set up its own checkpointing. It has a fused loss, too, whose place TRL's
        # chunked one would take.
        options["loss_type"] = "nll"
    arguments = model.stack.trl.SFTConfig(**options)
    # A plan is for one card; with two in sight the Trainer would double the batch.
    setattr(arguments, private_names.CARDS_USED.last, min(1, arguments.n_gpu))
    if arguments.n_gpu > 1:
        raise MachineError(
            f"{private_names.CARDS_USED.absence()}; let one card be seen: CUDA_VISIBLE_DEVICES=0"
        )
    return arguments


def _choose_optimizer(config: RunConfig) -> str:
    is_paged = config.hardware.page_optimizer is True
    return (Optimizer.paged_adamw_8bit if is_paged else config.training.optimizer).value


def _make_dataset(model: AdapterModel, rows: Sequence[EncodedCase]) -> Any:
    return model.stack.datasets.Dataset.from_dict(
        {"input_ids": [row.input_ids for row in rows], "labels": [row.labels for row in rows]}
    )


def _make_collator(
    config: RunConfig, pad_id: int
) -> Callable[[list[dict[str, list[int]]]], dict[str, Any]]:
    """Return a function that makes a step's rows into a batch, padded on the right.

    Attention is causal: no token sees the padding, from which, by its labels, nothing is learnt.
    Unsloth is given a mask all the same. Transformers is given positions in its place, as with a
    mask its attention computes what comes later, too, and throws it away.

    The batch holds the whole step, by which the Trainer counts what a loss is divided by, the
    micro-batches it is trained in, and its tokens without padding. It is cut and counted before it
    is on a card: to look cases up there, or to count, waits for all that the card was given to do.
    """
    import torch

    is_masked = config.hardware.engine is Engine.unsloth

    def collate(rows: list[dict[str, list[int]]]) -> dict[str, Any]:
        lengths = [len(row["input_ids"]) for row in rows]
        longest = max(lengths)

        def pad(values: list[list[int]], filler: int) -> Any:
            return torch.tensor([row + [filler] * (longest - len(row)) for row in values])

        step = {
            "input_ids": pad([row["input_ids"] for row in rows], pad_id),
            "labels": pad([row["labels"] for row in rows], IGNORED),
        }
        if is_masked:
            step["attention_mask"] = pad([[1] * length for length in lengths], 0)
        else:
            step["position_ids"] = torch.arange(longest).repeat(len(rows), 1)

        def cut(cases: list[int]) -> dict[str, Any]:
            width = max(lengths[case] for case in cases)
            return {name: tensor[cases, :width] for name, tensor in step.items()}

        micro_batches = [cut(cases) for cases in split_into_micro_batches(config, lengths)]
        return step | {MICRO_BATCHES: micro_batches, TOKENS: sum(lengths)}

    return collate


def _make_bridge(
    model: AdapterModel, callbacks: Sequence[StepCallback], count_tokens: Callable[[int], list[int]]
) -> Any:
    """Return a Trainer callback that times steps, calls `callbacks`, and stops after a step when it
    was asked to; on other cards than the first, when that does.

    It holds the tokens of a step against those that every card is to take by `count_tokens`:
    Unsloth patches the trainer and its defaults, and has once taken two steps' rows for one.
    """
    synchronize = _choose_synchronize(model)

    class Bridge(model.stack.transformers.TrainerCallback):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.asked = StopRequest()
            self.pause: TrialPaused | None = None
            self.tokens = self.step_tokens = 0
            self.steps_s = self.step_s = self.began = 0.0

        def add_tokens(self, tokens: int) -> None:
            self.step_tokens += tokens

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            synchronize()
            self.began, self.step_tokens = time.perf_counter(), 0

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            synchronize()
            self.step_s = time.perf_counter() - self.began
            self.steps_s += self.step_s

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if model.rank:
                return
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            files = [path for path in checkpoint.rglob("*") if path.is_file()]
            # After a power cut the last two checkpoints are then whole.
            for path in (*files, checkpoint, checkpoint.parent):
                flush(path)

        def on_log(
            self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any
        ) -> None:
            # At the end of training a summary without a loss is logged.
            if "loss" not in logs:
                return
            self.check_tokens(state.global_step)
            if not model.rank:
                self.end_step(args, state, control, logs)
            if model.ranks is not None:
                decision = Decision(control.should_training_stop, control.should_save)
                decision = model.ranks.agree(decision)
                control.should_training_stop, control.should_save = decision.stops, decision.saves

        def check_tokens(self, step: int) -> None:
            if self.step_tokens != (expected := count_tokens(step)[model.rank]):
                raise MedexpError(
                    f"step {step} was trained on {self.step_tokens:,} tokens and its"
                    f" cases have {expected:,}: this version of the training stack batches"
                    " differently from what medexp expects; install the versions of"
                    " pyproject.toml, and report it"
                )

        def end_step(self, args: Any, state: Any, control: Any, logs: dict[str, float]) -> None:
            if not math.isfinite(logs["loss"]):
                raise TrainingDiverged(
                    f"the training loss is {logs['loss']} at step {state.global_step}; lower"
                    " training.learning_rate, lengthen training.warmup_steps, or look at the cases"
                    " of this step"
                )
            tokens = sum(count_tokens(state.global_step))
            self.tokens += tokens
            metrics = {
                "train/loss": logs["loss"],
                "train/grad_norm": float(logs.get("grad_norm", math.nan)),
                "train/learning_rate": logs["learning_rate"],
                "speed/tokens_per_s": tokens / self.step_s,
                "speed/step_s": self.step_s,
            }
            try:
                answers = [
                    callback.on_step_end(state.global_step, metrics) for callback in callbacks
                ]
            # It is raised again once the checkpoint is written, which the Trainer does after this.
            except TrialPaused as pause:
                self.pause, answers = pause, []
            if any(answers):
                control.should_training_stop = True
            # What a callback measured meanwhile belongs to this step: no other is begun.
            if self.asked.by is not None or self.pause is not None:
                control.should_save = args.save_strategy != "no"
                control.should_training_stop = True

    return Bridge()


def _choose_synchronize(model: AdapterModel) -> Callable[[], None]:
    import torch

    return torch.cuda.synchronize if model.device.type == "cuda" else lambda: None
