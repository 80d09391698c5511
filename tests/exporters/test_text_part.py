"""What is exported of a model of text and images: its decoder, with the adapter merged in."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.families import make_network, make_tiny_config
from helpers.seeing import make_seeing_network

from medexp.config.command_options import MergedDtype
from medexp.config.families.gemma3_text import GEMMA3_TEXT
from medexp.config.families.sizes import PROJECTIONS
from medexp.config.schema import Family
from medexp.exporters import merge, model_card
from medexp.exporters.base_checkpoint import BaseCheckpoint
from medexp.exporters.merge import MergedWeights
from medexp.exporters.serve_script import find_vllm_obstacle
from medexp.models import backend


@pytest.mark.parametrize("new_names", [False, True])
def test_the_merged_decoder_loads_by_itself_and_is_the_tuned_one(
    tmp_path: Path, new_names: bool
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    decoder = make_network(make_tiny_config(Family.gemma3_text))
    base = tmp_path / "base"
    make_seeing_network(decoder).save_pretrained(base, save_original_format=not new_names)
    asked = LoraConfig(r=4, target_modules=list(PROJECTIONS), task_type="CAUSAL_LM")
    tuned = get_peft_model(decoder, asked)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    tuned.save_pretrained(tmp_path / "adapter")
    merged = MergedWeights(BaseCheckpoint(base, backend.load_bitsandbytes), tmp_path / "adapter")
    assert not [name for name in merged.names if "vision" in name or "language" in name]
    out = tmp_path / "out"
    out.mkdir()
    merge.write_merged(merged, out, MergedDtype.bfloat16, lambda _: None)
    config = json.loads((out / "config.json").read_text())
    assert (config["architectures"], config["model_type"]) == (
        ["Gemma3ForCausalLM"],
        "gemma3_text",
    )
    loaded: Any = AutoModelForCausalLM.from_pretrained(out, dtype=torch.bfloat16)
    wanted = tuned.merge_and_unload().to(torch.bfloat16)
    found, expected = loaded.state_dict(), wanted.state_dict()
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_an_adapter_of_a_part_says_what_it_fits() -> None:
    assert GEMMA3_TEXT.text_part is not None
    text = model_card.render_usage("mine", {"adapter": "a"}, False, part=GEMMA3_TEXT.text_part)
    assert "as Transformers' Gemma3ForCausalLM loads it" in text
    assert "to=merged" in text
    assert find_vllm_obstacle(8, False, False, is_part=True) is not None
