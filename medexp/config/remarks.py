"""What is allowed and seldom meant, or costs what nobody sees: said before training, as TRL,
Transformers and Unsloth take it without a word.
"""

from collections.abc import Iterator

from medexp.config.schema import Bias, Engine, RunConfig, Schedule, Training


def remark_on_schedule(config: RunConfig, steps: int) -> Iterator[str]:
    """Yield what a run of `steps` makes of its warm-up and of the losses measured on the way, where
    that is not what the keys promise.
    """
    training, every = config.training, config.evaluation.every_steps
    warmup = training.count_warmup_steps(steps)
    if warmup >= steps and training.schedule is not Schedule.constant:
        yield (
            f"{_name_warmup(training)} is not less than the {steps} steps of this run: the"
            " learning rate never reaches training.learning_rate="
            f"{training.learning_rate:g}; set {_suggest_warmup(training, steps)}"
        )
    if every > steps > 1:
        yield (
            f"evaluation.every_steps={every} is more than the {steps} steps of this run: the"
            " held-out loss is measured before and after, and not on the way; set"
            f" evaluation.every_steps={steps // 2} to measure it halfway"
        )


def remark_on_kernels(config: RunConfig) -> Iterator[str]:
    """Yield what an adapter costs with Unsloth beyond what its plan says: time where its fused
    kernels cannot compute it, memory where they keep more.

    LoRA+, NEFTune and rsLoRA cost nothing (unsloth 2026.10.9, models/llama.py and
    kernels/fast_lora.py; an H200, benchmarks/vram).
    """
    if config.hardware.engine is not Engine.unsloth:
        return
    lora = config.lora
    if lora.dora:
        yield (
            "lora.dora=true runs outside Unsloth's fused kernels: a step takes about 2.5 times as"
            " long as predicted, and no layer is streamed"
        )
    elif lora.bias is not Bias.none:
        yield (
            f"lora.bias={lora.bias.value} runs outside Unsloth's fused kernels: a step takes longer"
            " than predicted"
        )
    elif lora.dropout:
        yield (
            f"lora.dropout={lora.dropout:g} takes up to 8 % more of the card than planned, as the"
            " kernels keep what was dropped; the rehearsed step takes a safer plan where this one"
            " does not fit"
        )


def _name_warmup(training: Training) -> str:
    if training.warmup_ratio is None:
        return f"training.warmup_steps={training.warmup_steps}"
    return f"training.warmup_ratio={training.warmup_ratio:g}"


def _suggest_warmup(training: Training, steps: int) -> str:
    if training.warmup_ratio is None:
        return f"training.warmup_steps={steps // 10}"
    return f"training.warmup_ratio={0.1 if steps > 1 else 0}"
