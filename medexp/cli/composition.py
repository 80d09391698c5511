"""A command's config, from its words to a checked `RunConfig`: what the command line and the Python
API do alike.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Generic, TypeVar

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from medexp.cli.hub_shape import fill_hub_shape
from medexp.cli.output_dir import make_unique_folder
from medexp.config import hydra_errors
from medexp.config.command_line import make_readable
from medexp.config.invocation import Invocation
from medexp.config.preset_errors import explain_preset
from medexp.config.registration import SCHEMAS, register_with_hydra
from medexp.config.resolve import build_kept_yaml, resolve
from medexp.config.schema import RunConfig
from medexp.config.shipped import find_conf_dir
from medexp.errors import ConfigError, first_line
from medexp.system import machine

OptionsT = TypeVar("OptionsT")
FinishedRunT = TypeVar("FinishedRunT")
Recompose = Callable[[DictConfig, OptionsT, Sequence[str]], tuple[DictConfig, FinishedRunT]]
# That of the roots in conf/.
_OUTPUT_DIR = "outputs/%Y-%m-%d/%H-%M-%S"


@dataclass(frozen=True)
class CommandSpec(Generic[OptionsT, FinishedRunT]):
    """What tells a command from the others: its root config, the class of its own config group
    (NoneType where it has none), whether it needs the card that its config names, and what puts
    the config of a finished run in the place of the composed one.
    """

    config_name: str
    options_class: type[OptionsT]
    needs_card: bool = True
    recompose: Recompose[OptionsT, FinishedRunT] | None = None


def explain_error(error: Exception, words: Sequence[str], schema: type) -> str | None:
    """Return what a user can do about `error`, or None where it is not about the command line's
    `words` or a preset.
    """
    config_dirs = [after for word, after in pairwise(words) if word in ("--config-dir", "-cd")]
    config_dirs += [word.partition("=")[2] for word in words if word.startswith("--config-dir=")]
    folders = [find_conf_dir(), *(Path.cwd() / folder for folder in [*config_dirs, "conf"])]
    return explain_preset(error, folders, words, schema) or hydra_errors.explain_hydra_error(
        error, schema
    )


def extract_options(cfg: DictConfig, config_name: str) -> object:
    """Take the command's own group out of `cfg`; return it as an object, or None without one.

    Raises: ConfigError where `cfg` was composed from the root of another command, or another value
        stands in the group's place.
    """
    if config_name not in SCHEMAS:
        return None
    if config_name not in cfg:
        raise ConfigError(
            f"--config-name={HydraConfig.get().job.config_name} has no group {config_name}, which"
            f" python -m medexp.{config_name} needs; leave it out, or begin your own root with the"
            f" defaults of conf/{config_name}.yaml"
        )
    if not OmegaConf.is_dict(cfg[config_name]):
        raise ConfigError(
            f"{config_name}={cfg[config_name]} is not allowed: it is a group; set what is in it, as"
            f" {config_name}.KEY"
        )
    options = OmegaConf.to_object(cfg[config_name])
    OmegaConf.set_struct(cfg, False)
    own_keys = {key.name for key in fields(SCHEMAS[config_name])}
    for key in own_keys - {key.name for key in fields(RunConfig)}:
        del cfg[key]
    return options


def read_experiment_yaml(runtime: Any) -> str:
    """Return the YAML of the experiment that was chosen, "" where there is none."""
    if (name := runtime.choices.get("experiment")) in (None, "null"):
        return ""
    files = (
        Path(source.path) / "experiment" / f"{name}.yaml"
        for source in runtime.config_sources
        if source.schema == "file"
    )
    return next((file.read_text(encoding="utf-8") for file in files if file.is_file()), "")


def build_call(
    cfg: DictConfig,
    command: CommandSpec[OptionsT, FinishedRunT],
    runtime: Any,
    overrides: Sequence[str],
    output_dir: Path,
) -> tuple[RunConfig, Invocation[OptionsT, FinishedRunT]]:
    """Return the checked config of `cfg`, composed for `command`, and how it was asked for.

    `runtime` is Hydra's, with the choices that were made and where they were found.
    Raises: ConfigError, MachineError or RunError with every problem found.
    """
    run: Any = None
    options = extract_options(cfg, command.config_name)
    assert isinstance(options, command.options_class)
    if command.recompose is not None:
        cfg, run = command.recompose(cfg, options, overrides)
    cwd, cfg = Path(runtime.cwd), fill_hub_shape(cfg)
    config = resolve(cfg, machine.read(), cwd, runtime.choices, command.needs_card)
    invocation = Invocation(
        output_dir=output_dir,
        # Read only now: an override that refers to nothing was refused by its key before.
        overrides=tuple(overrides),
        composed_yaml=build_kept_yaml(cfg, cwd),
        experiment_yaml=read_experiment_yaml(runtime),
        options=options,
        run=run,
    )
    return config, invocation


def compose_call(
    command: CommandSpec[OptionsT, FinishedRunT], overrides: Sequence[str]
) -> tuple[RunConfig, Invocation[OptionsT, FinishedRunT]]:
    """Compose `command` from `overrides` in this process, as its command line does.

    No output folder is made: who writes to one takes `make_output_dir`.
    Raises: ConfigError for what Hydra does not take, and what `build_call` raises.
    """
    register_with_hydra()
    schema = SCHEMAS[command.config_name]
    try:
        words = make_readable(list(overrides), schema)
        with initialize_config_dir(str(find_conf_dir()), "medexp", version_base="1.3"):
            cfg = compose(command.config_name, words, return_hydra_config=True)
            runtime = cfg.hydra.runtime
            with open_dict(cfg):
                del cfg["hydra"]
            return build_call(cfg, command, runtime, words, Path(runtime.cwd))
    except (HydraException, OmegaConfBaseException) as error:
        explanation = explain_error(error, list(overrides), schema)
        raise ConfigError(explanation or first_line(error)) from error


def make_output_dir() -> Path:
    """Make a folder that is named by the time, as those of the commands are; return it."""
    return make_unique_folder(Path.cwd() / time.strftime(_OUTPUT_DIR))
