"""The adapter as a folder: safetensors, adapter_config.json, what its base is, the tokenizer, and
the run that made it.

No file of it says where the base lay: PEFT is told the name that others know it by, and
`base_model.json` which weights it was.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from medexp.config.families.sizes import name_targets
from medexp.config.flatten import format_value
from medexp.config.schema import Lora, Model
from medexp.errors import ModelError, listing
from medexp.models import base_identity
from medexp.models.adapter_model import AdapterModel
from medexp.models.base_identity import BaseIdentity
from medexp.models.lora_math import find_unsupported_settings
from medexp.models.weights import Weights
from medexp.system.files import atomic_directory
from medexp.tracking.artifact_names import (
    ADAPTER_CONFIG,
    ADAPTER_RUN_CONFIG,
    ADAPTER_WEIGHTS,
    BASE_IDENTITY,
)

_AS_TRAINED = {  # PEFT's names, and what an adapter has that is older than one of them
    "lora_alpha": ("lora.alpha", 8),
    "use_rslora": ("lora.rank_stabilised", False),
    "use_dora": ("lora.dora", False),
    "bias": ("lora.bias", "none"),
}


def save_adapter(tuned: AdapterModel, folder: Path, composed_yaml: str, base: BaseIdentity) -> Path:
    """Write the adapter, trained on `base`, to `folder`, whole or not at all; one already there is
    replaced. Returns `folder`.
    """
    with atomic_directory(folder) as half_done:
        tuned.network.save_pretrained(half_done, save_embedding_layers=False)
        _record_base(half_done, base)
        tuned.tokenizer.save_pretrained(half_done)
        (half_done / ADAPTER_RUN_CONFIG).write_text(composed_yaml, encoding="utf-8")
    return folder


def _record_base(folder: Path, base: BaseIdentity) -> None:
    """In what PEFT wrote to `folder`, put the name of the base where its place was; and what it is
    beside it.
    """
    config: dict[str, Any] = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    location = str(config["base_model_name_or_path"])
    write_adapter_config(config | {"base_model_name_or_path": base.name}, folder)
    if (card := folder / "README.md").is_file():
        card.write_text(
            card.read_text(encoding="utf-8").replace(location, base.name), encoding="utf-8"
        )
    base_identity.write_identity(base, folder)


def check_adapter(
    folder: Path, lora: Lora, model: Model, weights: Weights, key: str = "lora.start_from"
) -> str | None:
    """Check that the adapter in `folder`, which `key` names, is one of this base, rank, modules and
    scale, with DoRA and biases as here; returns what should be said of the base, where it is
    another version of the one it was trained on.

    Raises: ModelError saying what it was trained on instead.
    """
    file = folder / ADAPTER_CONFIG
    if not file.is_file():
        raise ModelError(
            f"{key}={folder} holds no adapter_config.json; give the folder of a PEFT adapter"
        )
    config = json.loads(file.read_text(encoding="utf-8"))
    note = _check_base(folder, config, model, weights, key)
    targets = name_targets(model.shape.family, lora.target_modules)
    if config.get("r") != lora.r or set(config.get("target_modules") or ()) != set(targets):
        raise ModelError(
            f"the adapter in {folder} has rank {config.get('r')} on"
            f" {listing(sorted(config.get('target_modules') or ()))}; set lora.r and"
            " lora.target_modules to the same"
        )
    _check_scale(config, lora, folder, key)
    return note


def _check_base(
    folder: Path, config: Mapping[str, Any], model: Model, weights: Weights, key: str
) -> str | None:
    """Check that `weights` are those that the adapter in `folder` was trained on; returns what
    should be said of them.

    Raises: ModelError where they are others.
    """
    name, here = str(config.get("base_model_name_or_path")), base_identity.name_base(model, weights)
    # as an older medexp wrote it, and PEFT does
    if name == weights.location and not (folder / BASE_IDENTITY).is_file():
        return None
    then = read_base_identity(folder, model)
    if (then_from := then.source) and (here_from := here.source) and then_from[0] == here_from[0]:
        is_other = None not in (then_from[1], here_from[1]) and then_from != here_from
        return (
            f"the adapter was trained on {then}, and the base here is {here}" if is_other else None
        )
    here = base_identity.compute_identity(model, weights)
    if then.weights is not None and then.weights == here.weights:
        return (
            None
            if then.config == here.config
            else f"the adapter was trained on these weights with another config.json ({then})"
        )
    names = {_last_part(name) for name in (here.name, weights.location)}
    if None in (then.weights, here.weights) and _last_part(then.name) in names:
        return (
            f"the adapter was trained on {name}; whether these are the same weights"
            f" ({weights.location}) it does not say"
        )
    is_unknown = None in (then.weights, here.weights)
    reason = "is not known to be the same" if is_unknown else "holds other weights"
    raise ModelError(
        f"the adapter in {folder} was trained on {then}, and this run's base is {weights.location},"
        f" which {reason};"
        f" choose that model (model.path=FOLDER where it lies now), or another {key}"
    )


def read_base_identity(folder: Path, model: Model) -> BaseIdentity:
    """Return what the adapter in `folder`, of a run of `model`, says of its base. Of an older
    medexp, or of another maker, it has only PEFT's name of it: the folder that it lay in then, or
    its id on the Hub."""
    if (said := base_identity.read_identity(folder)) is not None:
        return said
    config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    name, revision = str(config.get("base_model_name_or_path")), config.get("revision")
    if not Path(name).is_absolute():
        return BaseIdentity(name, hub_id=name, commit=revision)
    if (Path(name) / "config.json").is_file():
        return base_identity.add_digests(BaseIdentity(name), Path(name))
    embedded, _, version = Path(name).name.rpartition("-")
    # As medexp's cache calls it.
    if model.package is not None and embedded == model.name:
        return BaseIdentity(name, package=model.package, version=version)
    return BaseIdentity(name)


def hide_path(base: BaseIdentity, model: Model) -> BaseIdentity:
    """Return `base` under a name that holds no path of this machine."""
    is_place = Path(base.name).is_absolute() or "\\" in base.name
    return replace(base, name=model.hub_id or _last_part(base.name)) if is_place else base


def _last_part(name: str) -> str:
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1]


def _check_scale(config: Mapping[str, Any], lora: Lora, folder: Path, key: str) -> None:
    """Raises: ModelError where the same weights would be another change of the base than the one
    that was trained.
    """
    ours = {
        "lora_alpha": lora.trained_alpha,
        "use_rslora": lora.rank_stabilised,
        "use_dora": lora.dora,
        "bias": lora.bias.value,
    }
    theirs = {name: config.get(name, older) for name, (_, older) in _AS_TRAINED.items()}
    if other := [
        f"{_AS_TRAINED[name][0]}={format_value(theirs[name])}"
        for name in ours
        if theirs[name] != ours[name]
    ]:
        raise ModelError(
            f"the adapter in {folder} was trained with {' '.join(other)}; set the same here, or"
            f" choose another {key}"
        )
    if found := find_unsupported_settings(config):
        raise ModelError(
            f"the adapter in {folder} has {found[0]}, which medexp does not train; choose another"
            f" {key}"
        )


def count_parameters(folder: Path) -> int | None:
    """Return how many parameters the adapter in `folder` has; None where it has no safetensors."""
    return (
        sum(map(math.prod, read_tensor_shapes(folder).values()))
        if (folder / ADAPTER_WEIGHTS).is_file()
        else None
    )


def read_tensor_shapes(folder: Path) -> dict[str, list[int]]:
    """Return the shape of every tensor of the adapter in `folder`, read from the head of its file
    alone."""
    from safetensors import safe_open

    with safe_open(folder / ADAPTER_WEIGHTS, framework="np") as opened:
        return {key: opened.get_slice(key).get_shape() for key in opened.keys()}  # noqa: SIM118


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """Return what PEFT keeps of the adapter in `folder` beside its weights.

    Raises: ModelError if the weights are not there, as after a copy that was cut off.
    """
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise ModelError(
            f"{folder} holds no {ADAPTER_WEIGHTS}; give the folder of a whole PEFT adapter"
        )
    found: dict[str, Any] = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    return found


def write_adapter_config(config: dict[str, Any], folder: Path) -> None:
    """Write `config` as PEFT reads it."""
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
