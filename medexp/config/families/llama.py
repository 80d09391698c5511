"""Llama 2 and 3, R1's distillations of them, SmolLM2: separate projections, SwiGLU, two norms."""

from medexp.config.families.decoder_family import DecoderFamily

LLAMA = DecoderFamily(is_measured=True, gguf_architecture="llama", gguf_reorders_heads=True)
