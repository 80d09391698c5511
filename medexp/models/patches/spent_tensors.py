"""Hidden states that are held to the end of a step although nobody reads them again, given back
where they are last read. Each is as large as a layer's input.

    # the layers of an Unsloth model that are recomputed, from now on
    release_outputs(layers)
    release_embedded(network)
"""

from collections.abc import Iterable
from functools import wraps
from typing import Any

import torch


def release_outputs(layers: Iterable[Any]) -> None:
    """Let recomputed `layers` give back their output as soon as it is there: a layer is computed
    again for what its backward pass needs of the inside, and its output is not among it.

    They must be layers that leave their output out (`mlp_pieces`): it is NaN.
    """
    for layer in layers:
        layer.forward = _wrap_forward(layer.forward)


def _wrap_forward(forward: Any) -> Any:
    @wraps(forward)
    def spent_forward(*args: Any, **named: Any) -> Any:
        outputs = forward(*args, **named)
        if torch.is_grad_enabled() and is_going_back():
            first = outputs if isinstance(outputs, torch.Tensor) else outputs[0]
            first.untyped_storage().resize_(0)
        return outputs

    return spent_forward


def is_going_back() -> bool:
    """Return whether autograd is in the middle of a backward pass, as gradient checkpointing is
    where it computes a layer again."""
    return bool(torch._C._current_graph_task_id() != -1)


def release_embedded(network: Any) -> None:
    """Let the embedded tokens go once the first layer has read them. Checkpointing needs something
    to begin with that asks for gradients; if they were it, as a leaf, they would stay, and get
    gradients that nobody reads."""
    anchor = torch.zeros((), requires_grad=True)

    def begin(embedding: Any, __: Any, embedded: Any) -> Any:
        if embedding.training and torch.is_grad_enabled() and embedded.is_leaf:
            return _Beginning.apply(embedded.detach(), anchor)  # type: ignore[no-untyped-call]
        return embedded

    network.get_input_embeddings().register_forward_hook(begin)


class _Beginning(torch.autograd.Function):  # type: ignore[misc]
    """Hidden states that ask for gradients, and drop them."""

    @staticmethod
    def forward(_: Any, hidden: Any, __: Any) -> Any:
        """Return `hidden`; the anchor that comes after it asks for gradients."""
        return hidden

    @staticmethod
    def backward(_: Any, __: Any) -> tuple[None, None]:
        """Return no gradients."""
        return None, None
