"""Decoders of every family as Transformers builds them: of a preset's exact shape, or small."""

from pathlib import Path
from typing import Any

from helpers.commands import TOKENS, keep_first
from medexp.config.families.decoder_family import CONFIG_NAMES
from medexp.config.families.registry import FAMILIES
from medexp.config.schema import Family, ModelShape

# The width of a head follows from the model's there.
WITHOUT_HEAD_DIM = (Family.phi3, Family.granite, Family.olmo2, Family.smollm3, Family.qwen2)
# Of which every sixth layer attends to everything: seven layers have one of these.
LAYERS = {Family.gemma3_text: 7}


def make_config(shape: ModelShape, **more: Any) -> Any:
    """The configuration of Transformers for `shape`."""
    from transformers import AutoConfig

    values = {theirs: getattr(shape, ours) for ours, theirs in CONFIG_NAMES.items()}
    if FAMILIES[shape.family].has_sliding_layers:
        values["sliding_window"] = shape.window
    if shape.family in WITHOUT_HEAD_DIM:
        del values["head_dim"]
    if shape.family is Family.phi3:
        more = {"partial_rotary_factor": 0.75, **more}
    return AutoConfig.for_model(shape.family.value, **values, **more)


def make_tiny_shape(family: Family) -> ModelShape:
    """A small shape, whose heads have a width of their own where the family allows that, and whose
    window is shorter than a case."""
    return ModelShape(
        family=family,
        layers=LAYERS.get(family, 2),
        hidden=64,
        heads=4,
        kv_heads=2,
        head_dim=16 if family in WITHOUT_HEAD_DIM else 32,
        ffn=128,
        vocab=TOKENS,
        tied_embeddings=family in (Family.gemma3_text, Family.phi3, Family.smollm3),
        window=64 if FAMILIES[family].has_sliding_layers else None,
    )


def make_tiny_config(family: Family) -> Any:
    """The configuration of a small decoder, with the control tokens of the embedded tokenizer."""
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    return make_config(make_tiny_shape(family), max_position_embeddings=4096, **special)


def write_tiny_family(folder: Path, tokenizer: Any, network: Any) -> Path:
    """Write `network` to `folder`, with the first tokens of `tokenizer`."""
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    keep_first(TOKENS, folder / "tokenizer.json")
    return folder


def make_network(config: Any, seed: int = 0) -> Any:
    """A decoder with random weights."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config)
