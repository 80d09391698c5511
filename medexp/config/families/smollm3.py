"""SmolLM3: Llama, whose every fourth layer does not turn heads by their place. Unsloth has no
kernels of its own for it, and PEFT's are compiled.

Source: transformers.models.smollm3.
"""

from medexp.config.families.decoder_family import DecoderFamily

SMOLLM3 = DecoderFamily(
    left_out={"kv_heads": 4, "vocab": 128_256, "tied_embeddings": True},
    off=("attention_bias", "mlp_bias", "use_sliding_window"),
    runs_fused_kernels=False,
)
