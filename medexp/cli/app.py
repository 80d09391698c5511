"""The frame of every command: compose the config, run, and end with one sentence and the right exit
code when something is wrong.

A traceback is only shown for a defect of medexp itself, or when HYDRA_FULL_ERROR=1 asks for it.
"""

import errno
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import hydra
from dotenv import load_dotenv
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from medexp.cli.composition import CommandSpec, build_call, explain_error
from medexp.config import hydra_errors
from medexp.config.command_line import make_readable
from medexp.config.invocation import Invocation
from medexp.config.registration import SCHEMAS, register_with_hydra
from medexp.config.schema import RunConfig
from medexp.config.shipped import find_conf_dir
from medexp.errors import BadInput, ConfigError, MedexpError, RunInterrupted, first_line
from medexp.system import console, disk_space, stopping
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
OptionsT = TypeVar("OptionsT")
FinishedRunT = TypeVar("FinishedRunT")


def run_command(
    main: Callable[[RunConfig, Invocation[OptionsT, FinishedRunT]], float],
    command: CommandSpec[OptionsT, FinishedRunT],
) -> NoReturn:
    """Compose the config of `command` from the command line, check it, hand it to `main`, and exit.

    `command.recompose` may put another config in the place of the composed one before it is
    checked: it is given that one, the command's own options and the overrides as typed, and returns
    beside the config the finished run that it is from.
    """
    console.prepare_streams()
    with console.quiet_when_unread():
        _Call(main, command).run()


@dataclass(frozen=True)
class _Call:
    """A command and its `main`; `run` ends the process."""

    main: Callable[[RunConfig, Invocation[Any, Any]], float]
    command: CommandSpec[Any, Any]

    def run(self) -> NoReturn:
        """Run the command; every error that a user can mend is one sentence and an exit code."""
        schema = SCHEMAS.get(self.command.config_name, RunConfig)
        wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
        # Hydra then raises instead of printing.
        os.environ["HYDRA_FULL_ERROR"] = "1"
        stopping.end_on_sigterm()
        has_begun = False

        def task(cfg: DictConfig) -> float:
            nonlocal has_begun
            has_begun = True
            try:
                return self._run_composed(cfg)
            except (MedexpError, OmegaConfBaseException) as raised:
                if HydraConfig.get().mode is RunMode.MULTIRUN or wants_traceback:
                    # The sweeper is told.
                    raise
                # Past Hydra, which would add a line of its own.
                _refuse(_as_medexp_error(raised, schema))

        try:
            _read_env(Path.cwd() / ".env")
            register_with_hydra()
            sys.argv[1:] = make_readable(sys.argv[1:], schema)
            decorate = hydra.main(
                version_base="1.3",
                config_path=str(find_conf_dir()),
                config_name=self.command.config_name,
            )
            decorate(task)()
        except MedexpError as error:
            if wants_traceback:
                raise
            _refuse(error)
        except (KeyboardInterrupt, Terminated) as error:
            number = signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT
            message = f"stopped by {stopping.name(number)}; the same command continues"
            _refuse(RunInterrupted(message, number))
        except BrokenPipeError:
            # `quiet_when_unread` knows what that is.
            raise
        except Exception as error:
            sentence = None
            if not wants_traceback:
                sentence = explain_error(error, sys.argv[1:], schema) or _describe_unusable_file(
                    error
                )
                sentence = sentence or _describe_held_store(error)
            if sentence is None and not (has_begun or wants_traceback):
                sentence = hydra_errors.explain_before_run(error)
            if sentence is None:
                raise
            _refuse(BadInput(sentence))
        sys.exit(0)

    def _run_composed(self, cfg: DictConfig) -> float:
        """Check `cfg` and hand it to `main`; return what a sweep minimises."""
        hydra_settings = HydraConfig.get()
        runtime = hydra_settings.runtime
        config, invocation = build_call(
            cfg,
            self.command,
            runtime,
            hydra_settings.overrides.task,
            Path(runtime.output_dir),
        )
        # Here, too, as Hydra has a line of its own for whatever passes through it.
        with console.quiet_when_unread():
            return self.main(config, invocation)


def _as_medexp_error(error: MedexpError | OmegaConfBaseException, schema: type) -> MedexpError:
    if isinstance(error, OmegaConfBaseException):
        return BadInput(explain_error(error, sys.argv[1:], schema) or str(error))
    return error


def _describe_held_store(error: Exception) -> str | None:
    """Return that another program holds MLflow's store, where `error` says so."""
    if getattr(error, "error_code", "") != "TEMPORARILY_UNAVAILABLE":
        return None
    again = "run the same command again once no other program holds it"
    return f"MLflow's store cannot be used now ({first_line(error)}); {again}"


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


def _describe_unusable_file(error: Exception) -> str | None:
    """Return the file, the system's reason, and which settings name folders; None where `error` is
    about no file.

    The last resort: who knows what the file is for has said nothing better.
    """
    if (hindrance := disk_space.explain_write_error(error, [Path.cwd()])) is not None:
        place = hindrance.what
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
