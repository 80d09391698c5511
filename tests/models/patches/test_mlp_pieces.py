"""An MLP in pieces has the output and the gradients of a whole one, and never holds all of it."""

import shutil
from typing import Any

import pytest
import torch
from helpers.projections import (
    FFN,
    HIDDEN,
    TOKENS,
    backward,
    compute_exact_mlp,
    find_error,
    make_mlp,
    make_projection,
    quantise,
)

from medexp.models.patches import exact_products
from medexp.models.patches.mlp_pieces import make_mlp_function
from medexp.models.patches.nf4_weights import dequantise
from medexp.models.patches.projections import Projection
from medexp.planning.pieces import Piece


def make(pieces: int, **how: bool) -> Any:
    return make_mlp_function(exact_products, exact_products, pieces, **how)


def flatten(made: list[Projection]) -> list[Any]:
    return [value for one in made for value in one]


def leaves_of(hidden: torch.Tensor, made: list[Projection]) -> list[torch.Tensor]:
    return [hidden, *(leaf for one in made for leaf in (one.a, one.b))]


def widen(made: list[Projection]) -> list[Projection]:
    """The same weights in float32, of which nothing is rounded."""
    return [one._replace(weight=one.weight.float()) for one in made]


@pytest.mark.parametrize("pieces", [1, 2, 3])
@pytest.mark.parametrize("keeps", [True, False])
def test_output_and_gradients_are_those_of_a_whole_mlp(pieces, keeps):
    torch.manual_seed(0)
    made = widen(make_mlp(quantised=False))
    hidden = torch.randn(2, TOKENS // 2, HIDDEN).requires_grad_()
    out = make(pieces, keeps=keeps).apply(hidden, *flatten(made))
    expected = compute_exact_mlp(hidden, made)
    assert torch.allclose(out, expected, atol=1e-5)
    leaves = leaves_of(hidden, made)
    for one, other in zip(backward(out, leaves), backward(expected, leaves), strict=True):
        assert find_error(one, other) < 1e-5


@pytest.mark.parametrize("keeps", [True, False])
def test_nf4_weights_in_16_bits(keeps):
    torch.manual_seed(0)
    made = make_mlp(quantised=True)
    hidden = torch.randn(1, TOKENS, HIDDEN).bfloat16().requires_grad_()
    out = make(2, keeps=keeps).apply(hidden, *flatten(made))
    expected = compute_exact_mlp(hidden.float(), made)
    assert find_error(out, expected) < 0.01
    leaves = leaves_of(hidden, made)
    for one, other in zip(
        backward(out, leaves), backward(expected.bfloat16(), leaves), strict=True
    ):
        assert find_error(one, other) < 0.015


def test_an_output_that_is_not_read_is_no_number_and_its_gradients_are_right():
    torch.manual_seed(0)
    made = widen(make_mlp(quantised=False))
    hidden = torch.randn(1, TOKENS, HIDDEN).requires_grad_()
    out = make(2, is_read=False).apply(hidden, *flatten(made))
    assert out.isnan().all()
    leaves = leaves_of(hidden, made)
    expected = backward(compute_exact_mlp(hidden, made), leaves)
    for one, other in zip(backward(out, leaves), expected, strict=True):
        assert find_error(one, other) < 1e-5


def test_an_adapter_that_is_switched_off_adds_nothing():
    torch.manual_seed(0)
    made = widen(make_mlp(quantised=False))
    hidden = torch.randn(1, TOKENS, HIDDEN)
    off = [one._replace(a=None, b=None) for one in made]
    zero = [one._replace(b=torch.zeros_like(one.b)) for one in made]
    with torch.no_grad():
        out = make(2).apply(hidden, *flatten(off))
        assert torch.allclose(out, compute_exact_mlp(hidden, zero), atol=1e-5)


def test_the_biases_of_frozen_weights_are_added():
    torch.manual_seed(0)
    sizes = ((HIDDEN, FFN), (HIDDEN, FFN), (FFN, HIDDEN))
    made = widen([make_projection(*size, quantised=False, biased=True) for size in sizes])
    hidden = torch.randn(1, TOKENS, HIDDEN)
    with torch.no_grad():
        out = make(2).apply(hidden, *flatten(made))
        assert torch.allclose(out, compute_exact_mlp(hidden, made), atol=1e-5)


# Inductor writes C++ where there is no card.
needs_a_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler"
)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=needs_a_compiler)])
@pytest.mark.parametrize("how", [{"keeps": True}, {"is_read": False}], ids=["kept", "recomputed"])
def test_torch_compile_traces_it_as_it_is(how, backend):
    torch.manual_seed(0)
    made = make_mlp(quantised=False)
    hidden = torch.randn(1, TOKENS, HIDDEN).bfloat16().requires_grad_()
    function, flat, leaves = make(2, **how), flatten(made), leaves_of(hidden, made)

    def run(hidden: torch.Tensor) -> torch.Tensor:
        return function.apply(hidden, *flat)

    plain = backward(run(hidden), leaves)
    traced = backward(torch.compile(run, backend=backend, fullgraph=True)(hidden), leaves)
    for one, other in zip(traced, plain, strict=True):
        assert find_error(one, other) < 0.01


def test_a_part_of_an_nf4_weight_is_what_bitsandbytes_makes_of_it():
    torch.manual_seed(0)
    packed, state, dense = quantise(torch.randn(256, 384).bfloat16())
    assert torch.equal(dequantise(packed, state, None, None, torch.bfloat16), dense)
    rows, columns = Piece(128, 256), Piece(256, 384)
    part = dequantise(packed, state, rows, columns, torch.bfloat16)
    assert torch.equal(part, dense[128:256, 256:384])


@needs_a_compiler
def test_a_compiled_kept_layer_saves_whole_tensors_that_can_wait_on_the_host():
    torch.manual_seed(0)
    made = make_mlp(quantised=False)
    hidden = torch.randn(1, TOKENS, HIDDEN).bfloat16().requires_grad_()
    function, flat = make(3, keeps=True), flatten(made)
    saved: dict[int, tuple[int, int]] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = (tensor.nbytes, storage.nbytes())
        return tensor

    def run(hidden: torch.Tensor) -> torch.Tensor:
        return function.apply(hidden, *flat)

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = torch.compile(run, backend="inductor", fullgraph=True)(hidden)
    assert out.isfinite().all()
    inside = 2 * TOKENS * FFN // 3
    assert [held for tensor, held in saved.values() if tensor == inside] == [inside] * 6
    weights = {one.weight.untyped_storage().data_ptr() for one in made}
    large = [each for where, each in saved.items() if where not in weights and each[1] >= inside]
    assert len(large) == 6
