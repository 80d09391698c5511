"""A checkpoint of random weights with the widths of a model and a few of its layers: what a
training step takes beside the weights depends on neither their values nor their number.

    # in a process of its own: Transformers is imported here without Unsloth
    write_random_decoder(shorten(config.model.shape), config.hardware, folder)
    tuned = load_model(run, Weights(str(folder), None), load_tokenizer(...), stack)
"""

import json
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from medexp.config.families.decoder_family import CONFIG_NAMES
from medexp.config.families.registry import describe_family
from medexp.config.schema import Family, Hardware, ModelShape
from medexp.models.backend import load_transformers

# With fewer, Unsloth has nothing left to prefetch.
LEAST_LAYERS = 4
POSITIONS = 131_072
# Weights lie between - and + this, whose standard deviation is 0.02.
WIDTH = 0.035
# As Phi-4-mini has it; Phi-3-mini rotates whole heads.
_ROTATED_SHARE = 0.75
_SPECIAL = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


def shorten(shape: ModelShape) -> ModelShape:
    """Return `shape` with as few layers as show every kind of them."""
    kinds = describe_family(shape).full_attention_every or 1
    return replace(shape, layers=min(shape.layers, max(LEAST_LAYERS, kinds)))


def build_config(shape: ModelShape, transformers: Any) -> Any:
    """Return the configuration of the module `transformers` for `shape`."""
    values = {theirs: getattr(shape, ours) for ours, theirs in CONFIG_NAMES.items()}
    if describe_family(shape).has_sliding_layers:
        values["sliding_window"] = shape.window
    if shape.family is Family.phi3:
        values["partial_rotary_factor"] = _ROTATED_SHARE
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
    return transformers.AutoConfig.for_model(
        shape.family.value,
        **values,
        **tokens,
        max_position_embeddings=POSITIONS,
        dtype="bfloat16",
    )


def write_random_decoder(shape: ModelShape, hardware: Hardware, folder: Path) -> None:
    """Write a checkpoint of `shape` in bfloat16 to `folder`, a file a layer, and a tokenizer whose
    tokens are bytes."""
    import torch
    from safetensors.torch import save_file

    transformers = load_transformers(hardware).transformers
    config = build_config(shape, transformers)
    with torch.device("meta"):
        network = transformers.AutoModelForCausalLM.from_config(config)
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    make_byte_tokenizer(transformers).save_pretrained(folder)
    generator = torch.Generator().manual_seed(0)

    def make(tensor: Any) -> Any:
        made = torch.ones(tensor.shape, dtype=torch.bfloat16)
        # Uniform numbers are made sooner than normal ones.
        return made if made.dim() == 1 else made.uniform_(-WIDTH, WIDTH, generator=generator)

    # Tied weights are stored once.
    names = [name for name, _ in network.named_parameters()]
    tensors = network.state_dict()
    files: dict[str, str] = {}
    for place, (_, group) in enumerate(groupby(names, key=_name_layer)):
        file = f"model-{place:05}.safetensors"
        made = {name: make(tensors[name]) for name in group}
        save_file(made, folder / file, metadata={"format": "pt"})
        files |= dict.fromkeys(made, file)
    index = {"metadata": {}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _name_layer(parameter: str) -> str:
    """Return which layer a parameter is of; "" for those of none."""
    parts = parameter.split(".")
    return next((part for part in parts if part.isdecimal()), "")


def make_byte_tokenizer(transformers: Any) -> Any:
    """Return a tokenizer whose tokens are bytes, and four special ones, of the module
    `transformers`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate((*_SPECIAL.values(), *alphabet))}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=_SPECIAL["unk_token"]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, model_max_length=POSITIONS, **_SPECIAL
    )
