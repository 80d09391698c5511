"""Gemma 3 and MedGemma, their part for text: GeGLU, four norms a layer, normalised heads, five
sliding layers to one that attends to everything, a tied vocabulary of 262,208.

The models from 4B on also see; their decoder is trained alone, and nothing else of them is loaded.
Unsloth has no kernels of its own for it, and PEFT's are compiled. In float16 its activations
overflow, and Unsloth would compute in float32.
Source: transformers.models.gemma3; FORCE_FLOAT32 of unsloth.models.loader.
"""

from medexp.config.families.decoder_family import DecoderFamily, TextPart

GEMMA3_TEXT = DecoderFamily(
    is_measured=True,
    left_out={
        "heads": 8,
        "kv_heads": 4,
        "head_dim": 256,
        "vocab": 262_208,
        "window": 4096,
        "tied_embeddings": True,
    },
    off=(
        "attention_bias",
        "use_bidirectional_attention",
        "final_logit_softcapping",
        "attn_logit_softcapping",
    ),
    text_part=TextPart(
        "gemma3",
        "Gemma3ForCausalLM",
        {
            "language_model.model.": "model.",
            "model.language_model.": "model.",
            "language_model.lm_head.": "lm_head.",
        },
    ),
    wide_norms=4,
    norms_each_head=True,
    has_sliding_layers=True,
    full_attention_every=6,
    runs_fused_kernels=False,
    fits_float16=False,
)
