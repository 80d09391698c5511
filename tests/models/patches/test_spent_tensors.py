"""Hidden states that nobody reads again are gone, and gradients are those of before."""

import weakref
from typing import Any

import pytest
import torch
from torch import nn

from medexp.models.patches.spent_tensors import release_embedded, release_outputs

WIDTH = 8


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)
        self.outputs: list[Any] = []

    def forward(self, hidden: Any) -> Any:
        out = hidden + self.inner(hidden).tanh()
        self.outputs.append(out)
        return out


class Recomputed(torch.autograd.Function):
    """Checkpointing that keeps a copy of its input, as Unsloth's keeps it on the host."""

    @staticmethod
    def forward(ctx: Any, layer: Any, hidden: Any) -> Any:
        ctx.layer, ctx.saved = layer, hidden.detach().clone()
        with torch.no_grad():
            return layer(hidden)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        again = ctx.saved.requires_grad_()
        with torch.enable_grad():
            out = ctx.layer(again)
        torch.autograd.backward(out, gradient)
        return None, again.grad


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(10, WIDTH).requires_grad_(False)
        self.layers = nn.ModuleList([Layer() for _ in range(3)])

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embedding

    def forward(self, tokens: Any) -> Any:
        hidden = self.embedding(tokens)
        self.embedded = weakref.ref(hidden)
        for layer in self.layers:
            hidden = Recomputed.apply(layer, hidden)
        return hidden.square().mean()


def ask_for_gradients(network: Network) -> None:
    """What PEFT and Unsloth do, so that checkpointing has something to begin with."""
    network.embedding.register_forward_hook(lambda _, __, out: (out.requires_grad_(), None)[1])


def run(network: Network) -> list[Any]:
    network(torch.arange(10).view(2, 5)).backward()
    return [parameter.grad for parameter in network.layers.parameters()]


@pytest.mark.parametrize("asks_first", [True, False])
def test_embedded_tokens_are_gone_after_the_forward_pass(asks_first):
    plain, network = Network(), Network()
    ask_for_gradients(plain)
    if asks_first:
        ask_for_gradients(network)
    release_embedded(network)
    if not asks_first:
        ask_for_gradients(network)
    expected = run(plain)
    loss = network(torch.arange(10).view(2, 5))
    assert network.embedded() is None
    loss.backward()
    for found, right in zip(network.layers.parameters(), expected, strict=True):
        assert torch.equal(found.grad, right)


def test_embedded_tokens_stay_as_they_are_in_an_evaluation():
    network = Network().eval()
    release_embedded(network)
    assert not network.embedding(torch.arange(3)).requires_grad
    with torch.no_grad():
        assert not network.train().embedding(torch.arange(3)).requires_grad


def test_outputs_of_layers_that_are_computed_again_are_given_back_and_no_others():
    plain, network = Network(), Network()
    for each in (plain, network):
        ask_for_gradients(each)
    release_outputs(network.layers)
    for found, right in zip(run(network), run(plain), strict=True):
        assert torch.equal(found, right)
    for layer in network.layers:
        first, again = layer.outputs
        assert first.untyped_storage().nbytes() > 0
        assert again.untyped_storage().nbytes() == 0
