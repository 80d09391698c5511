import re

import pytest

from medexp.config.schema import Quantisation
from medexp.config.shape import check_shape
from medexp.errors import ModelError

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
        ("quantization_config", {"load_in_4bit": True}, "they are quantised there and model.quantisation=none here"),
    ],
)
def test_a_difference_is_named(smollm2, theirs, value, said):
    with pytest.raises(ModelError, match=f"model=smollm2_135m do not have the declared shape: {said}. Choose .* model.shape$"):
        check_shape(smollm2, SMOLLM2 | {theirs: value})


def test_every_difference_is_named_at_once(smollm2):
    with pytest.raises(ModelError) as refused:
        check_shape(smollm2, SMOLLM2 | {"num_hidden_layers": 32, "vocab_size": 1, "model_type": "qwen2"})
    assert len(re.findall(r"there and", str(refused.value))) == 3


def test_quantised_weights_are_what_an_nf4_model_expects(resolved):
    model = resolved("hardware=rtx4050_6gb").model
    assert model.quantisation is Quantisation.nf4
    check_shape(model, {"quantization_config": {"load_in_4bit": True}})
