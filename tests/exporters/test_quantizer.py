"""llama.cpp's quantiser: found, or said to be missing; its failure told. Here a program stands in
that takes the same words.
"""

import stat
from pathlib import Path

import pytest

from medexp.config.command_options import GgufType
from medexp.errors import MachineError
from medexp.exporters import quantizer


def _program(folder: Path, script: str) -> Path:
    file = folder / "llama-quantize"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return file


def test_nothing_there_is_said_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(
        MachineError,
        match=(
            r"q4_k_m needs llama.cpp's quantiser.*pip install"
            r" 'medexp\[llama-cpp\]'.*export.llama_cpp"
        ),
    ):
        quantizer.find_quantizer(GgufType.q4_k_m, None)
    with pytest.raises(
        MachineError, match=r"holds no llama-quantize \(looked in it, bin and build/bin\)"
    ):
        quantizer.find_quantizer(GgufType.q4_k_m, str(tmp_path))


def test_a_build_is_found_and_its_progress_told(tmp_path: Path) -> None:
    program = _program(
        tmp_path / "build/bin", 'echo "[   1/   3] a"; echo "[   3/   3] c" >&2; echo "$3" > "$2"'
    )
    command = quantizer.find_quantizer(GgufType.q4_k_m, str(tmp_path))
    assert command == quantizer.find_quantizer(GgufType.q4_k_m, str(program)) == (str(program),)
    told: list[int] = []
    quantizer.quantize(
        command, tmp_path / "in.gguf", tmp_path / "out.gguf", GgufType.q4_k_m, told.append
    )
    assert (tmp_path / "out.gguf").read_text() == "Q4_K_M\n"
    assert told == [1, 2]


def test_a_failure_is_told_in_its_own_words(tmp_path: Path) -> None:
    command = (str(_program(tmp_path, 'echo "main: failed to quantize"; exit 1')),)
    with pytest.raises(MachineError, match="ended with 1: main: failed to quantize"):
        quantizer.quantize(
            command, tmp_path / "in.gguf", tmp_path / "out.gguf", GgufType.q2_k, lambda _: None
        )
