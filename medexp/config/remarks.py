"""What is allowed and seldom meant: said before training, as TRL and Transformers take it without a
word.
"""

from collections.abc import Iterator

from medexp.config.schema import RunConfig, Schedule


def remark_on_schedule(config: RunConfig, steps: int) -> Iterator[str]:
    """Yield what a run of `steps` makes of its warm-up and of the losses measured on the way, where
    that is not what the keys promise.
    """
    warmup, every = config.training.warmup_steps, config.evaluation.every_steps
    if warmup >= steps and config.training.schedule is not Schedule.constant:
        yield (
            f"training.warmup_steps={warmup} is not less than the {steps} steps of this run: the"
            " learning rate never reaches training.learning_rate="
            f"{config.training.learning_rate:g}; set training.warmup_steps={steps // 10}"
        )
    if every > steps > 1:
        yield (
            f"evaluation.every_steps={every} is more than the {steps} steps of this run: the"
            " held-out loss is measured before and after, and not on the way; set"
            f" evaluation.every_steps={steps // 2} to measure it halfway"
        )
