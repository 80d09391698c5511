"""The training stack: the only file that imports unsloth, transformers, trl, peft and bitsandbytes,
in the order they need.

Unsloth patches the others for the whole process and must come first; a process therefore has one
engine. Importing takes 10-35 s, so it is done once, by a command, when everything that can be
refused without it has been refused.
"""

import importlib
import io
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medexp.config.schema import Engine, Hardware
from medexp.errors import MachineError
from medexp.system import private_names
from medexp.system.imports import gc_paused_for_import


@dataclass(frozen=True)
class Backend:
    """The imported modules; `unsloth` is None with the transformers engine. `notes` are what the
    user should be told of them.
    """

    engine: Engine
    transformers: Any
    trl: Any
    peft: Any
    datasets: Any
    unsloth: Any
    notes: tuple[str, ...] = ()


def load_backend(hardware: Hardware, cache_dir: Path) -> Backend:
    """Import the stack for `hardware.engine`; `cache_dir` is where Unsloth may write the trainers
    it generates.

    Raises: MachineError if Unsloth is asked for and not installed.
    """
    unsloth = _import_unsloth(hardware, cache_dir) if hardware.engine is Engine.unsloth else None
    stack = Backend(
        engine=hardware.engine,
        **import_libraries(),
        unsloth=unsloth,
        notes=() if unsloth is None else find_unread_settings(Path(unsloth.__file__).parent),
    )
    _silence(stack)
    return stack


def import_libraries() -> dict[str, Any]:
    """Import what every training needs, and return the modules by name. It is all that a run on a
    CPU needs of the stack, whose processes may be forked from one that has imported it.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with capture_library_output(), gc_paused_for_import():
        names = ("transformers", "trl", "peft", "datasets")
        return {name: importlib.import_module(name) for name in names}


def load_transformers(hardware: Hardware) -> Backend:
    """Import Transformers alone, for a tokenizer: seconds sooner than the whole. Nothing may be
    trained with it."""
    with capture_library_output(), gc_paused_for_import():
        transformers = importlib.import_module("transformers")
    transformers.logging.set_verbosity_error()
    return Backend(hardware.engine, transformers, trl=None, peft=None, datasets=None, unsloth=None)


def load_bitsandbytes() -> Any:
    """Import bitsandbytes alone, to dequantise weights on the CPU."""
    with capture_library_output():
        return importlib.import_module("bitsandbytes")


@contextmanager
def capture_library_output() -> Iterator[None]:
    """Banners that the stack prints go to the log file instead of the screen."""
    # asks for a kernel of the Hub as it is imported on a newer CPU
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            yield
    finally:
        for line in filter(None, printed.getvalue().splitlines()):
            logging.getLogger("medexp.stack").info(line)


_UNSLOTH_SETTINGS = {
    # Left alone, Unsloth sizes these by the card's whole memory, not by the ceiling: a plan would
    # take other memory elsewhere.
    "UNSLOTH_FUSED_LINEAR_FLASH_MIN_ROWS": "0",
    # 256 trained no faster: 10,575 against 10,583 tokens/s (benchmarks/train)
    "UNSLOTH_FUSED_LINEAR_BWD_TILE_MB": "64",
}


def find_unread_settings(unsloth: Path) -> tuple[str, ...]:
    """Return a sentence for each of medexp's settings that the Unsloth in this folder no longer
    reads in the file where it did."""
    roots = {"unsloth": unsloth, "unsloth_zoo": unsloth.parent / "unsloth_zoo"}

    def reads(setting: private_names.Setting) -> bool:
        file = roots[setting.library] / setting.file
        return file.exists() and setting.name in file.read_text(encoding="utf-8", errors="replace")

    return tuple(setting.absence() for setting in private_names.SETTINGS if not reads(setting))


def _import_unsloth(hardware: Hardware, cache_dir: Path) -> Any:
    for name, value in (
        _UNSLOTH_SETTINGS | {"UNSLOTH_COMPILE_LOCATION": str(cache_dir / "unsloth_compiled")}
    ).items():
        os.environ.setdefault(name, value)
    # A tile's input is a view of the norm's output, and the fused MLP may not write its gradient
    # into that. Nobody else may say so: recomputed layers that leave out their last product write
    # there.
    os.environ["UNSLOTH_RMSNORM_SAVE_OUTPUT"] = "1" if hardware.tile_mlp is True else "0"
    try:
        with capture_library_output(), gc_paused_for_import():
            return importlib.import_module("unsloth")
    except ModuleNotFoundError as error:
        raise MachineError(
            f"hardware.engine=unsloth needs the gpu extra ({error.name} is missing): "
            "pip install 'medexp[gpu]', or set hardware.engine=transformers"
        ) from error


def _silence(stack: Backend) -> None:
    stack.transformers.logging.set_verbosity_error()
    stack.transformers.logging.disable_progress_bar()
    stack.datasets.disable_progress_bars()
    for name in ("transformers", "accelerate", "peft", "trl", "unsloth"):
        logging.getLogger(name).setLevel(logging.ERROR)
