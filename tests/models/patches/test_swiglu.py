"""SwiGLU in the columns of a wider tensor, its gradients in the places of what they are made of."""

import torch
from torch import nn

from medexp.models.patches.swiglu import put_swiglu, swiglu_backward_


def test_swiglu_takes_its_columns_and_no_others():
    torch.manual_seed(0)
    gate, up = (torch.randn(7, 24) for _ in range(2))
    out = torch.full((7, 60), 3.0)
    put_swiglu(out, 30, gate, up)
    assert torch.allclose(out[:, 30:54], nn.functional.silu(gate) * up, atol=1e-6)
    assert (out[:, :30] == 3).all()
    assert (out[:, 54:] == 3).all()


def test_swiglu_and_its_gradients_take_the_places_of_what_they_are_made_of():
    torch.manual_seed(0)
    gradient, gate, up = (torch.randn(7, 24) for _ in range(3))
    gate.requires_grad_()
    up.requires_grad_()
    inside = nn.functional.silu(gate) * up
    of_gate, of_up = torch.autograd.grad(inside, [gate, up], gradient)
    places = [value.detach().clone() for value in (gradient, gate, up)]
    swiglu_backward_(*places)
    for found, right in zip(places, (inside, of_gate, of_up), strict=True):
        assert torch.allclose(found, right, atol=1e-6)
