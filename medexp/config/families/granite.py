"""IBM's dense Granite 3: Llama with constants that scale embedding, attention, residuals and
logits. Unsloth has its kernels for it switched off, and PEFT's are compiled.

Source: transformers.models.granite; unsloth.models.loader.
"""

from medexp.config.families.decoder_family import DecoderFamily

GRANITE = DecoderFamily(off=("attention_bias", "mlp_bias"), runs_fused_kernels=False)
