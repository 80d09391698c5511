"""Merged weights beside PEFT's own, of every kind of adapter that medexp trains, and as a
checkpoint that loads.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from safetensors.torch import load_file, save_file

from medexp.config.command_options import MergedDtype
from medexp.errors import ModelError
from medexp.exporters import merge


def _ignored(_: int) -> None:
    pass


@pytest.mark.parametrize(
    "lora",
    [
        {"lora_alpha": 16},
        {"lora_alpha": 16, "use_rslora": True},
        {"use_dora": True},
        {"bias": "all", "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]},
        {"bias": "lora_only", "use_dora": True, "use_rslora": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("family", ["llama", "qwen2", "phi3"])
def test_weights_are_those_of_merge_and_unload(
    pair: Callable[..., Any], family: str, lora: dict[str, Any]
) -> None:
    made = pair(family, **lora)
    ours = made.merged()
    peft = made.by_peft()
    assert set(ours.names) == set(peft)
    for name in ours.names:
        torch.testing.assert_close(
            ours.load_tensor(name),
            peft[name],
            rtol=1e-5,
            atol=1e-6,
            msg=lambda text, name=name: f"{name}: {text}",
        )


def test_bfloat16_is_rounded_once_as_peft_rounds_it(
    pair: Callable[..., Any], tmp_path: Path
) -> None:
    made = pair("llama", "bfloat16", lora_alpha=16, config={"tie_word_embeddings": True})
    merge.write_merged(made.merged(), tmp_path, MergedDtype.bfloat16, _ignored)
    ours, peft = load_file(tmp_path / "model.safetensors"), made.by_peft()
    assert set(peft) - set(ours) == {"lm_head.weight"}  # tied
    assert all(torch.equal(ours[name], peft[name]) for name in ours)


def test_a_base_in_nf4_is_merged_as_it_was_trained_on(
    pair: Callable[..., Any], tmp_path: Path
) -> None:
    made = pair("llama", "bfloat16", nf4=True, lora_alpha=16)
    merge.write_merged(made.merged(), tmp_path, MergedDtype.bfloat16, _ignored)
    ours = load_file(tmp_path / "model.safetensors")
    layers = {
        name: module
        for name, module in made.network.get_base_model().named_modules()
        if hasattr(module, "lora_A")
    }
    assert len(layers) == 14
    for name, layer in layers.items():
        seen = layer.base_layer.weight  # what the adapter was put upon
        plain = bitsandbytes.functional.dequantize_4bit(seen.data, seen.quant_state).float()
        assert torch.equal(
            ours[f"{name}.weight"], (plain + layer.get_delta_weight("default")).bfloat16()
        )
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())


def test_files_are_cut_at_their_size_and_load_as_one(
    pair: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = pair("qwen2")
    monkeypatch.setattr(merge, "MAX_SHARD_BYTES", 60_000)
    told: list[int] = []
    merge.write_merged(made.merged(), tmp_path, MergedDtype.float16, told.append)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) > 2
    assert all(
        sum(tensor.nbytes for tensor in load_file(file).values()) <= 60_000 for file in files
    )
    assert sum(told) == len(made.merged().names)
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    peft = made.by_peft()
    assert all(torch.equal(loaded[name], peft[name].half()) for name in peft)


def test_a_value_that_float16_cannot_hold_is_refused(
    pair: Callable[..., Any], tmp_path: Path
) -> None:
    made = pair("llama")
    weights = load_file(made.base / "model.safetensors")
    weights["model.norm.weight"][0] = 1e6
    save_file(weights, made.base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ModelError,
        match=(
            r"model.norm.weight holds a value that float16 cannot; export with"
            r" export.dtype=bfloat16"
        ),
    ):
        merge.write_merged(made.merged(), tmp_path, MergedDtype.float16, _ignored)


def test_a_base_without_safetensors_or_otherwise_quantised_is_refused(
    pair: Callable[..., Any],
) -> None:
    made = pair("llama")
    config = json.loads((made.base / "config.json").read_text())
    (made.base / "config.json").write_text(
        json.dumps(config | {"quantization_config": {"quant_method": "gptq"}})
    )
    with pytest.raises(ModelError, match="quantised in a way that is not read here"):
        made.merged()
    (made.base / "config.json").write_text(json.dumps(config))
    (made.base / "model.safetensors").unlink()
    with pytest.raises(
        ModelError, match=r"has no model.safetensors; only safetensors checkpoints are exported"
    ):
        made.merged()
