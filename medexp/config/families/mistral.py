"""Mistral 7B and its kin: Llama, in its first version with a window of 4,096 tokens in every layer.

Source: transformers.models.mistral.
"""

from medexp.config.families.decoder_family import DecoderFamily

MISTRAL = DecoderFamily(
    is_measured=True,
    left_out={"kv_heads": 8, "window": 4096, "tied_embeddings": False},
    has_sliding_layers=True,
    gguf_architecture="llama",
    gguf_reorders_heads=True,
)
