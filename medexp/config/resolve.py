"""From a composed config to a checked `RunConfig`: each group's own ranges, then the rules between
groups.

Collects every problem and raises once, so that a user mends a command line in one go. Arithmetic
and text only: what the machine has is handed in.
"""

import copy
import math
import os
from collections.abc import Iterator, Mapping
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
from medexp.config.hardware_rules import check_machine
from medexp.config.measured_steps import find_problem
from medexp.config.model_shape import read_shape
from medexp.config.schema import (
    GROUP_NAMES,
    Device,
    Dtype,
    Engine,
    MeasuredCases,
    ModelShape,
    RunConfig,
)
from medexp.config.shipped import SHIPPED
from medexp.config.validation import RULES
from medexp.errors import BadInput, ConfigError, MachineError, listing, nearest
from medexp.system.home import expand_home, with_tilde
from medexp.system.machine import Machine, share_machine
from medexp.system.units import gib

# What a 6 GiB laptop card loses outside torch's allocator; see conf/hardware/rtx4050_6gb.yaml.
CONTEXT_AND_DESKTOP_GIB = 0.75
# What a sweep's proposal may hold beside the groups of a run.
_OF_TRAIN = {key.name for key in fields(TrainConfig)} - {key.name for key in fields(RunConfig)}
# What a machine has more or less of. Its number format is no part: that changes what comes out.
_MEMORY = ("host_ram_gib", "card_vram_gib", "vram_ceiling_gib")
# The option of the dataset group that they are.
SHIPPED_CASES = "clinical_cases"


def resolve(
    cfg: DictConfig,
    machine: Machine,
    launch_dir: Path,
    choices: Mapping[str, str],
    needs_card: bool = True,
) -> RunConfig:
    """Return the run that `cfg` describes, paths absolute against `launch_dir`, `auto` values read
    off `machine`.

    `choices` (group -> chosen option) is only used to say where a value is set. Without
    `needs_card` a run for a card that this machine has not is fine, as when it is only planned.
    Raises: ConfigError or MachineError carrying every problem found.
    """
    config = _build_config(fill_former_values(fill_shape(cfg, launch_dir)), choices)
    config = _measure_on_shipped(config)
    dataset, source_problems = dataset_sources.expand_sources(config.dataset)
    if source_problems:
        raise ConfigError(source_problems)
    config = _make_absolute(replace(config, dataset=dataset), launch_dir)
    config = _fill_from_machine(config, machine)
    problems = [problem for rule in RULES for problem in rule(config)]
    if problems:
        raise ConfigError(problems)
    machine_problems = list(check_machine(config, machine)) if needs_card else []
    if machine_problems:
        raise MachineError(machine_problems)
    return config


def fill_shape(cfg: DictConfig, launch_dir: Path) -> DictConfig:
    """Return `cfg` with the shape of a model that declares none, from the checkpoint at
    `model.path`; that of the Hub's is filled in before (`cli.hub_shape`).

    Raises: ConfigError without a path; ModelError if it cannot be read there.
    """
    if lacks_shape(cfg):
        if cfg.model.path is None:
            wanted = {
                "local": "model.path=FOLDER of a Transformers checkpoint",
                "hub": "model.hub_id=OWNER/NAME of a Transformers checkpoint",
            }
            how = wanted.get(cfg.model.name, " or ".join(wanted.values()))
            raise ConfigError(f"model={cfg.model.name} has no shape: set {how}, or model.shape")
        shape = read_shape(Path(_make_absolute_path(cfg.model.path, launch_dir)))
        cfg = with_shape(cfg, shape)
    return cfg


def lacks_shape(cfg: DictConfig) -> bool:
    """Return whether the model of `cfg` declares no shape."""
    return not OmegaConf.is_missing(cfg, "model") and OmegaConf.is_missing(cfg.model, "shape")


def with_shape(cfg: DictConfig, shape: Mapping[str, object]) -> DictConfig:
    """Return `cfg` with this shape of its model."""
    made = copy.deepcopy(cfg)
    made.model.shape = OmegaConf.merge(OmegaConf.structured(ModelShape), shape)
    return made


def _build_config(cfg: DictConfig, choices: Mapping[str, str]) -> RunConfig:
    groups: dict[str, Any] = {}
    problems = list(_find_unknown_keys(cfg, RunConfig, ""))
    for group in GROUP_NAMES:
        option = choices.get(group)
        try:
            groups[group] = OmegaConf.to_object(cfg[group])
        except MissingMandatoryValue as error:
            problems.append(_explain_missing_value(str(error.full_key or group), group, option))
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


def _explain_missing_value(key: str, group: str, option: str | None) -> str:
    if option is None or key == group:
        return f"{key} has no value: choose {group}=OPTION or set it"
    return (
        f"{key} has no value in conf/{group}/{option}.yaml: set it there or on the command line, or"
        " begin that file with defaults: [OPTION, _self_] to take what it leaves out from another"
        " option"
    )


def _find_unknown_keys(cfg: DictConfig, schema: Any, prefix: str) -> Iterator[str]:
    """Yield a sentence for every key that a "+" on the command line has forced in."""
    known: dict[str, Any] = {key.name: key.type for key in config_fields(schema)}
    for name in map(str, cfg):
        if not prefix and name in _OF_TRAIN:
            continue
        if name not in known:
            yield f"{prefix}{name} does not exist; there are {listing(known)}{nearest(name, known)}"
        elif is_dataclass(known[name]) and not OmegaConf.is_missing(cfg, name):
            # ${another.key} may put anything there.
            if not OmegaConf.is_dict(cfg[name]):
                inside = listing(key.name for key in config_fields(known[name]))
                yield f"{prefix}{name}={cfg[name]} is not allowed: it is a group and has {inside}"
                continue
            yield from _find_unknown_keys(cfg[name], known[name], f"{prefix}{name}.")


def _make_absolute_path(path: str, launch_dir: Path) -> str:
    return str((launch_dir / expand_home(path)).resolve())


def _make_absolute(config: RunConfig, launch_dir: Path) -> RunConfig:
    """Return `config` with every path absolute, those that are relative against `launch_dir`."""

    def absolute(path: str | None) -> str | None:
        return None if path is None else _make_absolute_path(path, launch_dir)

    dataset, measured = config.dataset, config.dataset.held_out_from
    values = {
        "model.path": absolute(config.model.path),
        "lora.start_from": absolute(config.lora.start_from),
        "dataset.path": absolute(dataset.path),
        "dataset.mixture": [
            replace(source, path=absolute(source.path)) for source in dataset.mixture
        ],
        "dataset.held_out_from": measured and replace(measured, path=absolute(measured.path)),
        "tracking.root": find_tracking_root(config.tracking.root, launch_dir),
    }
    files = vars(config.evaluation.benchmark_files)
    return change_values(
        config,
        values
        | {f"evaluation.benchmark_files.{name}": absolute(file) for name, file in files.items()},
    )


_PATHS = ("model.path", "lora.start_from", "dataset.path", "dataset.held_out_from.path")


def make_paths_absolute(cfg: DictConfig, launch_dir: Path) -> DictConfig:
    """Return `cfg` with the paths of its model, adapter and cases absolute: what is kept of it
    means the same wherever it is read.
    """
    made = copy.deepcopy(cfg)
    for node, name in _walk_paths(made):
        node[name] = _make_absolute_path(node[name], launch_dir)
    return made


def relocate_paths(cfg: DictConfig, before: Path | None, now: Path) -> DictConfig:
    """Return `cfg`, as `make_paths_absolute` once made it, with the paths of today.

    What lay below folder `before` is named below `now`. Files of medexp itself that are gone from
    their place are named as this medexp has them.
    """
    made = copy.deepcopy(cfg)
    for node, name in _walk_paths(made):
        path = expand_home(node[name])
        is_of_project = before is not None and path.is_relative_to(before)
        is_own = path.parts[-3:-1] == ("medexp", "data") and not path.exists()
        there = now / path.relative_to(before) if is_of_project and before else SHIPPED / path.name
        if (is_of_project or is_own) and there.exists():
            node[name] = str(there)
    return made


def _walk_paths(cfg: DictConfig) -> Iterator[tuple[Any, str]]:
    """Yield every place in `cfg` that names a file or folder to read: its node and its key."""
    sources = [source for source in cfg.dataset.mixture if OmegaConf.is_dict(source)]
    files = [(cfg.evaluation.benchmark_files, str(name)) for name in cfg.evaluation.benchmark_files]
    settings = [
        (OmegaConf.select(cfg, key.rpartition(".")[0]), key.rpartition(".")[2]) for key in _PATHS
    ]
    for node, name in (*settings, *files, *((source, "path") for source in sources)):
        if OmegaConf.is_dict(node) and isinstance(node.get(name), str):
            yield node, name


def build_kept_yaml(cfg: DictConfig, launch_dir: Path) -> str:
    """Return `cfg` as it is kept with a run, to be read in any folder: complete, so that it needs
    no model to be told what it was, and without the user's name, so that it can be handed on.

    Paths below the home folder begin with ~, the shipped cases are named as conf/ names them. Other
    places have to stay: without them the run could not be made again.
    """
    complete = OmegaConf.to_container(
        make_paths_absolute(fill_shape(cfg, launch_dir), launch_dir), resolve=True
    )
    return OmegaConf.to_yaml(OmegaConf.create(make_movable(complete)))


def make_movable(value: Any) -> Any:
    """Return composed `value` with every path that differs from user to user as it is read for all
    of them.
    """
    if isinstance(value, Mapping):
        return {name: make_movable(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [make_movable(inner) for inner in value]
    if isinstance(value, str) and Path(value).is_absolute():
        is_shipped = Path(value).parent == SHIPPED
        return f"${{medexp.shipped:{Path(value).name}}}" if is_shipped else with_tilde(value)
    return value


def find_tracking_root(root: str | None, launch_dir: Path) -> str:
    """Return where MLflow keeps runs, as an absolute path: `root` where it is set, else mlruns
    under MEDEXP_HOME or `launch_dir`.
    """
    folder = Path(root or f"{os.environ.get('MEDEXP_HOME', '.')}/mlruns")
    return str((launch_dir / expand_home(folder)).resolve())


def _fill_from_machine(config: RunConfig, machine: Machine) -> RunConfig:
    """Return `config` with what its hardware leaves open read off `machine`."""
    requested = config.hardware
    hardware, on_card = requested, requested.device is Device.cuda
    if machine.ram_bytes and (machine.gpus or not on_card):
        # Every card has a process of its own, with its own copy of what lies on the host.
        share = share_machine(machine, requested.cards)
        ram_gib = min(requested.host_ram_gib or math.inf, round(gib(share.ram_bytes), 1))
        hardware = replace(hardware, host_ram_gib=ram_gib)
    if requested.dtype is Dtype.auto:
        hardware = replace(hardware, dtype=_fastest_dtype(requested.device, machine))
    if requested.engine is Engine.auto:
        engine = Engine.unsloth if on_card else Engine.transformers
        hardware = replace(hardware, engine=engine)
    if on_card and machine.gpus:
        card = machine.gpus[0]
        if requested.fp8 == "auto" and not card.has_fp8:
            hardware = replace(hardware, fp8=False)
        # What another version of medexp has written down is left out, and what the preset knows.
        known = requested.measured_steps
        own = [step for step in card.measured_steps if not find_problem(step) and step not in known]
        hardware = replace(hardware, measured_steps=[*known, *own])
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
