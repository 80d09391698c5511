"""What Unsloth keeps on the card after an evaluation: the weight that it dequantised last, and how
to dequantise each one into the same place again. The largest takes 112 MiB of the 8B; layers that
are compiled for training never write there.

Source: `_SCRATCH` and `fast_dequantize` of unsloth.kernels.utils, 2026.10.
"""

from typing import Any

from medexp.system.private_names import NF4_PLAN, SCRATCH


def release_scratch(network: Any, kernels: Any) -> int:
    """Let go of it: the next eager product makes it again. Returns its bytes; 0 where there is
    none, as with other versions.

    `kernels` is unsloth.kernels.utils; how to dequantise is kept beside each weight of `network`,
    and holds the same memory.
    """
    places = SCRATCH.of(kernels)
    if not isinstance(places, dict) or not places:
        return 0
    for weight in network.parameters():
        state = getattr(weight, "quant_state", None)
        if NF4_PLAN.of(state) is not None:
            setattr(state, NF4_PLAN.last, None)
    held: int = sum(place.numel() * place.element_size() for place in places.values())
    places.clear()
    return held
