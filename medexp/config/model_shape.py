"""Is a model what its config group declares? Compared with the weights' own config.json, without
loading them; and the shape read from there for a model that declares none (`model=local`)."""

import json
from pathlib import Path
from typing import Any

from medexp.config.schema import Family, Model, Quantisation
from medexp.errors import ModelError, listing

_CONFIG_NAMES = {  # our word for a part of the shape: the word in a Hugging Face config.json
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "ffn": "intermediate_size",
    "vocab": "vocab_size",
    "tied_embeddings": "tie_word_embeddings",
}
_COUNTS = _CONFIG_NAMES.keys() - {"tied_embeddings"}


def check_shape(model: Model, config: dict[str, Any]) -> None:
    """Compare the declared shape and quantisation of `model` with the weights' own `config`.

    Raises: ModelError naming every difference.
    """
    shape = model.shape
    differences = [
        f"{ours} is {config[theirs]} there and {getattr(shape, ours)} here"
        for ours, theirs in _CONFIG_NAMES.items()
        if config.get(theirs) is not None and config[theirs] != getattr(shape, ours)
    ]
    if config.get("model_type") not in (None, shape.family.value):
        differences.append(f"family is {config['model_type']} there and {shape.family.value} here")
    method = _find_quantiser(config)
    if method and model.quantisation is Quantisation.none:
        differences.append("they are quantised there and model.quantisation=none here")
    elif method and method != Quantisation.nf4.value:
        differences.append(f"they are quantised by {method} there and model.quantisation=nf4 here")
    if differences:
        raise ModelError(
            f"the weights of model={model.name} do not have the declared shape:"
            f" {'; '.join(differences)}. Choose the model they belong to, or fix model.shape"
        )


def _find_quantiser(config: dict[str, Any]) -> str:
    """nf4 for bitsandbytes' four bits, else what the checkpoint calls its method; "" where it is
    not quantised.
    """
    found = config.get("quantization_config") or {}
    return (
        Quantisation.nf4.value
        if found.get("load_in_4bit")
        else str(found.get("quant_method") or "")
    )


def read_model_config(folder: Path) -> dict[str, Any]:
    """config.json of the Transformers checkpoint in `folder`.

    Raises: ModelError if it is not there, or is not one.
    """
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"model.path={folder} holds no config.json; give the folder of a Transformers"
            " checkpoint"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model.path={folder}: config.json cannot be read ({error}); give the folder of a whole"
            " checkpoint"
        ) from error
    if not isinstance(config, dict):
        raise ModelError(
            f"model.path={folder}: config.json holds no object; give the folder of a Transformers"
            " checkpoint"
        )
    return config


def read_shape(folder: Path) -> dict[str, object]:
    """The shape of the checkpoint in `folder`, as the values of `model.shape`.

    Raises: ModelError if its config.json is not there, lacks a part, or is of a family that plans
        are not made for.
    """
    config = read_model_config(folder)
    family, known = config.get("model_type"), [family.value for family in Family]
    if family not in known:
        raise ModelError(
            f"model.path={folder} is of family {family}; plans are made for {listing(known)}"
        )
    found = {ours: config.get(theirs) for ours, theirs in _CONFIG_NAMES.items()}
    heads, hidden = found["heads"], found["hidden"]
    # what Transformers takes where they are left out
    found["kv_heads"] = found["kv_heads"] or heads
    found["tied_embeddings"] = bool(found["tied_embeddings"])
    if found["head_dim"] is None and isinstance(hidden, int) and isinstance(heads, int) and heads:
        found["head_dim"] = hidden // heads
    wrong = [
        _CONFIG_NAMES[name]
        for name, value in found.items()
        if not isinstance(value, int) or (name in _COUNTS and value < 1)
    ]
    if wrong:
        raise ModelError(
            f"model.path={folder}: config.json gives no number for {listing(wrong)}; set"
            " model.shape by hand"
        )
    return {"family": family} | found
