"""Qwen 2 and 2.5, R1's distillations of them: Llama with biases on queries, keys and values."""

from medexp.config.families.decoder_family import DecoderFamily

QWEN2 = DecoderFamily(is_measured=True, has_attention_biases=True, gguf_architecture="qwen2")
