"""Qwen3's dense models: heads of a width of their own, each normalised, and no biases.

Source: transformers.models.qwen3.
"""

from medexp.config.families.decoder_family import DecoderFamily

QWEN3 = DecoderFamily(
    is_measured=True,
    left_out={"head_dim": 128, "kv_heads": 32, "tied_embeddings": False},
    off=("attention_bias", "use_sliding_window"),
    norms_each_head=True,
    gguf_architecture="qwen3",
)
