"""From a composed config to a checked `RunConfig`: each group's own ranges, then the rules between
groups.

Collects every problem and raises once, so that a user mends a command line in one go. Arithmetic
and text only: what the machine has is handed in.
"""

import copy
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from medexp.config import dataset_sources
from medexp.config.changes import change_values
from medexp.config.command_options import TrainConfig
from medexp.config.fields import config_fields
from medexp.config.former_values import fill_former_values
from medexp.config.levers import MEMORY_LEVERS
from medexp.config.model_shape import shape_in
from medexp.config.schema import (
    GROUP_NAMES,
    Benchmark,
    Bias,
    Checkpointing,
    Dataset,
    Device,
    Dtype,
    Engine,
    Family,
    MeasuredCases,
    ModelShape,
    Optimizer,
    Overlong,
    Quantisation,
    RunConfig,
)
from medexp.errors import BadInput, ConfigError, MachineError, listing, nearest
from medexp.system.home import expand_home, with_tilde
from medexp.system.machine import Machine
from medexp.system.units import bytes_of_gib, gib

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# what a 6 GiB laptop card loses outside torch's allocator; see conf/hardware/rtx4050_6gb.yaml
CONTEXT_AND_DESKTOP_GIB = 0.75
# of a proposal, too
_OF_TRAIN = {each.name for each in fields(TrainConfig)} - {each.name for each in fields(RunConfig)}
# What a machine has more or less of. Its number format is no part: that changes what comes out.
_MEMORY = ("host_ram_gib", "card_vram_gib", "vram_ceiling_gib")
# the cases inside this package, wherever it is installed
SHIPPED = Path(__file__).resolve().parent.parent / "data"
# Who answers: the base asked with the training prompt, the base asked its best way, the adapter.
ARMS = ("base", "base_best", "tuned")
SHIPPED_CASES = "clinical_cases"
PLACEHOLDER = re.compile(r"\{(\w+)\}")


def resolve(
    cfg: DictConfig,
    machine: Machine,
    launch_dir: Path,
    choices: Mapping[str, str],
    needs_card: bool = True,
) -> RunConfig:
    """The run that `cfg` describes, paths absolute against `launch_dir`, `auto` values read off
    `machine`.

    `choices` (group -> chosen option) is only used to say where a value is set. Without
    `needs_card` a run for a card that this machine has not is fine, as when it is only planned.
    Raises: ConfigError or MachineError carrying every problem found.
    """
    config = _build_config(fill_former_values(with_shape(cfg, launch_dir)), choices)
    config = _measure_on_shipped(config)
    dataset, source_problems = dataset_sources.expand_sources(config.dataset)
    if source_problems:
        raise ConfigError(source_problems)
    config = _make_absolute(replace(config, dataset=dataset), launch_dir)
    config = _fill_from_machine(config, machine)
    problems = [problem for rule in RULES for problem in rule(config)]
    if problems:
        raise ConfigError(problems)
    machine_problems = list(_machine_holds(config, machine)) if needs_card else []
    if machine_problems:
        raise MachineError(machine_problems)
    return config


def with_shape(cfg: DictConfig, launch_dir: Path) -> DictConfig:
    """Return `cfg` with the shape of a model that declares none, from the checkpoint at
    `model.path`.

    Raises: ConfigError without a path; ModelError if it cannot be read there.
    """
    if not OmegaConf.is_missing(cfg, "model") and OmegaConf.is_missing(cfg.model, "shape"):
        if cfg.model.path is None:
            raise ConfigError(
                f"model={cfg.model.name} has no shape: set model.path=FOLDER of a Transformers"
                " checkpoint, or model.shape"
            )
        cfg = copy.deepcopy(cfg)
        found = shape_in(Path(_absolute(cfg.model.path, launch_dir)))
        cfg.model.shape = OmegaConf.merge(OmegaConf.structured(ModelShape), found)
    return cfg


def _build_config(cfg: DictConfig, choices: Mapping[str, str]) -> RunConfig:
    groups: dict[str, Any] = {}
    problems = list(_unknown_keys(cfg, RunConfig, ""))
    for group in GROUP_NAMES:
        option = choices.get(group)
        try:
            groups[group] = OmegaConf.to_object(cfg[group])
        except MissingMandatoryValue as error:
            problems.append(_no_value(str(error.full_key or group), group, option))
        except BadInput as error:
            home = f"in conf/{group}/{option}.yaml or " if option else ""
            problems += [
                f"{group}.{problem} (set {home}on the command line)" for problem in error.problems
            ]
    if problems:
        raise ConfigError(problems)
    return RunConfig(**groups)


def _measure_on_shipped(config: RunConfig) -> RunConfig:
    """Return `config` with the shipped cases' test part to be measured on, where that is asked for
    and no other part is named.
    """
    dataset = config.dataset
    if config.evaluation.cases is not MeasuredCases.shipped or dataset.held_out_from is not None:
        return config
    # What is trained on the shipped cases is measured on their own test part, which is the same.
    if dataset.name == SHIPPED_CASES:
        return config
    return replace(config, dataset=replace(dataset, held_out_from=SHIPPED_CASES))


def _no_value(key: str, group: str, option: str | None) -> str:
    if option is None or key == group:
        return f"{key} has no value: choose {group}=OPTION or set it"
    return (
        f"{key} has no value in conf/{group}/{option}.yaml: set it there or on the command line, or"
        " begin that file with defaults: [OPTION, _self_] to take what it leaves out from another"
        " option"
    )


def _unknown_keys(cfg: DictConfig, schema: Any, prefix: str) -> Iterator[str]:
    """Keys that a "+" on the command line has forced in."""
    known: dict[str, Any] = {key.name: key.type for key in config_fields(schema)}
    for name in map(str, cfg):
        if not prefix and name in _OF_TRAIN:
            continue
        if name not in known:
            yield f"{prefix}{name} does not exist; there are {listing(known)}{nearest(name, known)}"
        elif is_dataclass(known[name]) and not OmegaConf.is_missing(cfg, name):
            if not OmegaConf.is_dict(cfg[name]):  # ${another.key} may put anything there
                inside = listing(key.name for key in config_fields(known[name]))
                yield f"{prefix}{name}={cfg[name]} is not allowed: it is a group and has {inside}"
                continue
            yield from _unknown_keys(cfg[name], known[name], f"{prefix}{name}.")


def _absolute(path: str, launch_dir: Path) -> str:
    return str((launch_dir / expand_home(path)).resolve())


def _make_absolute(config: RunConfig, launch_dir: Path) -> RunConfig:
    """Return `config` with every path absolute, those that are relative against `launch_dir`."""

    def absolute(path: str | None) -> str | None:
        return None if path is None else _absolute(path, launch_dir)

    dataset, measured = config.dataset, config.dataset.held_out_from
    values = {
        "model.path": absolute(config.model.path),
        "lora.start_from": absolute(config.lora.start_from),
        "dataset.path": absolute(dataset.path),
        "dataset.mixture": [
            replace(source, path=absolute(source.path)) for source in dataset.mixture
        ],
        "dataset.held_out_from": measured and replace(measured, path=absolute(measured.path)),
        "tracking.root": tracking_root(config.tracking.root, launch_dir),
    }
    files = vars(config.evaluation.benchmark_files)
    return change_values(
        config,
        values
        | {f"evaluation.benchmark_files.{name}": absolute(file) for name, file in files.items()},
    )


_PATHS = ("model.path", "lora.start_from", "dataset.path", "dataset.held_out_from.path")


def anchored(cfg: DictConfig, launch_dir: Path) -> DictConfig:
    """`cfg` with the paths of its model, adapter and cases absolute: what is kept of it means the
    same wherever it is read.
    """
    made = copy.deepcopy(cfg)
    for node, name in _paths(made):
        node[name] = _absolute(node[name], launch_dir)
    return made


def found_again(cfg: DictConfig, before: Path | None, now: Path) -> DictConfig:
    """`cfg`, as `anchored` once made it, with what lay below folder `before` where it lies below
    `now`, and with medexp's own files, where those are gone, as this medexp has them."""
    made = copy.deepcopy(cfg)
    for node, name in _paths(made):
        path = expand_home(node[name])
        is_of_project = before is not None and path.is_relative_to(before)
        is_own = path.parts[-3:-1] == ("medexp", "data") and not path.exists()
        there = now / path.relative_to(before) if is_of_project and before else SHIPPED / path.name
        if (is_of_project or is_own) and there.exists():
            node[name] = str(there)
    return made


def _paths(cfg: DictConfig) -> Iterator[tuple[Any, str]]:
    """Every place in `cfg` that names a file or folder to read: the node and the key in it."""
    entries = [each for each in cfg.dataset.mixture if OmegaConf.is_dict(each)]
    files = [(cfg.evaluation.benchmark_files, str(name)) for name in cfg.evaluation.benchmark_files]
    named = [
        (OmegaConf.select(cfg, key.rpartition(".")[0]), key.rpartition(".")[2]) for key in _PATHS
    ]
    for node, name in (*named, *files, *((each, "path") for each in entries)):
        if OmegaConf.is_dict(node) and isinstance(node.get(name), str):
            yield node, name


def kept_yaml(cfg: DictConfig, launch_dir: Path) -> str:
    """Return `cfg` as it is kept with a run, to be read in any folder: complete, so that it needs
    no model to be told what it was, and without the user's name, so that it can be handed on.

    Paths below the home folder begin with ~, the shipped cases are named as conf/ names them. Other
    places have to stay: without them the run could not be made again.
    """
    complete = OmegaConf.to_container(
        anchored(with_shape(cfg, launch_dir), launch_dir), resolve=True
    )
    return OmegaConf.to_yaml(OmegaConf.create(movable(complete)))


def movable(value: Any) -> Any:
    """Return composed `value` with every path that differs from user to user as it is read for all
    of them.
    """
    if isinstance(value, Mapping):
        return {name: movable(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [movable(inner) for inner in value]
    if isinstance(value, str) and Path(value).is_absolute():
        is_shipped = Path(value).parent == SHIPPED
        return f"${{medexp.shipped:{Path(value).name}}}" if is_shipped else with_tilde(value)
    return value


def tracking_root(root: str | None, launch_dir: Path) -> str:
    """Where MLflow keeps runs, as an absolute path: `root` where it is set, else mlruns under
    MEDEXP_HOME or `launch_dir`.
    """
    given = Path(root or f"{os.environ.get('MEDEXP_HOME', '.')}/mlruns")
    return str((launch_dir / expand_home(given)).resolve())


def _fill_from_machine(config: RunConfig, machine: Machine) -> RunConfig:
    """Return `config` with what its hardware leaves open read off `machine`."""
    requested = config.hardware
    hardware, on_card = requested, requested.device is Device.cuda
    if machine.ram_bytes and (machine.gpus or not on_card):
        ram_gib = min(requested.host_ram_gib or math.inf, round(gib(machine.ram_bytes), 1))
        hardware = replace(hardware, host_ram_gib=ram_gib)
    if requested.dtype is Dtype.auto:
        hardware = replace(hardware, dtype=_fastest_dtype(requested.device, machine))
    if requested.engine is Engine.auto:
        engine = Engine.unsloth if on_card else Engine.transformers
        hardware = replace(hardware, engine=engine)
    if on_card and machine.gpus:
        card = machine.gpus[0]
        beside = gib(card.total_bytes - card.calibration.free_bytes) if card.calibration else 0
        # A ceiling that is too low for the run is refused, with what would fit.
        ceiling_gib = max(gib(card.total_bytes) - max(CONTEXT_AND_DESKTOP_GIB, beside), 0.01)
        hardware = replace(
            hardware,
            card_vram_gib=requested.card_vram_gib or round(gib(card.total_bytes), 2),
            vram_ceiling_gib=requested.vram_ceiling_gib or round(ceiling_gib, 2),
        )
    asked = {
        f"hardware.{name}": getattr(requested, name)
        for name in _MEMORY
        if getattr(requested, name) != getattr(hardware, name)
    }
    return replace(config, hardware=hardware, asked=config.asked | asked)


def _fastest_dtype(device: Device, machine: Machine) -> Dtype:
    on_card = device is Device.cuda
    has_bfloat16 = (
        all(card.has_bfloat16 for card in machine.gpus[:1]) if on_card else machine.has_bfloat16
    )
    return Dtype.bfloat16 if has_bfloat16 else Dtype.float16 if on_card else Dtype.float32


def _machine_holds(run: RunConfig, machine: Machine) -> Iterator[str]:
    hardware = run.hardware
    if hardware.device is Device.cpu:
        return
    if not machine.gpus:
        yield (
            f"hardware={hardware.name} needs a CUDA card and this machine has none that the driver"
            " shows; use hardware=cpu, or check nvidia-smi and CUDA_VISIBLE_DEVICES"
        )
        return
    card = machine.gpus[0]
    if hardware.vram_ceiling_gib and bytes_of_gib(hardware.vram_ceiling_gib) > card.total_bytes:
        yield (
            f"hardware.vram_ceiling_gib={hardware.vram_ceiling_gib:g} is more than {card.name} has "
            f"({gib(card.total_bytes):.2f} GiB); lower it or use hardware=auto"
        )
    if hardware.dtype.value == "bfloat16" and not card.has_bfloat16:
        yield f"hardware.dtype=bfloat16 is not supported by {card.name}; set hardware.dtype=float16"


def _steps(run: RunConfig) -> Iterator[str]:
    training = run.training
    if (training.max_steps is None) == (training.epochs is None):
        yield (
            f"training.max_steps={training.max_steps} and training.epochs={training.epochs}: "
            "exactly one of them must be set and the other null"
        )


def _engine(run: RunConfig) -> Iterator[str]:
    hardware = run.hardware
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
                f"{lever.key}={value} is a lever of hardware.engine=unsloth; with"
                f" {hardware.engine.value} set it to {nothing}"
            )
    if (
        hardware.engine is Engine.transformers
        and run.model.quantisation is Quantisation.nf4
        and run.lora.bias.value == "all"
    ):
        yield "lora.bias=all cannot be trained on NF4 weights; set lora.bias=none"
    if (
        hardware.engine is Engine.unsloth
        and run.training.gradient_checkpointing is Checkpointing.off
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


def _levers(run: RunConfig) -> Iterator[str]:
    layers = run.model.shape.layers
    for lever in (lever for lever in MEMORY_LEVERS if lever.counts_layers):
        value = getattr(run.hardware, lever.name)
        is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= layers
        if not is_count and value not in lever.words:
            yield (
                f"{lever.key}={value} is not allowed: {run.model.name} has {layers} layers, "
                f"so a number from 0 to {layers}, or {listing(lever.words)}"
            )
    streamed, kept = run.hardware.offload_layers, run.hardware.checkpoint_skip_layers
    if (
        isinstance(streamed, int)
        and isinstance(kept, int)
        and streamed + kept > layers >= max(streamed, kept)
    ):
        yield (
            f"hardware.offload_layers={streamed} and hardware.checkpoint_skip_layers={kept} are"
            f" more than the {layers} layers of {run.model.name}: a streamed layer cannot be kept;"
            " lower one of them"
        )
    trains_streamed_biases = (
        run.model.shape.family is Family.qwen2 and run.lora.bias is not Bias.none
    )
    if (run.lora.dora or trains_streamed_biases) and isinstance(streamed, int) and streamed > 0:
        what, least = (
            ("dora=true", "dora=false")
            if run.lora.dora
            else (f"bias={run.lora.bias.value}", "bias=none")
        )
        yield (
            f"hardware.offload_layers={streamed} does not go with lora.{what}, which needs the"
            f" weights on the card; set offload_layers to 0 or auto, or lora.{least}"
        )
    for lever in (lever for lever in MEMORY_LEVERS if not lever.counts_layers):
        value = getattr(run.hardware, lever.name)
        if not (isinstance(value, bool) or value in lever.words):
            allowed = ", ".join(("true", "false", *lever.words))
            yield f"{lever.key}={value} is not allowed; allowed are {allowed}"
    if run.hardware.offload_embedding is True and run.model.shape.tied_embeddings:
        yield (
            f"hardware.offload_embedding=true saves nothing: {run.model.name} ties its embedding to"
            " lm_head, which the card needs; set it to auto or false"
        )
    if run.hardware.tile_mlp is True and run.hardware.compile_layers is True:
        yield (
            "hardware.tile_mlp=true does not go with hardware.compile_layers=true; set"
            " compile_layers to auto or false"
        )
    if run.hardware.page_optimizer is True and run.training.optimizer is Optimizer.adamw_torch:
        yield (
            "hardware.page_optimizer=true pages an 8-bit optimizer; set"
            " training.optimizer=adamw_8bit or page_optimizer=auto"
        )


def _optimizer(run: RunConfig) -> Iterator[str]:
    if run.hardware.device is Device.cpu and run.training.optimizer is not Optimizer.adamw_torch:
        yield (
            f"training.optimizer={run.training.optimizer.value} runs on CUDA only; "
            "with hardware=cpu set training.optimizer=adamw_torch"
        )


def _target_modules(run: RunConfig) -> Iterator[str]:
    if not run.lora.target_modules:
        yield f"lora.target_modules is empty; allowed are {listing(PROJECTIONS)}"
    for name in run.lora.target_modules:
        if name not in PROJECTIONS:
            yield (
                f"lora.target_modules has {name}; allowed are"
                f" {listing(PROJECTIONS)}{nearest(name, PROJECTIONS)}"
            )


def _prompt(run: RunConfig) -> Iterator[str]:
    prompt = run.prompt
    found = {
        "question": PLACEHOLDER.findall(prompt.question),
        "completion": PLACEHOLDER.findall(prompt.completion),
    }
    if found["question"] != ["question"]:
        yield "prompt.question must hold {question} exactly once and no other placeholder"
    if found["completion"] not in (["answer"], ["reasoning", "answer"]):
        yield (
            "prompt.completion must hold {answer}, before it {reasoning} where the prompt reasons,"
            " and no other placeholder"
        )
    if run.dataset.overlong is Overlong.trim_reasoning and "reasoning" not in found["completion"]:
        yield (
            "dataset.overlong=trim_reasoning needs a prompt with reasoning and"
            f" prompt={prompt.name} has none; use drop or error"
        )


def _cases(run: RunConfig) -> Iterator[str]:
    dataset = run.dataset
    if dataset.name == "mixture" and not dataset.mixture:
        yield (
            "dataset=mixture has no parts: set 'dataset.mixture=[{use: OPTION, weight: NUMBER},"
            " ...]'"
        )
    elif dataset.mixture:
        yield from _parts(dataset)
    elif dataset.path is None and dataset.hub_id is None:
        yield (
            f"dataset={dataset.name} has no file: set dataset.path=FILE (JSON, JSONL, CSV or"
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
    if run.evaluation.answers > dataset.held_out:
        yield (
            f"evaluation.answers={run.evaluation.answers} is more than"
            f" dataset.held_out={dataset.held_out}: only held-out questions are answered; lower the"
            " first or raise the second"
        )
    training = run.training
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


def _parts(dataset: Dataset) -> Iterator[str]:
    if dataset.path is not None or dataset.hub_id is not None:
        yield (
            f"dataset={dataset.name} has a file of its own ({dataset.path or dataset.hub_id}) and"
            " dataset.mixture too; use dataset=mixture, and set the file of a part in its entry"
            " (dataset.mixture.0.path=FILE)"
        )
    for place, part in enumerate(dataset.mixture):
        if part.path is None and part.hub_id is None:
            yield (
                f"dataset.mixture[{place}] ({part.name}) has no file: give its entry a path (JSON,"
                " JSONL, CSV, TSV or Parquet)"
            )
        if any(
            replace(part, weight=1.0) == replace(earlier, weight=1.0)
            for earlier in dataset.mixture[:place]
        ):
            yield (
                f"dataset.mixture[{place}] ({part.name}) stands there twice; give it one entry with"
                " both weights added"
            )


def _arms(run: RunConfig) -> Iterator[str]:
    evaluation = run.evaluation
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


def _benchmarks(run: RunConfig) -> Iterator[str]:
    known = [each.value for each in Benchmark]
    for name in run.evaluation.benchmarks:
        if name not in known:
            yield (
                f"evaluation.benchmarks has {name}; allowed are"
                f" {listing(known)}{nearest(name, known)}"
            )


def _judge(run: RunConfig) -> Iterator[str]:
    judge = run.evaluation.judge
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


def _weights(run: RunConfig) -> Iterator[str]:
    model = run.model
    if model.path is None and model.package is None and model.hub_id is None:
        yield f"model={model.name} has no weights: set model.path=FOLDER or model.hub_id=OWNER/NAME"
    if model.shape.heads % model.shape.kv_heads:
        yield (
            f"model.shape.heads={model.shape.heads} is not a multiple of"
            f" model.shape.kv_heads={model.shape.kv_heads}"
        )


RULES: Iterable[Callable[[RunConfig], Iterator[str]]] = (
    _steps, _engine, _levers, _optimizer, _target_modules, _prompt, _cases, _arms, _benchmarks, _judge, _weights,
)  # fmt: skip
