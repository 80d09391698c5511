"""The embedded model with an adapter, exported and read back: the same greedy tokens."""

from pathlib import Path
from typing import Any

import pytest
import torch

from medexp.config.command_options import GgufType, MergedDtype
from medexp.config.schema import Family, ModelShape
from medexp.exporters import gguf as gguf_file
from medexp.exporters import merge, tokenizer_files
from medexp.exporters.base_checkpoint import BaseCheckpoint
from medexp.exporters.gguf import GgufMetadata
from medexp.exporters.merge import MergedWeights
from medexp.models import backend

SHAPE = ModelShape(
    family=Family.llama,
    layers=30,
    hidden=576,
    heads=9,
    kv_heads=3,
    head_dim=64,
    ffn=1536,
    vocab=49152,
    tied_embeddings=True,
)


def _ignored(_: int) -> None:
    pass


def _answer(network: Any, ids: torch.Tensor) -> list[int]:
    with torch.no_grad():
        made = network.eval().generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=16,
            do_sample=False,
            pad_token_id=2,
        )
    said: list[int] = made[0, ids.shape[1] :].tolist()
    return said


@pytest.mark.slow
def test_merged_weights_and_gguf_give_the_tokens_of_base_and_adapter(
    embedded_tokenizer: Any, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, GgufConfig

    base = Path(embedded_tokenizer.name_or_path)
    torch.manual_seed(0)
    apart = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        LoraConfig(r=8, task_type="CAUSAL_LM", lora_alpha=16),
    )
    for name, parameter in apart.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    apart.save_pretrained(tmp_path / "adapter")
    embedded_tokenizer.save_pretrained(tmp_path / "adapter")
    merged = MergedWeights(BaseCheckpoint(base, backend.load_bitsandbytes), tmp_path / "adapter")
    ids = torch.tensor(
        [
            [
                1,
                *embedded_tokenizer("### Query:\nWhat causes chest pain?\n\n### Answer:\n")[
                    "input_ids"
                ],
            ]
        ]
    )

    (tmp_path / "merged").mkdir()
    merge.write_merged(merged, tmp_path / "merged", MergedDtype.bfloat16, _ignored)
    (tmp_path / "gguf").mkdir()
    tokenizer_files.copy_tokenizer(tmp_path / "adapter", tmp_path / "gguf", "")
    gguf_file.write_gguf(
        merged,
        tmp_path / "gguf",
        GgufMetadata("tuned", "MIT", SHAPE),
        GgufType.f16,
        tmp_path / "gguf/f16.gguf",
        _ignored,
    )
    read_back = AutoModelForCausalLM.from_pretrained(
        tmp_path / "gguf",
        gguf_file="f16.gguf",
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    assert _answer(read_back, ids) == _answer(apart, ids)

    halved = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.bfloat16)
    by_peft = apart.merge_and_unload().to(torch.bfloat16)
    assert all(
        torch.equal(value, by_peft.state_dict()[name])
        for name, value in halved.state_dict().items()
    )
    assert _answer(halved, ids) == _answer(by_peft, ids)
