"""What DoRA and trained biases take on a card: neither goes through Unsloth's fused kernels, so more is kept for the backward pass.

PEFT's DoRA also makes the adapter's whole product of each projection from an identity matrix, in float32 and anew in every pass
(peft.tuners.lora.dora); in compiled layers the matrix is never made. Fitted on 17 points (benchmarks/vram, grid_unfused.json).
"""

from collections.abc import Iterator

from medexp.config.schema import Bias, Engine, Family, RunConfig
from medexp.units import MIB
from medexp.vram.terms import linear_sizes

# Compiled layers, bytes reserved in a step: 12 points with DoRA, between -1.0 and +1.9 % of the whole, and 5 with trained biases.
DORA_PER_HIDDEN, DORA_PER_FFN, DORA_PER_WEIGHT, DORA_FIXED = 31.4, 18.1, 9.12, 135 * MIB
BIAS_PER_HIDDEN, BIAS_PER_FFN, BIAS_FIXED = 14.2, 7.6, 102 * MIB
# Layers that are not compiled: nothing measured with Unsloth; PEFT saves about three times as much of a projection.
EAGER_FACTOR = 2.5
# A pass without gradients, bytes allocated: the product of the largest projection, or the activations; to 4 % on 12 points.
IDENTITY, PRODUCT, PRODUCT_PER_INPUT, PRODUCT_FIXED = 4, 8, 9, 24 * MIB
FORWARD_PER_WEIGHT, FORWARD_PER_HIDDEN, FORWARD_PER_FFN = 8.7, 11, 10
FORWARD_FACTOR, FORWARD_SLACK = 1.1, 100 * MIB  # what the allocator reserves on top


def is_fused(run: RunConfig) -> bool:
    """Do the adapter's products run in Unsloth's own kernels?"""
    return not run.lora.dora and run.lora.bias is Bias.none


def can_stream(run: RunConfig) -> bool:
    """Can layers wait on the host? Not with DoRA, whose magnitudes are made of weights on the card (a CUDA error in PEFT), nor
    where biases of a streamed layer would be trained."""
    trains_its_biases = run.model.shape.family is Family.qwen2 and run.lora.bias is not Bias.none
    return run.hardware.engine is Engine.unsloth and not run.lora.dora and not trains_its_biases


def compiled_step(run: RunConfig, tokens: int) -> tuple[int, int]:
    """Bytes of a step of `tokens` in compiled layers: what grows with the tokens, and all that is reserved."""
    shape, dora = run.model.shape, run.lora.dora
    per_hidden, per_ffn = (DORA_PER_HIDDEN, DORA_PER_FFN) if dora else (BIAS_PER_HIDDEN, BIAS_PER_FFN)
    slope = int(2 * tokens * (per_hidden * shape.hidden + per_ffn * shape.ffn))
    fixed = DORA_PER_WEIGHT * shape.hidden * shape.ffn + DORA_FIXED if dora else BIAS_FIXED
    return slope, slope + int(fixed)


def product_bytes(run: RunConfig, tokens: int) -> int:
    """Bytes of DoRA's largest product, made for a pass over `tokens` in layers that are not compiled; 0 without DoRA."""
    return max(_products(run, tokens)) if run.lora.dora else 0


def _products(run: RunConfig, tokens: int) -> Iterator[int]:
    for name, (inputs, outputs) in linear_sizes(run.model.shape).items():
        if name in run.lora.target_modules:
            yield inputs * (IDENTITY * inputs + PRODUCT * outputs + PRODUCT_PER_INPUT * tokens) + PRODUCT_FIXED


def forward_bytes(run: RunConfig, tokens: int) -> int:
    """Bytes allocated in a pass of DoRA over `tokens` without gradients."""
    shape = run.model.shape
    activations = 2 * tokens * (FORWARD_PER_HIDDEN * shape.hidden + FORWARD_PER_FFN * shape.ffn)
    return max(product_bytes(run, tokens), int(FORWARD_PER_WEIGHT * shape.hidden * shape.ffn) + activations)
