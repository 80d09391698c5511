"""Does an MLP in pieces round worse than a whole one? The embedded model's gradients in bfloat16,
held against those of the same weights in float32; on a CPU, one minute.

python benchmarks/train/mlp_pieces_rounding.py

"0 pieces" are the layers as transformers and PEFT compute them. The adapter is random: that of a
fresh run adds nothing.
"""

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from rows import load_embedded

from medexp.models.patches import exact_products
from medexp.models.patches.fused_mlp import PROJECTIONS, list_decoder_layers
from medexp.models.patches.mlp_pieces import make_mlp_function

CASES = 4


def main() -> None:
    """Print the table."""
    network, cases = load()
    mlps = [layer.mlp for layer in list_decoder_layers(network)]
    forwards = [mlp.forward for mlp in mlps]

    def gradients(pieces: int) -> torch.Tensor:
        for mlp, forward in zip(mlps, forwards, strict=True):
            mlp.forward = MethodType(make_forward(pieces), mlp) if pieces else forward
        network.zero_grad(set_to_none=True)
        for tokens, labels in cases:
            network(input_ids=tokens, labels=labels, use_cache=False).loss.backward()
        found = (parameter.grad for parameter in network.parameters())
        return torch.cat([each.float().flatten() for each in found if each is not None])

    expected = gradients(0)
    print("| computed in | pieces | error of the gradient, of its norm |\n|---|---|---|")
    print(f"| float32 | 4 | {apart(expected, gradients(4)):.1e} |", flush=True)
    network.bfloat16()
    for pieces in (0, 1, 2, 4, 8):
        print(f"| bfloat16 | {pieces} | {apart(expected, gradients(pieces)):.4f} |", flush=True)


def apart(expected: torch.Tensor, found: torch.Tensor) -> float:
    """How far `found` is from `expected`, of its norm."""
    return float((expected - found).norm() / expected.norm())


def make_forward(pieces: int) -> Callable[..., Any]:
    """The forward pass of an MLP in so many pieces."""
    function = make_mlp_function(exact_products, exact_products, pieces)

    def forward(self: Any, hidden: Any) -> Any:
        flat: list[Any] = []
        for name in PROJECTIONS:
            projection = getattr(self, name)
            (adapter,) = projection.active_adapters
            a, b = (getattr(projection, side)[adapter].weight for side in ("lora_A", "lora_B"))
            scale = projection.scaling[adapter]
            flat += [projection.base_layer.weight, None, None, a, b, scale, None]
        return function.apply(hidden, *flat)

    return forward


def load() -> tuple[Any, list[tuple[Any, Any]]]:
    """The network, its weights as bfloat16 has them, and cases as tokens and labels."""
    network, cases = load_embedded([], CASES)
    torch.manual_seed(0)
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
        parameter.data = parameter.data.bfloat16().float()
    return network, cases


if __name__ == "__main__":
    main()
