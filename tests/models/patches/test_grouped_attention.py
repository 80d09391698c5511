"""Attention that goes back a group of its heads at a time is torch's own, and what is not plain
causal attention is left to Unsloth."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend

from medexp.models.patches import grouped_attention
from medexp.models.patches.grouped_attention import (
    Heads,
    causal_attention,
    choose_backend,
    find_difference,
    patch_attention,
)

FLASH = int(SDPBackend.FLASH_ATTENTION.value)
HEADS = [Heads(8, 8, 32), Heads(8, 2, 32), Heads(9, 3, 64), Heads(6, 1, 16)]


def make_inputs(heads: Heads, tokens: int = 50, dtype: Any = torch.bfloat16) -> list[Any]:
    torch.manual_seed(0)
    counts = (heads.queries, heads.keys, heads.keys)
    return [
        torch.randn(2, tokens, count, heads.width, dtype=dtype).transpose(1, 2).requires_grad_()
        for count in counts
    ]


@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_output_and_gradients_are_those_of_torch(heads, dtype):
    backend = choose_backend(heads, "cpu", dtype)
    before = torch.random.get_rng_state()
    assert find_difference(heads, "cpu", dtype, backend) is None
    assert torch.equal(torch.random.get_rng_state(), before)


def test_torch_compile_traces_it_whole():
    inputs = make_inputs(Heads(8, 2, 32), dtype=torch.float32)

    def run(query, key, value):
        out, _ = causal_attention(query, key, value, FLASH)
        return out.transpose(1, 2).reshape(2, 50, -1).sin()

    traced = torch.compile(run, backend="aot_eager", fullgraph=True)
    plain = torch.autograd.grad(run(*inputs).sum(), inputs)
    for found, right in zip(torch.autograd.grad(traced(*inputs).sum(), inputs), plain, strict=True):
        assert torch.allclose(found, right, atol=1e-5)


@pytest.mark.parametrize("wrong", ["queries", "its output"])
def test_kernels_that_compute_something_else_are_seen(monkeypatch, wrong):
    right = grouped_attention._Processor

    class Other(right):
        @staticmethod
        def forward(*inputs: Any) -> Any:
            out, sums = right.forward(*inputs)
            return (2 * out if wrong == "its output" else out), sums

        @staticmethod
        def backward(*inputs: Any) -> Any:
            of_query, *others = right.backward(*inputs)
            return 2 * of_query, *others

    monkeypatch.setattr(grouped_attention, "_Processor", Other)
    found = find_difference(HEADS[0], "cpu", torch.bfloat16, SDPBackend.FLASH_ATTENTION)
    assert found is not None
    assert found.startswith(f"{wrong} differed from torch's own on random numbers, by 1")


def make_dispatch() -> Any:
    """unsloth.utils.attention_dispatch, which says what it was asked for."""
    return SimpleNamespace(_run_attention=lambda **asked: sorted(asked))


def make_context(**changes: Any) -> Any:
    plain = {
        "training": True,
        "is_causal": True,
        "q_len": 50,
        "kv_seq_len": 50,
        "seq_info": None,
        "attention_mask": None,
        "prefix_seg_info": None,
        "sliding_window": None,
    }
    return SimpleNamespace(**plain | changes)


CONFIG = SimpleNamespace(
    sdpa_kwargs=None, xformers_kwargs=None, flash_dense_kwargs={"causal": True}
)


def test_a_case_of_a_training_step_is_attended_to_in_groups():
    heads, dispatch = Heads(8, 2, 32), make_dispatch()
    assert patch_attention(dispatch, heads, "cpu", torch.bfloat16) is None
    query, key, value = make_inputs(heads)
    out = dispatch._run_attention(config=CONFIG, context=make_context(), Q=query, K=key, V=value)
    repeated = [query, *(each.repeat_interleave(4, 1) for each in (key, value))]
    right = torch.nn.functional.scaled_dot_product_attention(*repeated, is_causal=True)
    assert out.shape == (2, 50, 8, 32)
    assert torch.allclose(out.transpose(1, 2), right, atol=2e-2)


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        ({}, {"training": False}),
        ({}, {"is_causal": False}),
        ({}, {"q_len": 1}),
        ({}, {"seq_info": ()}),
        ({}, {"attention_mask": ()}),
        ({}, {"prefix_seg_info": ()}),
        ({}, {"sliding_window": 49}),
        ({"sdpa_kwargs": {"scale": 1.0}}, {}),
        ({"xformers_kwargs": {"scale": 1.0}}, {}),
        ({"flash_dense_kwargs": {"causal": True, "softcap": 30.0}}, {}),
    ],
    ids=str,
)
def test_what_is_not_plain_is_left_to_unsloth(config, changes):
    dispatch = make_dispatch()
    patch_attention(dispatch, HEADS[0], "cpu", torch.bfloat16)
    patch_attention(dispatch, HEADS[0], "cpu", torch.bfloat16)
    query, key, value = make_inputs(HEADS[0])
    asked = SimpleNamespace(**vars(CONFIG) | config)
    found = dispatch._run_attention(
        config=asked, context=make_context(**changes), Q=query, K=key, V=value
    )
    assert found == ["K", "Q", "V", "config", "context"]


def test_where_it_cannot_be_had_attention_stays_as_it_is(monkeypatch):
    dispatch = make_dispatch()
    whole = dispatch._run_attention
    monkeypatch.setattr(grouped_attention, "choose_backend", lambda *_: SDPBackend.MATH)
    why = patch_attention(dispatch, HEADS[0], "cpu", torch.bfloat16)
    assert why == "torch takes MATH for it here, which needs all heads at once"
    assert dispatch._run_attention is whole
    assert "has no utils.attention_dispatch._run_attention" in str(
        patch_attention(SimpleNamespace(), HEADS[0], "cpu", torch.bfloat16)
    )
