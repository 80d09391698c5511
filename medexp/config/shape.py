"""Is a model what its config group declares? Compared with the weights' own config.json, without loading them."""

from typing import Any

from medexp.config.schema import Model, Quantisation
from medexp.errors import ModelError

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
    if "quantization_config" in config and model.quantisation is Quantisation.none:
        differences.append("they are quantised there and model.quantisation=none here")
    if differences:
        raise ModelError(
            f"the weights of model={model.name} do not have the declared shape: {'; '.join(differences)}. "
            "Choose the model they belong to, or fix model.shape"
        )
