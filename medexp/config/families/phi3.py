"""Phi-3 and Phi-4-mini: Llama with one matrix for queries, keys and values, and one for gate and
up; Phi-4-mini turns three quarters of a head by its place (no memory depends on that).

Unsloth has no kernels of its own for fused projections, and PEFT's are compiled.
Source: transformers.models.phi3.
"""

from medexp.config.families.decoder_family import DecoderFamily, FusedProjection

PHI3 = DecoderFamily(
    is_measured=True,
    fused=(
        FusedProjection("qkv_proj", ("q_proj", "k_proj", "v_proj")),
        FusedProjection("gate_up_proj", ("gate_proj", "up_proj")),
    ),
    off=("attention_bias",),
    has_sliding_layers=True,
    runs_fused_kernels=False,
)
