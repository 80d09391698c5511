"""Every family by its name in a config.json, and how it is found from there."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from medexp.config.families.decoder_family import DecoderFamily, TextPart
from medexp.config.families.gemma3_text import GEMMA3_TEXT
from medexp.config.families.granite import GRANITE
from medexp.config.families.llama import LLAMA
from medexp.config.families.mistral import MISTRAL
from medexp.config.families.olmo2 import OLMO2
from medexp.config.families.phi3 import PHI3
from medexp.config.families.qwen2 import QWEN2
from medexp.config.families.qwen3 import QWEN3
from medexp.config.families.smollm3 import SMOLLM3
from medexp.config.schema import Family, ModelShape

FAMILIES: Mapping[Family, DecoderFamily] = MappingProxyType(
    {
        Family.llama: LLAMA,
        Family.qwen2: QWEN2,
        Family.qwen3: QWEN3,
        Family.gemma3_text: GEMMA3_TEXT,
        Family.mistral: MISTRAL,
        Family.phi3: PHI3,
        Family.granite: GRANITE,
        Family.olmo2: OLMO2,
        Family.smollm3: SMOLLM3,
    }
)
_TEXT_PARTS = {
    family.text_part.model_type: family.text_part
    for family in FAMILIES.values()
    if family.text_part is not None
}


def describe_family(shape: ModelShape) -> DecoderFamily:
    """Return how decoders of this shape's family are built."""
    return FAMILIES[shape.family]


def find_text_part(config: Mapping[str, Any]) -> TextPart | None:
    """Return where a model of text and images, whose decoder is trained alone, keeps it; None where
    this config.json is of a decoder."""
    return _TEXT_PARTS.get(str(config.get("model_type")))


def take_text_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a config.json says of the decoder: all of it, or its part for text, with how its
    weights are quantised and whether it ties its embedding, which stand beside that part."""
    if find_text_part(config) is None:
        return dict(config)
    beside = {
        key: config[key] for key in ("quantization_config", "tie_word_embeddings") if key in config
    }
    return beside | dict(config.get("text_config") or {})
