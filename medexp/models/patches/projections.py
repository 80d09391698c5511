"""A frozen weight with its adapter, as autograd functions are given it and return its gradients."""

from typing import Any, NamedTuple

import torch

from medexp.models.patches.operators import define_operator


class Projection(NamedTuple):
    """A frozen weight [outputs, inputs], how bitsandbytes quantised it (None where it is not), the
    scales of its rows for FP8 (None without); its adapter: A [r, inputs], B [outputs, r] (None
    where it is switched off), their scale; the weight's bias [outputs] or None."""

    weight: Any
    state: Any
    scales: Any
    a: Any
    b: Any
    scale: float
    bias: Any


def split(flat: tuple[Any, ...]) -> list[Projection]:
    """Return the projections whose fields are `flat`, one after the other."""
    size = len(Projection._fields)
    return [Projection(*flat[start : start + size]) for start in range(0, len(flat), size)]


def _add_product(out: torch.Tensor, left: torch.Tensor, right: torch.Tensor, scale: float) -> None:
    out.addmm_(left, right, alpha=scale)


def _add(out: torch.Tensor, other: torch.Tensor) -> None:
    out.add_(other)


# Adds `scale` times `left` @ `right` to `out`. Traced by torch.compile, `addmm_` would copy `out`
# first.
add_product = define_operator(
    "add_product_(Tensor(a!) out, Tensor left, Tensor right, float scale) -> ()", _add_product
)
# Adds `other` to `out`. Traced by torch.compile, several sums in a row would be one kernel that
# waits until all they add is there.
add = define_operator("add_(Tensor(a!) out, Tensor other) -> ()", _add)


def place_gradients(of_a: Any, of_b: Any) -> tuple[Any, ...]:
    """Return them where a projection's fields have A and B."""
    return (None, None, None, of_a, of_b, None, None)
