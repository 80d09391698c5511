"""What a base model is, wherever it lies: its Hub id and commit, its package and version, and a
digest of its weights.

The digest reads the head of every safetensors file and three blocks of each tensor, so it depends
neither on names of files nor on how they are split. Weights that were trained, merged or quantised
again differ in every tensor that was touched.
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, BinaryIO

from medexp.config.schema import Model
from medexp.errors import ModelError
from medexp.models.weights import Weights
from medexp.system import hub
from medexp.tracking.artifact_names import BASE_IDENTITY

_BLOCK_BYTES = 4096
_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
# and what begins with _
_OF_NO_EFFECT = ("transformers_version", "torch_dtype", "dtype", "architectures", "use_cache")


@dataclass(frozen=True)
class BaseIdentity:
    """`name` is what others call it, without a path. `weights` and `config` are digests, None where
    there is nothing to read yet: the embedded model before it was converted."""

    name: str
    hub_id: str | None = None
    commit: str | None = None
    package: str | None = None
    version: str | None = None
    weights: str | None = None
    config: str | None = None

    @property
    def source(self) -> tuple[str, str | None] | None:
        """Where everybody can get it, and in which version; None of a folder."""
        if self.package is not None:
            return self.package, self.version
        return (self.hub_id, self.commit) if self.hub_id is not None else None

    def __str__(self) -> str:
        return " ".join(filter(None, self.source)) if self.source else self.name


def name_base(model: Model, weights: Weights) -> BaseIdentity:
    """Return what the base of `model` is called, which was found as `weights`; none of its files is
    read.
    """
    name = model.hub_id or Path(weights.location).name
    if model.path is not None:
        return BaseIdentity(name)
    if model.package is not None:
        return BaseIdentity(
            name, package=model.package, version=(weights.commit or "").partition("==")[2] or None
        )
    return BaseIdentity(name, hub_id=model.hub_id, commit=weights.commit)


def compute_identity(model: Model, weights: Weights) -> BaseIdentity:
    """Return what the base of `model` is, which was found as `weights`, with the digests of its
    files.
    """
    folder = find_checkpoint_folder(weights)
    return (
        add_digests(name_base(model, weights), folder)
        if folder is not None
        else name_base(model, weights)
    )


def add_digests(identity: BaseIdentity, folder: Path) -> BaseIdentity:
    """Return `identity` with the digests of the checkpoint in `folder`."""
    return replace(
        identity, weights=compute_weights_digest(folder), config=compute_config_digest(folder)
    )


def find_checkpoint_folder(weights: Weights) -> Path | None:
    """Return the folder that holds the files of `weights`; None where they are still to be
    converted or downloaded.
    """
    if Path(weights.location).is_absolute():
        return Path(weights.location) if weights.gguf is None else None
    try:
        return hub.find_downloaded(weights.location, weights.commit)
    except hub.HubError:
        return None


def write_identity(identity: BaseIdentity, folder: Path) -> None:
    """Write `identity` beside the adapter in `folder`."""
    (folder / BASE_IDENTITY).write_text(
        json.dumps(asdict(identity), indent=2) + "\n", encoding="utf-8"
    )


def read_identity(folder: Path) -> BaseIdentity | None:
    """Return the identity beside the adapter in `folder`; None of an adapter of another maker, or
    an older medexp.

    Raises: ModelError if it cannot be read.
    """
    file = folder / BASE_IDENTITY
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        known = {field.name for field in fields(BaseIdentity)}
        return BaseIdentity(**{name: value for name, value in found.items() if name in known})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{file} cannot be read ({error}); give the folder of a whole adapter, or remove that"
            " file"
        ) from error


def compute_config_digest(folder: Path) -> str:
    """Return the digest of what config.json in `folder` says of the computation."""
    config: Mapping[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kept = {
        name: value
        for name, value in config.items()
        if name not in _OF_NO_EFFECT and not name.startswith("_")
    }
    return _digest(kept)


def compute_weights_digest(folder: Path) -> str | None:
    """Return the digest of the weights in `folder`: name, type, shape and three blocks of every
    tensor; None if there are none.

    Costs one read of 12 KiB a tensor: milliseconds for a small model, under a second for one of 8B
    on a solid-state disk.
    Raises: ModelError if a file of them is missing or broken.
    """
    tensors: dict[str, str] = {}
    for file in _list_weight_files(folder):
        try:
            with file.open("rb") as opened:
                tensors |= (
                    _digest_tensors(opened)
                    if file.suffix == ".safetensors"
                    else {file.name: _digest_blocks(opened, 0, file.stat().st_size)}
                )
        except (OSError, ValueError, KeyError, struct.error) as error:
            raise ModelError(
                f"{file} cannot be read ({error}); give the folder of a whole checkpoint"
            ) from error
    return _digest(sorted(tensors.items())) if tensors else None


def _list_weight_files(folder: Path) -> list[Path]:
    """Return the files that Transformers would load the weights from."""
    if (index := folder / _INDEX).is_file():
        return [
            folder / name
            for name in sorted(
                set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            )
        ]
    if (single := folder / _SINGLE).is_file():
        return [single]
    return sorted(folder.glob("pytorch_model*.bin"))


def _digest_tensors(file: BinaryIO) -> dict[str, str]:
    """Return a digest of every tensor of a safetensors file: eight bytes with the length of its
    head, the head in JSON, the tensors."""
    (length,) = struct.unpack("<Q", file.read(8))
    head: dict[str, Any] = json.loads(file.read(length))
    found = {}
    for name, about in head.items():
        if name != "__metadata__":
            begin, end = about["data_offsets"]
            found[name] = _digest(
                [
                    about["dtype"],
                    about["shape"],
                    _digest_blocks(file, 8 + length + begin, end - begin),
                ]
            )
    return found


def _digest_blocks(file: BinaryIO, start: int, size: int) -> str:
    """Return a digest of `size` bytes from `start`: of the first, the middle and the last block."""
    digest = hashlib.sha256(str(size).encode())
    for offset in sorted({0, max(0, size // 2 - _BLOCK_BYTES // 2), max(0, size - _BLOCK_BYTES)}):
        file.seek(start + offset)
        digest.update(file.read(min(_BLOCK_BYTES, size - offset)))
    return digest.hexdigest()


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
