"""llama.cpp's quantiser, for what the package `gguf` cannot write: from llama-cpp-python, or a
build of llama.cpp.

Runs as a process of its own, so that Ctrl-C ends it, and its messages stay off the screen.
"""

import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from medexp.config.command_options import GgufType
from medexp.errors import MachineError
from medexp.system.home import expand_home

_PROGRAM = "llama-quantize"
_IN_PACKAGE = """
import sys, llama_cpp
source, target, kind = sys.argv[1:]
settings = llama_cpp.llama_model_quantize_default_params()
settings.ftype = getattr(llama_cpp, "LLAMA_FTYPE_MOSTLY_" + kind)
sys.exit(llama_cpp.llama_model_quantize(source.encode(), target.encode(), settings))
"""
_PROGRESS = re.compile(r"\[\s*(\d+)/\s*\d+\]")


def find_quantizer(kind: GgufType, given: str | None) -> tuple[str, ...]:
    """The command that quantises: `given` (export.llama_cpp), else the package llama-cpp-python,
    else a program on PATH.

    Raises: MachineError saying what is missing and how to get it.
    """
    if given is not None:
        return (_find_in_folder(expand_home(given)),)
    if importlib.util.find_spec("llama_cpp") is not None:
        return (sys.executable, "-c", _IN_PACKAGE)
    found = shutil.which(_PROGRAM)
    if found is not None:
        return (found,)
    raise MachineError(
        f"export.quantisation={kind.value} needs llama.cpp's quantiser, which is not here: pip"
        " install 'medexp[llama-cpp]' (built from source with a C++ compiler, some minutes), or"
        " set export.llama_cpp=FOLDER where llama.cpp was built. f16, bf16 and q8_0 need neither"
    )


def _find_in_folder(place: Path) -> str:
    tried = (
        [place]
        if place.is_file()
        else [place / inside / _PROGRAM for inside in ("", "bin", "build/bin")]
    )
    found = next((candidate for candidate in tried if candidate.is_file()), None)
    if found is None:
        raise MachineError(
            f"export.llama_cpp={place} holds no {_PROGRAM} (looked in it, bin and build/bin); build"
            f" llama.cpp there (cmake -B build && cmake --build build --target {_PROGRAM}), or give"
            " the program itself"
        )
    return str(found.resolve())


def quantize(
    command: tuple[str, ...],
    source: Path,
    target: Path,
    kind: GgufType,
    advance: Callable[[int], None],
) -> None:
    """Write `target` from the GGUF `source`; `advance` is told of every tensor.

    Raises: MachineError with the quantiser's last words if it fails.
    """
    words, done = [], 0
    whole = [*command, str(source), str(target), kind.name.upper()]
    with subprocess.Popen(
        whole, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        try:
            for line in process.stdout or ():
                words.append(line.strip())
                if place := _PROGRESS.search(line):
                    advance(int(place[1]) - done)
                    done = int(place[1])
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise MachineError(
            f"llama.cpp's quantiser ended with {process.returncode}:"
            f" {' '.join(filter(None, words[-3:]))}"
        )
