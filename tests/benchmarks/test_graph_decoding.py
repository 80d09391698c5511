"""Decoding of many questions at once: the tokens of Transformers' own generate."""

import pytest

from benchmarks.recipe import graph_decoding
from benchmarks.recipe.graph_decoding import decode

PROMPTS = ([5, 9, 11], [7], [3, 4, 6, 8, 12, 14, 2])
END, PAD = 1, 0


@pytest.fixture(scope="module")
def network() -> object:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    shape = LlamaConfig(
        vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, eos_token_id=END, pad_token_id=PAD,
        initializer_range=0.5,
    )  # fmt: skip
    return LlamaForCausalLM(shape).eval()


@pytest.mark.parametrize("segment", [5, 128])
def test_likeliest_tokens_are_those_of_generate(network, monkeypatch, segment: int) -> None:
    import torch

    monkeypatch.setattr(graph_decoding, "SEGMENT", segment)
    found = decode(network, PROMPTS, 24, [END], PAD)
    for prompt, tokens in zip(PROMPTS, found, strict=True):
        alone = network.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=24,
            do_sample=False,
        )
        assert tokens == alone[0, len(prompt) :].tolist()


@pytest.mark.parametrize("segment", [1, 2, 128])
def test_a_row_ends_with_the_first_end_token(network, monkeypatch, segment: int) -> None:
    monkeypatch.setattr(graph_decoding, "SEGMENT", segment)
    free = decode(network, PROMPTS, 12, [], PAD)
    end = free[0][3]
    ended = decode(network, PROMPTS, 12, [end], PAD)
    assert ended[0] == free[0][: free[0].index(end) + 1]
    # The others go on without it as they did with it.
    others = [tokens[: tokens.index(end) + 1] if end in tokens else tokens for tokens in free[1:]]
    assert ended[1:] == others


def test_drawn_tokens_follow_the_seed_and_stay_in_the_nucleus(network) -> None:
    import torch

    def draw(seed: int, top_p: float) -> list[list[int]]:
        torch.manual_seed(seed)
        return decode(network, PROMPTS * 8, 12, [END], PAD, temperature=1.5, top_p=top_p)

    assert draw(1, 0.95) == draw(1, 0.95) != draw(2, 0.95)
    # Of so small a share the likeliest token is all there is.
    assert draw(1, 1e-6) == decode(network, PROMPTS * 8, 12, [END], PAD)
