"""llama.cpp's quantizer, for the types that the package `gguf` cannot write: from llama-cpp-python
or a build of llama.cpp.

It runs as a process of its own, so that Ctrl-C ends it and its messages stay off the screen.
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


def find_quantizer(gguf_type: GgufType, llama_cpp: str | None) -> tuple[str, ...]:
    """Return the command that quantises.

    It is that of `llama_cpp` (export.llama_cpp), else of the package llama-cpp-python, else a
    program on PATH.

    Raises: MachineError saying what is missing and how to get it.
    """
    if llama_cpp is not None:
        return (_find_in_folder(expand_home(llama_cpp)),)
    if importlib.util.find_spec("llama_cpp") is not None:
        return (sys.executable, "-c", _IN_PACKAGE)
    program = shutil.which(_PROGRAM)
    if program is not None:
        return (program,)
    raise MachineError(
        f"export.quantisation={gguf_type.value} needs llama.cpp's quantiser, which is not here: pip"
        " install 'medexp[llama-cpp]' (built from source with a C++ compiler, some minutes), or"
        " set export.llama_cpp=FOLDER where llama.cpp was built. f16, bf16 and q8_0 need neither"
    )


def _find_in_folder(path: Path) -> str:
    """Return the quantizer's program in a build of llama.cpp, or `path` where that is a program."""
    if path.is_file():
        return str(path.resolve())
    candidates = [path / folder / _PROGRAM for folder in ("", "bin", "build/bin")]
    program = next((candidate for candidate in candidates if candidate.is_file()), None)
    if program is None:
        raise MachineError(
            f"export.llama_cpp={path} holds no {_PROGRAM} (looked in it, bin and build/bin); build"
            f" llama.cpp there (cmake -B build && cmake --build build --target {_PROGRAM}), or give"
            " the program itself"
        )
    return str(program.resolve())


def quantize(
    command: tuple[str, ...],
    source: Path,
    target: Path,
    gguf_type: GgufType,
    advance: Callable[[int], None],
) -> None:
    """Write `target` from the GGUF `source`; `advance` is called with the number of new tensors.

    Raises: MachineError with the quantizer's last lines if it fails.
    """
    lines: list[str] = []
    tensors_done = 0
    arguments = [*command, str(source), str(target), gguf_type.name.upper()]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        try:
            for line in process.stdout or ():
                lines.append(line.strip())
                if progress := _PROGRESS.search(line):
                    advance(int(progress[1]) - tensors_done)
                    tensors_done = int(progress[1])
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise MachineError(
            f"llama.cpp's quantiser ended with {process.returncode}:"
            f" {' '.join(filter(None, lines[-3:]))}"
        )
