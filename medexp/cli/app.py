"""The frame of every door: compose the config, run, and end with one sentence and the right exit
code when something is wrong.

A traceback is only shown for a defect of medexp itself, or when HYDRA_FULL_ERROR=1 asks for it.
"""

import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import hydra
from dotenv import load_dotenv
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from medexp.config import hydra_errors as mistakes
from medexp.config.command_line import readable
from medexp.config.invocation import Invocation
from medexp.config.preset_errors import explain_preset
from medexp.config.registration import SCHEMAS, conf_dir, register
from medexp.config.resolve import kept_yaml, resolve
from medexp.config.schema import RunConfig
from medexp.errors import BadInput, ConfigError, MedexpError, RunInterrupted, first_line
from medexp.system import console, disk_space, machine, stopping
from medexp.system.stopping import Terminated
from medexp.system.visible import visible

_NO_PLACE = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
)
Recompose = Callable[[DictConfig, object, Sequence[str]], tuple[DictConfig, object]]


def run_command(
    door: Callable[[RunConfig, Invocation], float],
    config_name: str,
    needs_card: bool = True,
    recompose: Recompose | None = None,
) -> NoReturn:
    """Compose `config_name` from the command line, check it, hand it to `door`, and exit.

    `recompose` may put another config in the place of the composed one before it is checked: it is
    given that one, the door's own options and the overrides as typed, and returns beside the config
    the finished run that it is from.
    """
    console.prepare_streams()
    with console.quiet_when_unread():
        _run_command(door, config_name, needs_card, recompose)


def _run_command(
    door: Callable[[RunConfig, Invocation], float],
    config_name: str,
    needs_card: bool,
    recompose: Recompose | None,
) -> NoReturn:
    schema = SCHEMAS.get(config_name, RunConfig)
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing
    stopping.end_on_sigterm()
    has_begun = False

    def task(cfg: DictConfig) -> float:
        nonlocal has_begun
        has_begun = True
        settings, subject = HydraConfig.get(), None
        try:
            options = _own_options(cfg, config_name)
            if recompose is not None:
                cfg, subject = recompose(cfg, options, settings.overrides.task)
            cwd = Path(settings.runtime.cwd)
            run = resolve(cfg, machine.read(), cwd, settings.runtime.choices, needs_card)
            composed = kept_yaml(cfg, cwd)
            overrides = tuple(settings.overrides.task)
            experiment, folder = (
                _experiment_yaml(settings.runtime),
                Path(settings.runtime.output_dir),
            )
            # here, as Hydra has a line for whatever passes through it
            with console.quiet_when_unread():
                return door(
                    run, Invocation(folder, overrides, composed, options, experiment, subject)
                )
        except (MedexpError, OmegaConfBaseException) as raised:
            error = (
                BadInput(_explained(raised, schema) or str(raised))
                if isinstance(raised, OmegaConfBaseException)
                else raised
            )
            if settings.mode is RunMode.MULTIRUN or wants_traceback:
                raise  # the sweeper is told
            _refuse(error)  # past Hydra, which would add a line of its own

    try:
        _read_env(Path.cwd() / ".env")
        register()
        sys.argv[1:] = readable(sys.argv[1:], schema)
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)(task)()
    except MedexpError as error:
        if wants_traceback:
            raise
        _refuse(error)
    except (KeyboardInterrupt, Terminated) as error:
        number = signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT
        said = f"stopped by {stopping.name(number)}; the same command continues"
        _refuse(RunInterrupted(said, number))
    except BrokenPipeError:
        raise  # quiet_when_unread knows what that is
    except Exception as error:
        sentence = (
            None
            if wants_traceback
            else _explained(error, schema) or _unusable(error) or _held(error)
        )
        if sentence is None and not (has_begun or wants_traceback):
            sentence = mistakes.before_the_run(error)
        if sentence is None:
            raise
        _refuse(BadInput(sentence))
    sys.exit(0)


def _held(error: Exception) -> str | None:
    """Return that another program holds MLflow's store, where `error` says so."""
    if getattr(error, "error_code", "") != "TEMPORARILY_UNAVAILABLE":
        return None
    again = "run the same command again once no other program holds it"
    return f"MLflow's store cannot be used now ({first_line(error)}); {again}"


def _explained(error: Exception, schema: type) -> str | None:
    """Return what a user can do about `error`, or None where it is not about the command line or a
    preset.
    """
    words = sys.argv[1:]
    named = [after for word, after in pairwise(words) if word in ("--config-dir", "-cd")]
    named += [word.partition("=")[2] for word in words if word.startswith("--config-dir=")]
    folders = [conf_dir(), *(Path.cwd() / each for each in [*named, "conf"])]
    return explain_preset(error, folders, words, schema) or mistakes.explain(error, schema)


def _read_env(file: Path) -> None:
    """Set what `file` sets, where there is one.

    Raises: ConfigError where it cannot be read.
    """
    try:
        load_dotenv(file)
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{file} is not UTF-8 text (byte {error.start}); save it as UTF-8, or move it away"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read ({error}); mend it, or move it away") from error


def _own_options(cfg: DictConfig, config_name: str) -> object:
    """The door's own config group as an object, taken out of `cfg`; None where it has none.

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
    for name in {each.name for each in fields(SCHEMAS[config_name])} - {
        each.name for each in fields(RunConfig)
    }:
        del cfg[name]
    return options


def _experiment_yaml(runtime: Any) -> str:
    """The YAML of the experiment that was chosen, "" where there is none."""
    if (name := runtime.choices.get("experiment")) in (None, "null"):
        return ""
    files = (
        Path(each.path) / "experiment" / f"{name}.yaml"
        for each in runtime.config_sources
        if each.schema == "file"
    )
    return next((file.read_text(encoding="utf-8") for file in files if file.is_file()), "")


def _unusable(error: Exception) -> str | None:
    """Nobody who knows the file said it better: the file, the system's reason, and which settings
    name folders; None where `error` is about no file."""
    if (found := disk_space.hindrance(error, [Path.cwd()])) is not None:
        place = found.what
    elif isinstance(error, OSError) and error.filename and error.errno in _NO_PLACE:
        place = f"{error.filename} cannot be used ({error.strerror})"
    else:
        return None
    return (
        f"{place}: hydra.run.dir=FOLDER is where files go, tracking.root=FOLDER where runs are;"
        " HYDRA_FULL_ERROR=1 shows more"
    )


def _refuse(error: MedexpError) -> NoReturn:
    for problem in error.problems if isinstance(error, BadInput) else (str(error),):
        print(f"medexp: {visible(problem)}", file=sys.stderr)
    sys.exit(error.exit_code)
