"""A model of random weights has the shape that it stands for, in every family."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.families import make_tiny_shape

from medexp.config.model_shape import read_shape
from medexp.config.schema import Family
from medexp.models import backend
from medexp.models.random_decoder import shorten, write_random_decoder
from medexp.models.tokenizer import load_tokenizer
from medexp.models.weights import Weights


@pytest.fixture(scope="module")
def cpu(resolved, no_card):
    return resolved("hardware=cpu", on=no_card).hardware


@pytest.mark.parametrize("family", Family)
def test_it_is_read_as_the_shape_and_computes_a_loss(cpu, tmp_path, family):
    import torch

    shape = shorten(replace(make_tiny_shape(family), layers=9, vocab=300))
    write_random_decoder(shape, cpu, tmp_path)
    assert read_shape(tmp_path) == {**vars(shape), "family": family.value}
    stack = backend.load_transformers(cpu)
    network = stack.transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.tensor([load_tokenizer(Weights(str(tmp_path), None), stack).encode("a" * 32)])
    assert ids.shape == (1, 32)
    loss = network(ids, labels=ids).loss.detach()
    # Random weights tell nothing: the loss of guessing among 300 tokens is 5.7.
    assert 4.9 < float(loss) < 6.5


def test_it_has_few_layers_and_every_kind_of_them(resolved, tmp_path, cpu):
    eight_b = resolved("model=deepseek_r1_distill_llama_8b").model.shape
    assert shorten(eight_b) == replace(eight_b, layers=4)
    assert shorten(replace(eight_b, layers=2)).layers == 2
    assert shorten(resolved("model=gemma3_4b_it").model.shape).layers == 6
    # a file a layer: none needs the memory of the whole
    shape = replace(make_tiny_shape(Family.llama), layers=3, vocab=300)
    write_random_decoder(shape, cpu, tmp_path)
    files = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    layers = [{files[name] for name in files if f"layers.{layer}." in name} for layer in range(3)]
    assert [*map(len, layers)] == [1, 1, 1]
    assert len(set.union(*layers)) == 3
    assert all((Path(tmp_path) / file).is_file() for file in files.values())
