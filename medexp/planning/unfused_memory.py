"""What DoRA, trained biases, and families without fused kernels in Unsloth take on a card: more is
kept for the backward pass.

PEFT's DoRA also makes the adapter's whole product of each projection from an identity matrix, in
float32 and anew in every pass (peft.tuners.lora.dora); in compiled layers the matrix is never made.
Fitted on 17 points (benchmarks/vram, grid_unfused.json).
"""

from medexp.config.families.registry import describe_family
from medexp.config.families.sizes import count_beside_llama, is_on_mlp
from medexp.config.schema import Bias, Engine, RunConfig
from medexp.planning.memory_terms import list_trained_sizes
from medexp.system.units import MIB

# Compiled layers, bytes reserved in a step: 12 points with DoRA, between -1.0 and +1.8 % of the
# whole, and 5 with trained biases, between -0.3 and +3.0 %. An MLP without an adapter is as it is
# without DoRA.
DORA_PER_HIDDEN, DORA_PER_FFN, DORA_PER_WEIGHT, DORA_FIXED = 31.4, 18.1, 9.12, 135 * MIB
BIAS_PER_HIDDEN, BIAS_PER_FFN, BIAS_FIXED = 14.2, 7.6, 102 * MIB
DORA_PER_FFN_BESIDE, FORWARD_PER_FFN_BESIDE = 4.1, 3
# Layers that are not compiled: cautious, one point took 11 % less than this says. PEFT saves more
# of a projection.
EAGER_FACTOR = 2.5
# A pass without gradients, bytes allocated: the product of the largest projection, or the
# activations; to 4 % on 12 points.
IDENTITY, PRODUCT, PRODUCT_PER_INPUT, PRODUCT_FIXED = 4, 8, 9, 24 * MIB
FORWARD_PER_WEIGHT, FORWARD_PER_HIDDEN, FORWARD_PER_FFN = 8.7, 11, 10
# What the allocator reserves on top.
FORWARD_FACTOR, FORWARD_SLACK = 1.1, 100 * MIB


def is_fused(config: RunConfig) -> bool:
    """Return whether the adapter's products run in Unsloth's own kernels."""
    is_plain = not config.lora.dora and config.lora.bias is Bias.none
    return is_plain and describe_family(config.model.shape).runs_fused_kernels


def can_stream(config: RunConfig) -> bool:
    """Return whether layers can wait on the host: not with DoRA, whose magnitudes are made of
    weights on the card (a CUDA error in PEFT), nor where biases of a streamed layer would be
    trained."""
    trains_its_biases = (
        describe_family(config.model.shape).has_attention_biases
        and config.lora.bias is not Bias.none
    )
    return (
        config.hardware.engine is Engine.unsloth and not config.lora.dora and not trains_its_biases
    )


def compiled_step_bytes(config: RunConfig, tokens: int) -> tuple[int, int]:
    """Return the bytes of a step of `tokens` in compiled layers: what grows with the tokens, and
    all that is reserved."""
    shape = config.model.shape
    if not config.lora.dora:
        per_token = BIAS_PER_HIDDEN * shape.hidden + BIAS_PER_FFN * shape.ffn
        slope = int(2 * tokens * (per_token + count_beside_llama(shape)))
        return slope, slope + BIAS_FIXED
    per_ffn = DORA_PER_FFN if is_in_mlp(config) else DORA_PER_FFN_BESIDE
    per_token = DORA_PER_HIDDEN * shape.hidden + per_ffn * shape.ffn
    slope = int(2 * tokens * (per_token + count_beside_llama(shape)))
    return slope, slope + int(DORA_PER_WEIGHT * _find_largest_weight(config)) + DORA_FIXED


def product_bytes(config: RunConfig, tokens: int) -> int:
    """Return the bytes of DoRA's largest product, made for a pass over `tokens` in layers that are
    not compiled; 0 without DoRA."""
    if not config.lora.dora:
        return 0
    takes = (
        inputs * (IDENTITY * inputs + PRODUCT * outputs + PRODUCT_PER_INPUT * tokens)
        for inputs, outputs in list_trained_sizes(config)
    )
    return max(takes) + PRODUCT_FIXED


def forward_bytes(config: RunConfig, tokens: int) -> int:
    """Return the bytes allocated in a pass of DoRA over `tokens` without gradients."""
    shape = config.model.shape
    per_ffn = FORWARD_PER_FFN if is_in_mlp(config) else FORWARD_PER_FFN_BESIDE
    activations = 2 * tokens * (FORWARD_PER_HIDDEN * shape.hidden + per_ffn * shape.ffn)
    return max(
        product_bytes(config, tokens),
        int(FORWARD_PER_WEIGHT * _find_largest_weight(config)) + activations,
    )


def _find_largest_weight(config: RunConfig) -> int:
    return max(inputs * outputs for inputs, outputs in list_trained_sizes(config))


def is_in_mlp(config: RunConfig) -> bool:
    """Return whether any projection of the MLP has an adapter."""
    return is_on_mlp(config.model.shape.family, config.lora.target_modules)
