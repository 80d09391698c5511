"""OLMo 2: norms after attention and MLP instead of before them, and queries and keys normalised
over all heads at once. Unsloth has no kernels of its own for it, and PEFT's are compiled.

Source: transformers.models.olmo2.
"""

from medexp.config.families.decoder_family import DecoderFamily

OLMO2 = DecoderFamily(off=("attention_bias",), norms_all_heads=True, runs_fused_kernels=False)
