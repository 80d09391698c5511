"""A base model's safetensors files, read a tensor at a time: no file is in memory as a whole, and
no network is built.

NF4 weights are dequantised by bitsandbytes itself, on the CPU, one matrix after the other. Other
quantisations are refused.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from medexp.config.families.registry import find_text_part, take_text_config
from medexp.errors import ModelError

_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
_NF4 = ".quant_state.bitsandbytes__nf4"
_NF4_SUFFIXES = (".absmax", ".nested_absmax", ".nested_quant_map", ".quant_map", _NF4)


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of the model: its name, its shape in the network, and the file that holds it, in a
    model of text and images under another name.

    NF4 weights are stored in another shape, two numbers to a byte.
    """

    name: str
    stored_as: str
    shape: tuple[int, ...]
    file: Path
    is_nf4: bool = False

    @property
    def num_elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


class BaseCheckpoint:
    """The weights in `folder`. `load_bitsandbytes` is called where they are NF4.

    Raises: ModelError if there are no safetensors files, or they are quantised otherwise.
    """

    def __init__(self, folder: Path, load_bitsandbytes: Callable[[], Any]):
        self.folder = folder
        self._load_bitsandbytes = load_bitsandbytes
        self.config: dict[str, Any] = json.loads(
            (folder / "config.json").read_text(encoding="utf-8")
        )
        self._text_part = find_text_part(self.config)
        if self._text_part is not None:
            # A decoder of its own is exported, with its own config.json.
            self.config = take_text_config(self.config)
            self.config["architectures"] = [self._text_part.architecture]
        if (
            self.config.get("quantization_config", {}).get("quant_method", "bitsandbytes")
            != "bitsandbytes"
        ):
            raise ModelError(
                f"the weights in {folder} are quantised in a way that is not read here; NF4 is"
            )
        self.tensors = self._index_tensors()

    @property
    def is_tied(self) -> bool:
        """Is the output head the same matrix as the embedding?"""
        return bool(self.config.get("tie_word_embeddings"))

    def load_tensor(self, name: str) -> Any:
        """Return tensor `name` on the CPU, as it is stored.

        An NF4 tensor is returned in the format that it was quantised from.
        """
        from safetensors import safe_open

        info = self.tensors[name]
        # Opened for every tensor, because closing the file gives its mapped pages back.
        with safe_open(info.file, framework="pt") as file:
            whole_name = info.stored_as
            stored = file.get_tensor(whole_name)
            if not info.is_nf4:
                return stored
            keys = [
                key
                for key in file.keys()  # noqa: SIM118
                if key.startswith(f"{whole_name}.") and key.endswith(_NF4_SUFFIXES)
            ]
            return self._dequantise(
                stored, {key.removeprefix(f"{whole_name}."): file.get_tensor(key) for key in keys}
            )

    def _dequantise(self, stored: Any, quant_state: dict[str, Any]) -> Any:
        functional = self._load_bitsandbytes().functional
        state = functional.QuantState.from_dict(quant_state, device="cpu")
        return functional.dequantize_4bit(stored, state)

    def _index_tensors(self) -> Mapping[str, TensorInfo]:
        from safetensors import safe_open

        tensors: dict[str, TensorInfo] = {}
        for path in self._files:
            with safe_open(path, framework="np") as file:
                keys = set(file.keys())
                for stored in sorted(keys):
                    name = self._name_in_decoder(stored)
                    if name is None or stored.endswith(_NF4_SUFFIXES):
                        continue
                    is_nf4 = f"{stored}{_NF4}" in keys
                    shape = (
                        json.loads(bytes(file.get_tensor(stored + _NF4)))["shape"]
                        if is_nf4
                        else file.get_slice(stored).get_shape()
                    )
                    tensors[name] = TensorInfo(name, stored, tuple(shape), path, is_nf4)
        if self.is_tied:
            # Some checkpoints store the shared matrix a second time.
            tensors.pop("lm_head.weight", None)
        return tensors

    def _name_in_decoder(self, stored: str) -> str | None:
        """Return the name of a stored tensor, None where it is no part of the decoder."""
        return stored if self._text_part is None else self._text_part.name_in_decoder(stored)

    @cached_property
    def _files(self) -> list[Path]:
        index = self.folder / _INDEX
        names = (
            set(json.loads(index.read_text())["weight_map"].values())
            if index.is_file()
            else {_SINGLE}
        )
        files = [self.folder / name for name in sorted(names)]
        if missing := [file.name for file in files if not file.is_file()]:
            raise ModelError(
                f"{self.folder} has no {', '.join(missing)}; only safetensors checkpoints are"
                " exported"
            )
        return files
