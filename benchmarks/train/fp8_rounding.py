"""Which rounding to FP8 does the harm? The embedded model's gradients on a CPU, with one thing
rounded at a time.

    python benchmarks/train/fp8_rounding.py
    # with an adapter that was trained
    python benchmarks/train/fp8_rounding.py --adapter outputs/.../adapter

Four shipped cases go forward and backward, once exactly and once for every line of the table;
products with frozen weights are computed in float32 from numbers rounded to e4m3 (medexp's row
scales) or e5m2. "Computed again" is a layer of gradient checkpointing: its forward pass is exact,
and what it computes again is rounded. Prints the loss, and the cosine of the adapter's gradient
with the exact one, by layer and of all of it. Five minutes on two cores.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rows import load_embedded
from torch.utils.checkpoint import checkpoint

from medexp.models.patches.fp8_weights import LARGEST, LEAST, find_row_scales
from medexp.models.patches.fused_mlp import list_decoder_layers

E4M3, E5M2 = (torch.float8_e4m3fn, LARGEST), (torch.float8_e5m2, 57344.0)
PROJECTIONS = {
    "self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}
CASES = 4


@dataclass(frozen=True)
class Rounded:
    """What is rounded: inputs and weights of forward passes, of all or only of those that compute
    a layer again; gradients and weights of backward passes, and the gradients' format."""

    inputs: bool = False
    weights: bool = False
    gradients: bool = False
    weights_backward: bool = False
    only_again: bool = False
    gradient_format: tuple[Any, float] = E4M3


BACKWARD = Rounded(gradients=True, weights_backward=True)
LINES = {
    "nothing": Rounded(),
    "inputs, forward": Rounded(inputs=True),
    "weights, forward": Rounded(weights=True),
    "both, forward": Rounded(inputs=True, weights=True),
    "gradients": Rounded(gradients=True),
    "gradients and weights, backward": BACKWARD,
    "the same, gradients in e5m2": replace(BACKWARD, gradient_format=E5M2),
    "computed again and backward (hardware.fp8=true)": replace(
        BACKWARD, inputs=True, weights=True, only_again=True
    ),
    "everything (hardware.fp8=all)": replace(BACKWARD, inputs=True, weights=True),
}


class State:
    """What is rounded now."""

    rounded: Rounded | None = None


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--adapter", type=Path, help="a trained adapter to start from")
    network, cases = load(parser.parse_args().adapter)
    batch = cases[:CASES]
    exact, loss = compute_gradients(network, batch)
    print("| rounded | loss | cosine by layer, least and median | of all |\n|---|---|---|---|")
    print(f"| no product at all | {loss:.4f} | 1, 1 | 1 |")
    for name, rounded in LINES.items():
        with rounding(rounded):
            print(row(name, exact, *compute_gradients(network, batch)), flush=True)
    print(row("nothing, the next four cases", exact, *compute_gradients(network, cases[CASES:])))


def row(
    name: str, exact: dict[str, torch.Tensor], found: dict[str, torch.Tensor], loss: float
) -> str:
    """Return a line of the table."""
    cosines = sorted(cosine(exact[layer], found[layer]) for layer in exact)
    whole = cosine(*(torch.cat([each[layer] for layer in exact]) for each in (exact, found)))
    least, median = cosines[0], cosines[len(cosines) // 2]
    return f"| {name} | {loss:.4f} | {least:.3f}, {median:.3f} | {whole:.3f} |"


def load(adapter: Path | None) -> tuple[Any, list[tuple[Any, Any]]]:
    """Return the network, its products ready to be rounded, and the cases as tokens and labels."""
    words = [f"lora.start_from={adapter.absolute()}"] if adapter else []
    network, cases = load_embedded(words, 2 * CASES)
    for layer in list_decoder_layers(network):
        for owner, names in PROJECTIONS.items():
            for name in names:
                make_rounding(getattr(getattr(layer, owner), name))
        make_recomputing(layer)
    return network, cases


def compute_gradients(
    network: Any, batch: list[tuple[Any, Any]]
) -> tuple[dict[str, torch.Tensor], float]:
    """Return the adapter's gradient, a layer each, and the mean loss."""
    network.zero_grad(set_to_none=True)
    losses = []
    for tokens, labels in batch:
        loss = network(input_ids=tokens, labels=labels, use_cache=False).loss
        loss.backward()
        losses.append(loss.item())
    return collect_gradients(network), sum(losses) / len(losses)


def collect_gradients(network: Any) -> dict[str, torch.Tensor]:
    """Return the gradient of the adapter in each layer, by the layer's number."""
    layers: dict[str, list[torch.Tensor]] = {}
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            layer = name.partition(".layers.")[2].partition(".")[0]
            layers.setdefault(layer, []).append(parameter.grad.float().flatten())
    return {layer: torch.cat(parts) for layer, parts in layers.items()}


@contextmanager
def rounding(rounded: Rounded) -> Iterator[None]:
    """Round that, and nothing else."""
    State.rounded = rounded
    try:
        yield
    finally:
        State.rounded = None


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the cosine of two gradients."""
    return float(torch.nn.functional.cosine_similarity(one, other, dim=0))


def round_to(values: torch.Tensor, scales: torch.Tensor, dtype: Any) -> torch.Tensor:
    """Return `values` as they are after rounding, divided by `scales` and multiplied again."""
    return (values / scales).to(dtype).float() * scales


def round_rows(values: torch.Tensor, form: tuple[Any, float] = E4M3) -> torch.Tensor:
    """Return `values` rounded, a scale a row."""
    dtype, largest = form
    scales = values.abs().amax(dim=1, keepdim=True).clamp(min=LEAST) / largest
    return round_to(values, scales, dtype)


class Product(torch.autograd.Function):
    """A product with a frozen weight, rounded as `State` says."""

    @staticmethod
    def forward(ctx: Any, hidden: Any, weight: Any, scales: Any, is_again: bool) -> Any:
        """Return the output."""
        rounded = State.rounded or Rounded()
        ctx.rounded, ctx.scales = rounded, scales
        ctx.save_for_backward(weight)
        is_now = is_again or not rounded.only_again
        wide, dense = hidden.reshape(-1, hidden.shape[-1]).float(), weight.float()
        wide = round_rows(wide) if rounded.inputs and is_now else wide
        if rounded.weights and is_now:
            dense = round_to(dense, scales[:, None], E4M3[0])
        return (wide @ dense.t()).to(hidden.dtype).view(*hidden.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        """Return the gradient of the input."""
        (weight,) = ctx.saved_tensors
        wide, dense = gradient.reshape(-1, gradient.shape[-1]).float(), weight.float()
        if ctx.rounded.gradients:
            wide = round_rows(wide * ctx.scales, ctx.rounded.gradient_format) / ctx.scales
        if ctx.rounded.weights_backward:
            dense = round_to(dense, ctx.scales[:, None], E4M3[0])
        back = (wide @ dense).to(gradient.dtype)
        return back.view(*gradient.shape[:-1], -1), None, None, None


def make_rounding(projection: Any) -> None:
    """Let a product with an adapter be rounded where `State` says so."""
    exact, (name,) = projection.forward, projection.active_adapters
    weight = projection.base_layer.weight.detach()
    scales = find_row_scales(weight, None)
    a, b = projection.lora_A[name].weight, projection.lora_B[name].weight

    def forward(hidden: Any) -> Any:
        if State.rounded is None:
            return exact(hidden)
        # Of a layer that is computed again the first pass has no gradients.
        narrow = hidden @ a.to(hidden.dtype).t()
        adapted = projection.scaling[name] * (narrow @ b.to(hidden.dtype).t())
        return Product.apply(hidden, weight, scales, torch.is_grad_enabled()) + adapted

    projection.forward = forward


def make_recomputing(layer: Any) -> None:
    """Let a layer be computed again in the backward pass."""
    exact = layer.forward

    def forward(hidden: Any, *others: Any, **named: Any) -> Any:
        if not hidden.requires_grad:
            hidden = hidden.detach().requires_grad_()
        return checkpoint(lambda given: exact(given, *others, **named), hidden, use_reentrant=True)

    layer.forward = forward


if __name__ == "__main__":
    main()
