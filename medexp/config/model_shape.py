"""Is a model what its config group declares? Compared with the weights' own config.json, without
loading them; and the shape read from there for a model that declares none (`model=local`,
`model=hub`)."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medexp.config.families.decoder_family import CONFIG_NAMES
from medexp.config.families.registry import FAMILIES, take_text_config
from medexp.config.schema import Family, Model, Quantisation
from medexp.errors import ModelError, listing

_COUNTS = CONFIG_NAMES.keys() - {"tied_embeddings"}
_WINDOW = "sliding_window"
# Hub's word for a layer that attends to everything.
_FULL_ATTENTION = "full_attention"


def check_shape(model: Model, config: dict[str, Any]) -> None:
    """Compare the declared shape and quantisation of `model` with the weights' own `config`.

    Raises: ModelError naming every difference.
    """
    shape, config = model.shape, take_text_config(config)
    names = dict(CONFIG_NAMES)
    if FAMILIES[shape.family].has_sliding_layers:
        names["window"] = _WINDOW
    differences = [
        f"{ours} is {config[theirs]} there and {getattr(shape, ours)} here"
        for ours, theirs in names.items()
        if config.get(theirs) is not None and config[theirs] != getattr(shape, ours)
    ]
    if config.get("model_type") not in (None, shape.family.value):
        differences.append(f"family is {config['model_type']} there and {shape.family.value} here")
    else:
        differences += _list_uncounted(shape.family, shape.layers, config)
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


def _list_uncounted(family: Family, layers: int, config: Mapping[str, Any]) -> Iterator[str]:
    """Yield what these weights have that no plan of their family counts."""
    described = FAMILIES[family]
    yield from (f"{key} is {config[key]} there" for key in described.off if config.get(key))
    every, kinds = described.full_attention_every, config.get("layer_types")
    if every and kinds and (full := kinds.count(_FULL_ATTENTION)) != layers // every:
        yield f"{full} layers attend to everything there, and {layers // every} are counted"
    quantised = config.get("quantization_config") or {}
    left = [name for name in quantised.get("llm_int8_skip_modules") or () if ".layers." in name]
    if left and not any(_is_of_images(name) for name in left):
        yield (
            f"{len(left)} parts of layers are left in 16 bits there ({left[0]}), and plans are for"
            " all of them in four: take the -bnb-4bit version without 'unsloth' in its name, or the"
            " 16-bit original"
        )


def _is_of_images(name: str) -> bool:
    return "vision" in name


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
    return derive_shape(read_model_config(folder), f"model.path={folder}")


def derive_shape(whole: Mapping[str, Any], place: str) -> dict[str, object]:
    """The shape of the decoder that this config.json is of, as the values of `model.shape`; of a
    model of text and images its part for text. `place` says where it was found.

    Raises: ModelError if it lacks a part, or is of a family that plans are not made for.
    """
    config = take_text_config(whole)
    name, known = config.get("model_type"), [family.value for family in Family]
    if name not in known:
        raise ModelError(f"{place} is of family {name}; plans are made for {listing(known)}")
    family = Family(name)
    described = FAMILIES[family]
    left_out = described.left_out
    found = {
        ours: left_out.get(ours) if config.get(theirs) is None else config[theirs]
        for ours, theirs in CONFIG_NAMES.items()
    }
    heads, hidden = found["heads"], found["hidden"]
    # what Transformers takes where they are left out
    found["kv_heads"] = found["kv_heads"] or heads
    found["tied_embeddings"] = bool(found["tied_embeddings"])
    if found["head_dim"] is None and isinstance(hidden, int) and isinstance(heads, int) and heads:
        found["head_dim"] = hidden // heads
    wrong = [
        CONFIG_NAMES[ours]
        for ours, value in found.items()
        if not isinstance(value, int) or (ours in _COUNTS and value < 1)
    ]
    if wrong:
        raise ModelError(
            f"{place}: config.json gives no number for {listing(wrong)}; set model.shape by hand"
        )
    if uncounted := list(_list_uncounted(family, int(found["layers"] or 0), config)):
        raise ModelError(
            f"{place} cannot be planned: {'; '.join(uncounted)}. Choose another model of family"
            f" {name}"
        )
    window = config.get(_WINDOW, left_out.get("window")) if described.has_sliding_layers else None
    return {"family": name} | found | {"window": window}
