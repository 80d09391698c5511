"""SwiGLU and its backward pass, also written to where there is room.

Source: `_fg_kernel` and `_DWf_DW_dfg_kernel` of unsloth.kernels.swiglu, which round at the same
    places; the second is in place too, but not what Unsloth runs in compiled layers.
"""

from typing import Any

import torch

from medexp.models.patches.operators import define_operator


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


def _put_swiglu(out: torch.Tensor, first: int, gate: torch.Tensor, up: torch.Tensor) -> None:
    if gate.is_cuda:
        from medexp.models.patches.swiglu_kernel import run_swiglu

        run_swiglu(out, first, gate, up)
        return
    out[:, first : first + gate.shape[1]] = swiglu(gate, up)


def _swiglu_backward(gradient: torch.Tensor, gate: torch.Tensor, up: torch.Tensor) -> None:
    if gradient.is_cuda:
        from medexp.models.patches.swiglu_kernel import run_swiglu_backward

        run_swiglu_backward(gradient, gate, up)
        return
    for place, found in zip((gradient, gate, up), swiglu_backward(gradient, gate, up), strict=True):
        place.copy_(found)


# Puts SwiGLU [tokens, piece] into the columns of `out` [tokens, width] from the `first` on; all are
# contiguous and of one type.
put_swiglu = define_operator(
    "put_swiglu(Tensor(a!) out, int first, Tensor gate, Tensor up) -> ()", _put_swiglu
)
# Puts SwiGLU in the place of its `gradient`, and the gradients of `gate` and `up` in theirs; all
# are contiguous, of one type, and nobody else's.
swiglu_backward_ = define_operator(
    "swiglu_backward_(Tensor(a!) gradient, Tensor(b!) gate, Tensor(c!) up) -> ()", _swiglu_backward
)
