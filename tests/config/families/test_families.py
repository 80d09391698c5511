"""What is said of a family is what Transformers builds, for the exact shape of every preset."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.families import make_config, make_tiny_config, make_tiny_shape

from medexp.config.families import sizes
from medexp.config.families.decoder_family import CONFIG_NAMES
from medexp.config.families.registry import FAMILIES, find_text_part
from medexp.config.model_shape import check_shape, derive_shape
from medexp.config.schema import Family, RunConfig
from medexp.config.shipped import find_conf_dir
from medexp.errors import ModelError
from medexp.planning.memory_terms import count_lora_parameters

PRESETS = sorted(
    file.stem
    for file in (find_conf_dir() / "model").glob("*.yaml")
    if file.stem not in ("local", "hub")
)
# Parameters as published: on the model's page or in its report; Gemma's text part without images.
PUBLISHED = {
    "qwen3_4b": 4.022e9,
    "qwen3_8b": 8.191e9,
    "gemma3_4b_it": 3.880e9,
    "medgemma_4b_it": 3.880e9,
    "llama_3_1_8b_instruct": 8.030e9,
    "deepseek_r1_distill_llama_8b": 8.030e9,
    "mistral_7b_instruct": 7.248e9,
    "phi_4_mini": 3.836e9,
    "llama_3_2_3b": 3.213e9,
    "smollm2_135m": 134.5e6,
    "deepseek_r1_distill_qwen_1_5b": 1.777e9,
    "deepseek_r1_distill_qwen_14b": 14.770e9,
    "deepseek_r1_distill_qwen_32b": 32.764e9,
}


def build_on_meta(config: Any) -> Any:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def count(network: Any, trained: bool = False) -> int:
    return sum(
        parameter.numel()
        for parameter in network.parameters()
        if parameter.requires_grad or not trained
    )


def adapt(network: Any, run: RunConfig) -> Any:
    from peft import LoraConfig, get_peft_model

    targets = sizes.name_targets(run.model.shape.family, run.lora.target_modules)
    asked = LoraConfig(r=run.lora.r, target_modules=targets, task_type="CAUSAL_LM")
    return get_peft_model(network, asked)


@pytest.mark.parametrize("preset", PRESETS)
def test_parameters_are_those_that_transformers_and_peft_build(
    resolved: Callable[..., RunConfig], preset: str
) -> None:
    for option in ("all_linear", "attention_only"):
        run = resolved("hardware=h200_141gb", f"model={preset}", f"lora={option}")
        network = build_on_meta(make_config(run.model.shape))
        assert count(network) == sizes.count_parameters(run.model.shape)
        assert count(adapt(network, run), trained=True) == count_lora_parameters(run)
    assert sizes.count_parameters(run.model.shape) == pytest.approx(PUBLISHED[preset], rel=1e-3)


@pytest.mark.parametrize("family", Family)
def test_every_family_is_described_and_small_ones_are_counted(family: Family) -> None:
    shape = make_tiny_shape(family)
    network = build_on_meta(make_tiny_config(family))
    assert count(network) == sizes.count_parameters(shape)
    layer = network.model.layers[0]
    matrices = {
        name.rpartition(".")[2]: (module.in_features, module.out_features)
        for name, module in layer.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    assert matrices == sizes.list_linear_sizes(shape)
    norms = [each.numel() for name, each in layer.named_parameters() if "norm" in name]
    assert sorted(norms) == sorted(sizes.list_norm_widths(shape))
    kinds = getattr(network.config, "layer_types", None)
    if FAMILIES[family].full_attention_every:
        assert kinds.count("sliding_attention") == sizes.count_sliding_layers(shape)


@pytest.mark.parametrize("family", Family)
def test_what_a_config_leaves_out_is_what_transformers_takes(family: Family) -> None:
    from transformers import CONFIG_MAPPING

    plain = CONFIG_MAPPING[family.value]()
    for ours, value in FAMILIES[family].left_out.items():
        theirs = CONFIG_NAMES.get(ours, "sliding_window")
        assert getattr(plain, theirs) == value, theirs
    assert not any(getattr(plain, key, None) for key in FAMILIES[family].off)


# As Google publishes them: the part for text says little, and Transformers' defaults the rest.
GEMMA_3_4B = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "eos_token_id": [1, 106],
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model"},
}


def test_the_part_for_text_of_a_model_that_sees(resolved: Callable[..., RunConfig]) -> None:
    model = resolved("hardware=rtx4050_6gb", "model=medgemma_4b_it").model
    found = derive_shape(GEMMA_3_4B, "there")
    assert {**found, "family": Family.gemma3_text} == vars(model.shape)
    check_shape(model, GEMMA_3_4B)
    check_shape(model, GEMMA_3_4B | {"quantization_config": {"load_in_4bit": True}})
    other = {**GEMMA_3_4B, "text_config": {**GEMMA_3_4B["text_config"], "sliding_window": 512}}
    with pytest.raises(ModelError, match="window is 512 there and 1024 here"):
        check_shape(model, other)


QWEN_3_4B = {
    "model_type": "qwen3", "num_hidden_layers": 36, "hidden_size": 2560, "head_dim": 128,
    "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 9728,
    "vocab_size": 151936, "tie_word_embeddings": True, "max_window_layers": 36,
    "use_sliding_window": False, "sliding_window": None, "attention_bias": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"attention_bias": True}, "attention_bias is True there"),
        ({"use_sliding_window": True}, "use_sliding_window is True there"),
        (
            {"quantization_config": {"load_in_4bit": True, "llm_int8_skip_modules": [
                "lm_head", "model.layers.3.mlp", "model.layers.4.self_attn"]}},
            r"2 parts of layers are left in 16 bits there \(model.layers.3.mlp\)",
        ),
    ],
)  # fmt: skip
def test_what_no_plan_counts_is_refused(
    resolved: Callable[..., RunConfig], change: dict[str, Any], said: str
) -> None:
    model = resolved("hardware=rtx4050_6gb", "model=qwen3_4b").model
    check_shape(model, QWEN_3_4B)
    with pytest.raises(ModelError, match=said):
        check_shape(model, QWEN_3_4B | change)
    with pytest.raises(ModelError, match=f"there cannot be planned: {said}"):
        derive_shape(QWEN_3_4B | change, "there")


def test_a_window_bounds_what_a_layer_sees() -> None:
    shape = make_tiny_shape(Family.gemma3_text)
    assert (sizes.count_sliding_layers(shape), sizes.sum_attended(shape, 10)) == (6, 70)
    assert sizes.sum_attended(shape, 1000) == 6 * 64 + 1000
    llama = make_tiny_shape(Family.llama)
    assert sizes.sum_attended(llama, 1000) == 2000
    assert find_text_part({"model_type": "llama"}) is None


def test_a_fused_matrix_stands_for_its_parts() -> None:
    targets = ("q_proj", "k_proj", "v_proj", "down_proj")
    assert sizes.name_targets(Family.phi3, targets) == ["qkv_proj", "down_proj"]
    assert sizes.name_targets(Family.qwen3, targets) == list(targets)
    assert sizes.is_on_mlp(Family.phi3, ["gate_up_proj"])
    assert not sizes.is_on_whole_mlp(Family.phi3, ["gate_up_proj"])
    assert sizes.is_on_whole_mlp(Family.phi3, sizes.PROJECTIONS)


def test_a_new_family_is_a_file_of_its_own() -> None:
    folder = Path(sizes.__file__).parent
    files = {file.stem for file in folder.glob("*.py")}
    assert {family.value for family in FAMILIES} == {family.value for family in Family}
    assert {family.value for family in Family} <= files
