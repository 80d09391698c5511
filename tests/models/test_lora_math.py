"""What an adapter does to its base, and whether it fits: arithmetic."""

import json
import math
from pathlib import Path

import pytest
from peft import LoraConfig

from medexp.config.schema import Family, ModelShape
from medexp.models import lora_math

SHAPE = ModelShape(
    family=Family.llama,
    layers=2,
    hidden=64,
    heads=4,
    kv_heads=2,
    head_dim=16,
    ffn=128,
    vocab=300,
    tied_embeddings=True,
)
KEY = "base_model.model.model.layers.1.self_attn.k_proj"


def test_the_scale_is_alpha_over_r_or_its_root() -> None:
    assert lora_math.compute_scale({"r": 16, "lora_alpha": 32}) == 2
    assert lora_math.compute_scale({"r": 16, "lora_alpha": 32, "use_rslora": True}) == 8
    assert lora_math.compute_scale({"r": 8, "lora_alpha": 1, "use_rslora": True}) == pytest.approx(
        1 / math.sqrt(8)
    )


def test_keys_name_the_tensor_they_change() -> None:
    name = "model.layers.1.self_attn.k_proj"
    assert lora_math.parse_tensor_key(f"{KEY}.lora_A.weight") == (f"{name}.weight", "lora_A")
    assert lora_math.parse_tensor_key(f"{KEY}.lora_magnitude_vector") == (
        f"{name}.weight",
        "lora_magnitude_vector",
    )
    assert lora_math.parse_tensor_key(f"{KEY}.base_layer.bias") == (f"{name}.bias", "replaced")
    assert lora_math.parse_tensor_key(f"{KEY}.bias") == (f"{name}.bias", "replaced")


def test_an_adapter_of_the_shape_fits() -> None:
    shapes = {
        f"{KEY}.lora_A.weight": [8, 64],
        f"{KEY}.lora_B.weight": [32, 8],
        f"{KEY}.lora_magnitude_vector": [32],
    }
    assert not list(lora_math.find_misfits(shapes, 8, SHAPE))


@pytest.mark.parametrize(
    ("key", "found", "said"),
    [
        (
            f"{KEY}.lora_A.weight",
            [8, 128],
            "lora_A of model.layers.1.self_attn.k_proj.weight is 8 x 128 and the base needs 8 x 64",
        ),
        (f"{KEY}.lora_B.weight", [64, 8], "is 64 x 8 and the base needs 32 x 8"),
        (f"{KEY}.lora_A.weight", [4, 64], "is 4 x 64 and the base needs 8 x 64"),
        (
            KEY.replace(".1.", ".2.") + ".lora_A.weight",
            [8, 64],
            "is not a projection of the base, which has layers 0 to 1",
        ),
        ("base_model.model.lm_head.lora_A.weight", [8, 64], "lm_head.weight is not a projection"),
    ],
)
def test_what_does_not_fit_is_said(key: str, found: list[int], said: str) -> None:
    (problem,) = lora_math.find_misfits({key: found}, 8, SHAPE)
    assert said in problem


def test_other_mathematics_are_named() -> None:
    assert lora_math.find_unsupported_settings(
        {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {}}
    ) == ["rank_pattern={'q_proj': 4}"]
    assert lora_math.find_unsupported_settings({"init_lora_weights": "pissa"}) == [
        "init_lora_weights=pissa"
    ]
    assert lora_math.find_unsupported_settings({"peft_type": "ADALORA"}) == ["peft_type=ADALORA"]


def test_a_setting_that_is_not_known_is_named() -> None:
    assert lora_math.find_unsupported_settings(
        {"r": 8, "use_newlora": True, "newlora_config": None}
    ) == ["use_newlora=True"]


@pytest.mark.parametrize(
    "more",
    [{}, {"use_dora": True, "use_rslora": True, "bias": "all"}, {"init_lora_weights": "gaussian"}],
)
def test_what_peft_writes_of_itself_is_known(more: dict[str, object], tmp_path: Path) -> None:
    LoraConfig(r=8, target_modules=["q_proj"], task_type="CAUSAL_LM", **more).save_pretrained(
        tmp_path
    )
    assert (
        lora_math.find_unsupported_settings(
            json.loads((tmp_path / "adapter_config.json").read_text())
        )
        == []
    )
