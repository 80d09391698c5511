"""SwiGLU and its backward pass, also in place. torch.compile does not write over what it was given,
unless an operator says that it does.

Source: `_fg_kernel` and `_DWf_DW_dfg_kernel` of unsloth.kernels.swiglu, which round at the same
    places; the second is in place too, but not what Unsloth runs in compiled layers.
"""

from typing import Any

import torch


def swiglu(gate: Any, up: Any) -> Any:
    """Return silu(gate) * up."""
    return torch.nn.functional.silu(gate.float()).to(gate.dtype) * up


def swiglu_backward(gradient: Any, gate: Any, up: Any) -> tuple[Any, Any, Any]:
    """Return SwiGLU, and the gradients of `gate` and `up` for its `gradient`."""
    wide = gate.float()
    sigmoid = torch.sigmoid(wide)
    gated = (sigmoid * wide).to(gate.dtype)
    of_gate = (gradient * up).float() * sigmoid * (1 + wide * (1 - sigmoid))
    return gated * up, of_gate.to(gate.dtype), gradient * gated


@torch.library.custom_op("medexp::swiglu_", mutates_args=("gate",))
def swiglu_(gate: torch.Tensor, up: torch.Tensor) -> None:
    """Put SwiGLU in the place of `gate`; both are contiguous, of one type, and nobody else's."""
    if gate.is_cuda:
        from medexp.models.patches.swiglu_kernel import run_swiglu

        run_swiglu(gate, up)
        return
    gate.copy_(swiglu(gate, up))


@torch.library.custom_op("medexp::swiglu_backward_", mutates_args=("gradient", "gate", "up"))
def swiglu_backward_(gradient: torch.Tensor, gate: torch.Tensor, up: torch.Tensor) -> None:
    """Put SwiGLU in the place of its `gradient`, and the gradients of `gate` and `up` in theirs;
    all are contiguous, of one type, and nobody else's."""
    if gradient.is_cuda:
        from medexp.models.patches.swiglu_kernel import run_swiglu_backward

        run_swiglu_backward(gradient, gate, up)
        return
    for place, found in zip((gradient, gate, up), swiglu_backward(gradient, gate, up), strict=True):
        place.copy_(found)
