"""The rules between the groups of a configuration.

Each yields one sentence a problem: what was given, what is allowed, and what to set. `resolve`
collects them all. Arithmetic and text only: what the machine has is handed in.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from medexp.config.adapter_init import explain_init, is_offered_init
from medexp.config.families.registry import describe_family
from medexp.config.families.sizes import PROJECTIONS, list_linear_sizes
from medexp.config.flatten import format_value
from medexp.config.levers import ALL_PASSES, MEMORY_LEVERS
from medexp.config.measured_steps import find_problem
from medexp.config.schema import (
    Benchmark,
    Bias,
    Checkpointing,
    Dataset,
    Device,
    Dtype,
    Engine,
    Optimizer,
    Overlong,
    PromptForm,
    Quantisation,
    RunConfig,
    Schedule,
    Source,
)
from medexp.errors import listing, nearest
from medexp.system.machine import Machine
from medexp.system.units import bytes_of_gib, gib

# Who answers: the base asked with the training prompt, the base asked its best way, the adapter.
ARMS = ("base", "base_best", "tuned")
# A word in braces in a prompt.
PLACEHOLDER = re.compile(r"\{(\w+)\}")


def check_machine(config: RunConfig, machine: Machine) -> Iterator[str]:
    """Yield what `machine` lacks for `config`; no rule of `RULES`, as a plan needs no card."""
    hardware = config.hardware
    if machine.launched > 1:
        yield (
            f"torchrun or another launcher has started this command {machine.launched} times"
            f" (WORLD_SIZE={machine.launched}), and medexp starts its processes itself: leave the"
            f" launcher out, and set hardware.cards={machine.launched}"
        )
    if hardware.device is Device.cpu:
        return
    if not machine.gpus:
        yield (
            f"hardware={hardware.name} needs a CUDA card and this machine has none that the driver"
            " shows; use hardware=cpu, or check nvidia-smi and CUDA_VISIBLE_DEVICES"
        )
        return
    card = machine.gpus[0]
    if hardware.cards > len(machine.gpus):
        yield (
            f"hardware.cards={hardware.cards} and the driver shows {len(machine.gpus)}; lower it,"
            " or check nvidia-smi and CUDA_VISIBLE_DEVICES"
        )
    other = next((gpu for gpu in machine.gpus[: hardware.cards] if gpu.name != card.name), None)
    if other is not None:
        yield (
            f"hardware.cards={hardware.cards} would train on {card.name} and {other.name}: a step"
            " is shared out evenly and one ceiling is for each of them, so they must be alike;"
            " choose them with CUDA_VISIBLE_DEVICES, or set hardware.cards=1"
        )
    if hardware.vram_ceiling_gib and bytes_of_gib(hardware.vram_ceiling_gib) > card.total_bytes:
        yield (
            f"hardware.vram_ceiling_gib={hardware.vram_ceiling_gib:g} is more than {card.name} has "
            f"({gib(card.total_bytes):.2f} GiB); lower it or use hardware=auto"
        )
    if hardware.dtype.value == "bfloat16" and not card.has_bfloat16:
        yield f"hardware.dtype=bfloat16 is not supported by {card.name}; set hardware.dtype=float16"


def _explain_one_of(first: str, second: str, remedy: str = "") -> str:
    """Return what is wrong where both or neither of two keys, given as KEY=VALUE, are set."""
    return f"{first} and {second}: exactly one of them must be set and the other null{remedy}"


def _check_steps(config: RunConfig) -> Iterator[str]:
    training = config.training
    if (training.max_steps is None) == (training.epochs is None):
        yield _explain_one_of(
            f"training.max_steps={training.max_steps}", f"training.epochs={training.epochs}"
        )


def _check_schedule(config: RunConfig) -> Iterator[str]:
    training = config.training
    if (training.warmup_steps is None) == (training.warmup_ratio is None):
        yield _explain_one_of(
            f"training.warmup_steps={format_value(training.warmup_steps)}",
            f"training.warmup_ratio={format_value(training.warmup_ratio)}",
            "; add training.warmup_steps=null where a share of the steps is meant",
        )
    if training.min_lr_ratio and training.schedule not in (Schedule.linear, Schedule.cosine):
        yield (
            f"training.min_lr_ratio={training.min_lr_ratio:g} is where a rate that falls ends and"
            f" training.schedule={training.schedule.value} does not fall; set"
            " training.min_lr_ratio=0, or training.schedule=linear or cosine"
        )


def _check_adapter(config: RunConfig) -> Iterator[str]:
    lora = config.lora
    if (lora.alpha is None) == (lora.alpha_ratio is None):
        yield _explain_one_of(
            f"lora.alpha={format_value(lora.alpha)}",
            f"lora.alpha_ratio={format_value(lora.alpha_ratio)}",
            "; add lora.alpha=null where alpha is to follow the rank",
        )
    if lora.alpha_ratio is not None and lora.rank_stabilised:
        yield (
            f"lora.alpha_ratio={lora.alpha_ratio:g} keeps alpha / r the same for every rank and"
            " lora.rank_stabilised=true scales by alpha / sqrt(r), which would grow with it; set"
            " lora.alpha=NUMBER lora.alpha_ratio=null, or lora.rank_stabilised=false"
        )
    init = lora.init_lora_weights
    if not is_offered_init(init):
        yield (
            f"lora.init_lora_weights={format_value(init)} is not offered: {explain_init(init)};"
            " allowed are true, gaussian"
        )
    elif init is not True and lora.start_from is not None:
        yield (
            f"lora.init_lora_weights={init} has no effect with lora.start_from={lora.start_from},"
            " which brings both matrices; set lora.init_lora_weights=true"
        )


def _check_engine(config: RunConfig) -> Iterator[str]:
    hardware = config.hardware
    if hardware.engine is Engine.unsloth and hardware.device is Device.cpu:
        yield (
            "hardware.engine=unsloth needs a CUDA card; with hardware=cpu use hardware.engine=auto"
        )
    for lever in MEMORY_LEVERS:
        value = getattr(hardware, lever.name)
        is_used = lever.needs_unsloth and value not in (0, False, "auto")
        if hardware.engine is Engine.transformers and is_used:
            nothing = 0 if lever.counts_layers else "false"
            yield (
                f"{lever.key}={format_value(value)} is a lever of hardware.engine=unsloth; with"
                f" {hardware.engine.value} set it to {nothing}"
            )
    if (
        hardware.engine is Engine.transformers
        and config.model.quantisation is Quantisation.nf4
        and config.lora.bias.value == "all"
    ):
        yield "lora.bias=all cannot be trained on NF4 weights; set lora.bias=none"
    if (
        hardware.engine is Engine.unsloth
        and config.training.gradient_checkpointing is Checkpointing.off
    ):
        yield (
            "training.gradient_checkpointing=off is for hardware.engine=transformers; with unsloth"
            " every layer is kept by hardware.checkpoint_skip_layers=max (or as many as fit: auto);"
            " set gradient_checkpointing=unsloth"
        )
    if hardware.device is Device.cuda and hardware.dtype is Dtype.float32:
        yield (
            "hardware.dtype=float32 is not for a card: plans and kernels are for 16 bits; set"
            " hardware.dtype=bfloat16 or float16"
        )


def _check_cards(config: RunConfig) -> Iterator[str]:
    cards, training = config.hardware.cards, config.training
    if cards == 1:
        return
    if config.hardware.engine is Engine.unsloth:
        yield (
            f"hardware.cards={cards} was never run with hardware.engine=unsloth, which patches one"
            " process for one card; set hardware.engine=transformers, or hardware.cards=1"
        )
    if training.cases_a_step % cards:
        yield (
            f"hardware.cards={cards} does not divide the {training.cases_a_step} cases of a step"
            f" (training.micro_batch={training.micro_batch} x"
            f" training.accumulation={training.accumulation}); change one of the three, so that"
            " every card takes as many"
        )


def _check_levers(config: RunConfig) -> Iterator[str]:
    layers = config.model.shape.layers
    for lever in (lever for lever in MEMORY_LEVERS if lever.counts_layers):
        value = getattr(config.hardware, lever.name)
        is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= layers
        if not is_count and value not in lever.words:
            yield (
                f"{lever.key}={value} is not allowed: {config.model.name} has {layers} layers, "
                f"so a number from 0 to {layers}, or {listing(lever.words)}"
            )
    streamed, kept = config.hardware.offload_layers, config.hardware.checkpoint_skip_layers
    if (
        isinstance(streamed, int)
        and isinstance(kept, int)
        and streamed + kept > layers >= max(streamed, kept)
    ):
        yield (
            f"hardware.offload_layers={streamed} and hardware.checkpoint_skip_layers={kept} are"
            f" more than the {layers} layers of {config.model.name}: a streamed layer cannot be"
            " kept; lower one of them"
        )
    trains_streamed_biases = (
        describe_family(config.model.shape).has_attention_biases
        and config.lora.bias is not Bias.none
    )
    if (config.lora.dora or trains_streamed_biases) and isinstance(streamed, int) and streamed > 0:
        given, without = (
            ("dora=true", "dora=false")
            if config.lora.dora
            else (f"bias={config.lora.bias.value}", "bias=none")
        )
        yield (
            f"hardware.offload_layers={streamed} does not go with lora.{given}, which needs the"
            f" weights on the card; set offload_layers to 0 or auto, or lora.{without}"
        )
    for lever in (lever for lever in MEMORY_LEVERS if not lever.counts_layers):
        value = getattr(config.hardware, lever.name)
        if not (isinstance(value, bool) or value in lever.words):
            allowed = ", ".join(("true", "false", *lever.words))
            yield f"{lever.key}={value} is not allowed; allowed are {allowed}"
    if config.hardware.offload_embedding is True and config.model.shape.tied_embeddings:
        yield (
            f"hardware.offload_embedding=true saves nothing: {config.model.name} ties its"
            " embedding to lm_head, which the card needs; set it to auto or false"
        )
    if config.hardware.tile_mlp is True and config.hardware.compile_layers is True:
        yield (
            "hardware.tile_mlp=true does not go with hardware.compile_layers=true; set"
            " compile_layers to auto or false"
        )
    if config.hardware.fp8 in (True, ALL_PASSES) and config.hardware.engine is Engine.unsloth:
        yield from _check_fp8(config)
    if (
        config.hardware.page_optimizer is True
        and config.training.optimizer is Optimizer.adamw_torch
    ):
        yield (
            "hardware.page_optimizer=true pages an 8-bit optimizer; set"
            " training.optimizer=adamw_8bit or page_optimizer=auto"
        )


def _check_measured_steps(config: RunConfig) -> Iterator[str]:
    for place, entry in enumerate(config.hardware.measured_steps):
        if why := find_problem(entry):
            yield (
                f"hardware.measured_steps[{place}] is no measured step: {why}; medexp.calibrate"
                " writes them, leave it out or calibrate again"
            )


def _check_fp8(config: RunConfig) -> Iterator[str]:
    hardware, lora = config.hardware, config.lora
    unfit = (
        (hardware.dtype is not Dtype.bfloat16, "hardware.dtype", hardware.dtype.value, "bfloat16"),
        (hardware.compile_layers is False, "hardware.compile_layers", "false", "auto"),
        (hardware.tile_mlp is True, "hardware.tile_mlp", "true", "auto"),
        (lora.dropout > 0, "lora.dropout", f"{lora.dropout:g}", "0"),
        (lora.dora, "lora.dora", "true", "false"),
        (lora.bias is not Bias.none, "lora.bias", lora.bias.value, "none"),
    )
    for is_unfit, key, value, instead in unfit:
        if is_unfit:
            yield (
                f"hardware.fp8={format_value(hardware.fp8)} does not go with {key}={value}; set"
                f" {key}={instead}, or hardware.fp8=false"
            )


def _check_optimizer(config: RunConfig) -> Iterator[str]:
    if (
        config.hardware.device is Device.cpu
        and config.training.optimizer is not Optimizer.adamw_torch
    ):
        yield (
            f"training.optimizer={config.training.optimizer.value} runs on CUDA only; "
            "with hardware=cpu set training.optimizer=adamw_torch"
        )


def _check_target_modules(config: RunConfig) -> Iterator[str]:
    shape, targets = config.model.shape, config.lora.target_modules
    allowed = list(dict.fromkeys((*PROJECTIONS, *list_linear_sizes(shape))))
    if not targets:
        yield f"lora.target_modules is empty; allowed are {listing(allowed)}"
    for name in targets:
        if name not in allowed:
            yield (
                f"lora.target_modules has {name}; allowed are"
                f" {listing(allowed)}{nearest(name, allowed)}"
            )
    for fused in describe_family(shape).fused:
        given = [name for name in fused.parts if name in targets]
        if given and len(given) < len(fused.parts) and fused.name not in targets:
            missing = [name for name in fused.parts if name not in given]
            yield (
                f"lora.target_modules has {listing(given)} without {listing(missing)}, and in"
                f" model={config.model.name} they are one matrix, {fused.name}; name all of"
                f" {listing(fused.parts)}, or none"
            )


def _check_family(config: RunConfig) -> Iterator[str]:
    """Unsloth has no kernels of its own for some families, and some overflow in float16."""
    hardware, family = config.hardware, config.model.shape.family.value
    described = describe_family(config.model.shape)
    if hardware.dtype is Dtype.float16 and not described.fits_float16:
        yield (
            f"hardware.dtype=float16 does not hold the activations of family {family}"
            f" (model={config.model.name}); set hardware.dtype=bfloat16 on a card that has it (RTX"
            " 30 series and later), or choose another model"
        )
    if hardware.engine is not Engine.unsloth or described.runs_fused_kernels:
        return
    for name in ("tile_mlp", "offload_activations", "fp8"):
        if (value := getattr(hardware, name)) not in (False, "auto"):
            yield (
                f"hardware.{name}={format_value(value)} needs Unsloth's own kernels, which it has"
                f" not for family {family} (model={config.model.name}); set it to auto or false"
            )


def _check_prompt(config: RunConfig) -> Iterator[str]:
    prompt = config.prompt
    in_question = PLACEHOLDER.findall(prompt.question)
    in_completion = PLACEHOLDER.findall(prompt.completion)
    if in_question != ["question"]:
        yield "prompt.question must hold {question} exactly once and no other placeholder"
    if in_completion not in (["answer"], ["reasoning", "answer"]):
        yield (
            "prompt.completion must hold {answer}, before it {reasoning} where the prompt reasons,"
            " and no other placeholder"
        )
    if prompt.form is PromptForm.chat and prompt.question != "{question}":
        yield (
            f"prompt.question={prompt.question[:40]!r} goes with prompt.form=text alone: with chat"
            " the chat template writes what stands around a question; set it to {question}, and"
            " say instructions in prompt.system"
        )
    if prompt.form is PromptForm.chat and in_completion == ["answer"]:
        yield (
            "prompt.completion has no {reasoning} and prompt.form=chat: with chat it is left out by"
            " itself where a case has none; set it as conf/prompt/chat.yaml does"
        )
    if prompt.form is PromptForm.text and prompt.system is not None:
        yield (
            f"prompt.system is set and prompt={prompt.name} has no place for it; use prompt=chat,"
            " or write it into prompt.question"
        )
    if config.dataset.overlong is Overlong.trim_reasoning and "reasoning" not in in_completion:
        yield (
            "dataset.overlong=trim_reasoning needs a prompt with reasoning and"
            f" prompt={prompt.name} has none; use drop or error"
        )


def _check_cases(config: RunConfig) -> Iterator[str]:
    dataset = config.dataset
    if dataset.name == "mixture" and not dataset.mixture:
        yield (
            "dataset=mixture has no parts: set 'dataset.mixture=[{use: OPTION, weight: NUMBER},"
            " ...]'"
        )
    elif dataset.mixture:
        yield from _check_mixture(dataset)
    elif dataset.path is None and dataset.hub_id is None:
        yield (
            f"dataset={dataset.name} has no file: set dataset.path=FILE (JSON, JSONL, CSV, TSV or"
            " Parquet) or dataset.hub_id"
        )
    if dataset.max_cases is not None and dataset.held_out >= dataset.max_cases:
        yield (
            f"dataset.held_out={dataset.held_out} leaves nothing to train on with"
            f" dataset.max_cases={dataset.max_cases}"
        )
    elif (
        dataset.max_cases is not None and dataset.held_out + dataset.validation >= dataset.max_cases
    ):
        yield (
            f"dataset.held_out={dataset.held_out} and dataset.validation={dataset.validation} leave"
            f" nothing to train on with dataset.max_cases={dataset.max_cases}"
        )
    sources = [dataset, *dataset.mixture, dataset.held_out_from]
    for source in (source for source in sources if isinstance(source, Source)):
        if (source.test_share or 0) + source.validation_share >= 1:
            yield (
                f"dataset.test_share={source.test_share} and"
                f" dataset.validation_share={source.validation_share} of {source.name} leave"
                " nothing to train on; together they must be below 1"
            )
    if config.evaluation.answers > dataset.held_out:
        yield (
            f"evaluation.answers={config.evaluation.answers} is more than"
            f" dataset.held_out={dataset.held_out}: only held-out questions are answered; lower the"
            " first or raise the second"
        )
    training = config.training
    needs_validation = {
        "training.keep_best=true": training.keep_best,
        f"training.early_stopping_patience={training.early_stopping_patience}": (
            training.early_stopping_patience is not None
        ),
    }
    for setting, is_set in needs_validation.items():
        if is_set and not dataset.validation:
            yield (
                f"{setting} chooses by the loss on validation cases and dataset.validation=0 holds"
                " none out; set dataset.validation=16, or leave it out"
            )


def _check_mixture(dataset: Dataset) -> Iterator[str]:
    if dataset.path is not None or dataset.hub_id is not None:
        yield (
            f"dataset={dataset.name} has a file of its own ({dataset.path or dataset.hub_id}) and"
            " dataset.mixture too; use dataset=mixture, and set the file of a part in its entry"
            " (dataset.mixture.0.path=FILE)"
        )
    for place, source in enumerate(dataset.mixture):
        if source.path is None and source.hub_id is None:
            yield (
                f"dataset.mixture[{place}] ({source.name}) has no file: give its entry a path"
                " (JSON, JSONL, CSV, TSV or Parquet)"
            )
        if any(
            replace(source, weight=1.0) == replace(earlier, weight=1.0)
            for earlier in dataset.mixture[:place]
        ):
            yield (
                f"dataset.mixture[{place}] ({source.name}) stands there twice; give it one entry"
                " with both weights added"
            )


def _check_arms(config: RunConfig) -> Iterator[str]:
    evaluation = config.evaluation
    for arm in evaluation.arms:
        if arm not in ARMS:
            yield f"evaluation.arms has {arm}; allowed are {listing(ARMS)}{nearest(arm, ARMS)}"
    for arm in ("base", "tuned"):
        if arm not in evaluation.arms:
            yield (
                f"evaluation.arms={listing(evaluation.arms)} lacks {arm}: what fine-tuning changed"
                " is measured between base and tuned; evaluation.arms=[base,base_best,tuned] adds"
                " the base asked its best way"
            )
    if evaluation.draws > 1 and not evaluation.temperature:
        yield (
            f"evaluation.draws={evaluation.draws} with evaluation.temperature=0 gives the same"
            " answer again; set evaluation.temperature=0.7, or evaluation.draws=1"
        )


def _check_benchmarks(config: RunConfig) -> Iterator[str]:
    known = [benchmark.value for benchmark in Benchmark]
    for name in config.evaluation.benchmarks:
        if name not in known:
            yield (
                f"evaluation.benchmarks has {name}; allowed are"
                f" {listing(known)}{nearest(name, known)}"
            )
    files = vars(config.evaluation.benchmark_files)
    for benchmark in (Benchmark.medbullets, Benchmark.medxpertqa):
        if benchmark.value in config.evaluation.benchmarks and not files[benchmark.value]:
            yield (
                f"evaluation.benchmarks has {benchmark.value}, which is read from a file alone; set"
                f" evaluation.benchmark_files.{benchmark.value}=FILE"
            )
    if config.evaluation.benchmark_reasoning and not any(files.values()):
        yield (
            "evaluation.benchmark_reasoning=true asks the questions of evaluation.benchmark_files"
            " and none is set; set evaluation.benchmark_files.medqa=FILE or another of"
            f" {listing(known)}"
        )


def _check_judge(config: RunConfig) -> Iterator[str]:
    judge = config.evaluation.judge
    if judge.model is None:
        return
    if judge.url is None or not judge.url.startswith(("http://", "https://")):
        yield (
            f"evaluation.judge.url={judge.url} is no endpoint; give the whole address, as in"
            " http://127.0.0.1:8000/v1/chat/completions"
        )
    if judge.instructions is None or "{{ outputs }}" not in judge.instructions:
        yield (
            "evaluation.judge.instructions must hold {{ outputs }}, and may hold {{ inputs }} and"
            " {{ expectations }}"
        )


def _check_weights(config: RunConfig) -> Iterator[str]:
    model = config.model
    if model.path is None and model.package is None and model.hub_id is None:
        yield f"model={model.name} has no weights: set model.path=FOLDER or model.hub_id=OWNER/NAME"
    if model.shape.heads % model.shape.kv_heads:
        yield (
            f"model.shape.heads={model.shape.heads} is not a multiple of"
            f" model.shape.kv_heads={model.shape.kv_heads}"
        )


# Each yields one sentence for every problem of a whole config.
RULES: Iterable[Callable[[RunConfig], Iterator[str]]] = (
    _check_steps,
    _check_schedule,
    _check_adapter,
    _check_engine,
    _check_cards,
    _check_levers,
    _check_measured_steps,
    _check_optimizer,
    _check_target_modules,
    _check_family,
    _check_prompt,
    _check_cases,
    _check_arms,
    _check_benchmarks,
    _check_judge,
    _check_weights,
)
