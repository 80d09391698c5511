"""What is allowed and seldom meant: said before training, as TRL and Transformers take it without a
word.
"""

from collections.abc import Iterator

from medexp.config.schema import RunConfig, Schedule


def remark_on_schedule(run: RunConfig, steps: int) -> Iterator[str]:
    """What a run of `steps` makes of its warm-up and of the losses measured on the way, where that
    is not what the keys promise.
    """
    warmup, every = run.training.warmup_steps, run.evaluation.every_steps
    if warmup >= steps and run.training.schedule is not Schedule.constant:
        yield (
            f"training.warmup_steps={warmup} is not less than the {steps} steps of this run: the"
            f" learning rate never reaches training.learning_rate={run.training.learning_rate:g};"
            f" set training.warmup_steps={steps // 10}"
        )
    if every > steps > 1:
        yield (
            f"evaluation.every_steps={every} is more than the {steps} steps of this run: the"
            " held-out loss is measured before and after, and not on the way; set"
            f" evaluation.every_steps={steps // 2} to measure it halfway"
        )
