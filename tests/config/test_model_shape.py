import json
import re

import pytest

from medexp.config.model_shape import check_shape
from medexp.config.schema import Quantisation
from medexp.errors import ConfigError, ModelError

# config.json of HuggingFaceTB/SmolLM2-135M-Instruct, the part that counts.
SMOLLM2 = {
    "model_type": "llama",
    "num_hidden_layers": 30,
    "hidden_size": 576,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}


@pytest.fixture(scope="module")
def smollm2(resolved):
    return resolved("hardware=cpu").model


def test_the_declared_shape_is_the_real_one(smollm2):
    check_shape(smollm2, SMOLLM2)


def test_what_the_weights_do_not_say_is_not_compared(smollm2):
    check_shape(smollm2, {})
    check_shape(smollm2, SMOLLM2 | {"head_dim": None})


@pytest.mark.parametrize(
    ("theirs", "value", "said"),
    [
        ("num_hidden_layers", 32, "layers is 32 there and 30 here"),
        ("hidden_size", 960, "hidden is 960 there and 576 here"),
        ("num_attention_heads", 15, "heads is 15 there and 9 here"),
        ("num_key_value_heads", 5, "kv_heads is 5 there and 3 here"),
        ("head_dim", 128, "head_dim is 128 there and 64 here"),
        ("intermediate_size", 2560, "ffn is 2560 there and 1536 here"),
        ("vocab_size", 49153, "vocab is 49153 there and 49152 here"),
        ("tie_word_embeddings", False, "tied_embeddings is False there and True here"),
        ("model_type", "qwen2", "family is qwen2 there and llama here"),
        (
            "quantization_config",
            {"load_in_4bit": True},
            "they are quantised there and model.quantisation=none here",
        ),
    ],
)
def test_a_difference_is_named(smollm2, theirs, value, said):
    with pytest.raises(
        ModelError,
        match=f"model=smollm2_135m do not have the declared shape: {said}. Choose .* model.shape$",
    ):
        check_shape(smollm2, SMOLLM2 | {theirs: value})


def test_every_difference_is_named_at_once(smollm2):
    with pytest.raises(ModelError) as refused:
        check_shape(
            smollm2, SMOLLM2 | {"num_hidden_layers": 32, "vocab_size": 1, "model_type": "qwen2"}
        )
    assert len(re.findall(r"there and", str(refused.value))) == 3


def test_quantised_weights_are_what_an_nf4_model_expects(resolved):
    model = resolved("hardware=rtx4050_6gb").model
    assert model.quantisation is Quantisation.nf4
    check_shape(model, {"quantization_config": {"load_in_4bit": True}})


LLAMA = {
    "model_type": "llama", "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256,
}  # fmt: skip


def test_other_four_bit_weights_are_not_nf4(resolved):
    with pytest.raises(
        ModelError, match=r"they are quantised by gptq there and model.quantisation=nf4 here"
    ):
        check_shape(
            resolved("hardware=rtx4050_6gb").model,
            {"quantization_config": {"quant_method": "gptq", "bits": 4}},
        )


def test_a_model_without_a_shape_has_that_of_its_checkpoint(resolved, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    local = resolved("hardware=rtx4050_6gb", "model=local", f"model.path={tmp_path}").model
    # heads' width and untied embeddings are what is left out
    assert local.shape == resolved("hardware=rtx4050_6gb").model.shape


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{bad", "config.json cannot be read"),
        ("[1]", "config.json holds no object"),
        (
            json.dumps(LLAMA | {"model_type": "bert"}),
            "is of family bert; plans are made for llama, qwen2",
        ),
        (
            json.dumps(LLAMA | {"num_hidden_layers": None, "vocab_size": 0}),
            "no number for num_hidden_layers, vocab_size",
        ),
        (None, "holds no config.json"),
    ],
)
def test_a_shape_that_cannot_be_read_is_said(resolved, tmp_path, config, said):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(ModelError, match=said):
        resolved("hardware=rtx4050_6gb", "model=local", f"model.path={tmp_path}")


def test_a_model_without_a_shape_needs_a_path(resolved):
    with pytest.raises(ConfigError, match=r"model=local has no shape: set model.path=FOLDER"):
        resolved("hardware=rtx4050_6gb", "model=local")
