"""GGUF files read back by Transformers and by the package gguf: the same network, the same tokens,
or a refusal.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from medexp.config.command_options import GgufType
from medexp.config.schema import Family, ModelShape
from medexp.errors import ModelError
from medexp.exporters import chat_template, tokenizer_files
from medexp.exporters import gguf as gguf_file
from medexp.exporters.gguf import GgufMetadata

# Transformers reads no other width of a head from a GGUF of that family.
HEAD_DIM = {"qwen3": 128}
WRITTEN = ("llama", "qwen2", "qwen3", "mistral")


def _ignored(_: int) -> None:
    pass


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory, embedded_tokenizer: Any) -> Path:
    """The embedded tokenizer as an export holds it."""
    made, folder = tmp_path_factory.mktemp("saved"), tmp_path_factory.mktemp("exported")
    embedded_tokenizer.save_pretrained(made)
    tokenizer_files.copy_tokenizer(made, folder, "{{ bos_token }}")
    return folder


def _about(family: str, vocab: int = 49152) -> GgufMetadata:
    shape = ModelShape(
        family=Family(family),
        layers=2,
        hidden=64,
        heads=4,
        kv_heads=2,
        head_dim=HEAD_DIM.get(family, 16),
        ffn=128,
        vocab=vocab,
        tied_embeddings=True,
    )
    return GgufMetadata("tiny", "MIT", shape)


def _written(made: Any, tokenizer_folder: Path, family: str, kind: GgufType, folder: Path) -> Path:
    file = folder / f"{kind.value}.gguf"
    gguf_file.write_gguf(made.merged(), tokenizer_folder, _about(family), kind, file, _ignored)
    return file


def _logits(network: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = network.eval()(torch.arange(3, 60)[None]).logits.float()
    return found


@pytest.mark.parametrize(
    ("family", "kind", "largest"),
    [
        ("llama", GgufType.f16, 2e-3),
        ("qwen2", GgufType.q8_0, 3e-2),
        ("qwen3", GgufType.f16, 2e-3),
        ("mistral", GgufType.f16, 2e-3),
    ],
)
def test_transformers_reads_the_same_network(
    pair: Callable[..., Any],
    tokenizer_folder: Path,
    tmp_path: Path,
    family: str,
    kind: GgufType,
    largest: float,
) -> None:
    from transformers import AutoModelForCausalLM, GgufConfig

    config = {"vocab_size": 49152, "tie_word_embeddings": True}
    config["head_dim"] = HEAD_DIM.get(family, 16)
    made = pair(family, config=config, lora_alpha=16)
    file = _written(made, tokenizer_folder, family, kind, tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(
        tmp_path,
        gguf_file=file.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    ours, wanted = _logits(loaded), _logits(made.network.merge_and_unload())
    assert (ours - wanted).abs().max() < largest * wanted.abs().max()
    expected = gguf_file.estimate_file_bytes(made.merged(), kind)
    assert expected < file.stat().st_size < expected + 4_000_000  # the tokenizer


def test_the_tokenizer_is_the_one_of_training(
    pair: Callable[..., Any], tokenizer_folder: Path, tmp_path: Path
) -> None:
    made = pair("llama", config={"vocab_size": 49152, "tie_word_embeddings": True})
    read = gguf.GGUFReader(_written(made, tokenizer_folder, "llama", GgufType.bf16, tmp_path))
    value = {
        name: field.contents()
        for name, field in read.fields.items()
        if name.startswith("tokenizer.")
    }
    known = json.loads((tokenizer_folder / "tokenizer.json").read_text(encoding="utf-8"))
    assert value["tokenizer.ggml.pre"] == "smollm"
    assert value["tokenizer.ggml.tokens"][known["model"]["vocab"]["Ġthe"]] == "Ġthe"
    assert value["tokenizer.ggml.merges"][0] == " ".join(known["model"]["merges"][0])
    assert (value["tokenizer.ggml.bos_token_id"], value["tokenizer.ggml.eos_token_id"]) == (1, 2)
    assert value["tokenizer.ggml.token_type"][2] == gguf.TokenType.CONTROL
    # llama.cpp's own converter says False here; training texts had one
    assert value["tokenizer.ggml.add_bos_token"] is True
    assert value["tokenizer.chat_template"] == "{{ bos_token }}"
    down = next(name for name in read.tensors if name.name == "blk.1.ffn_down.weight")
    wanted = (
        made.merged().load_tensor("model.layers.1.mlp.down_proj.weight").bfloat16().float().numpy()
    )
    assert (gguf.quants.dequantize(down.data, down.tensor_type) == wanted).all()


@pytest.mark.parametrize("family", [each for each in Family if each.value not in WRITTEN])
def test_another_family_is_refused(family: Family) -> None:
    with pytest.raises(
        ModelError,
        match=f"a GGUF of family {family.value} is not written here .llama, qwen2, qwen3, mistral"
        " are.; export to=merged and convert that",
    ):
        gguf_file.check_family(_about(family.value).shape)
    for written in WRITTEN:
        gguf_file.check_family(_about(written).shape)


def test_a_tokenizer_of_an_unknown_rule_is_refused(tokenizer_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tokenizer_folder, tmp_path / "other")
    file = folder / "tokenizer.json"
    changed = json.loads(file.read_text(encoding="utf-8"))
    changed["pre_tokenizer"] = {"type": "Whitespace"}
    file.write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(ModelError, match="splits text by a rule that is not known here"):
        gguf_file.find_pre_tokenizer(folder)


def test_llama_3_s_rotary_scaling_is_the_one_of_transformers() -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    }  # fmt: skip
    config = LlamaConfig(
        hidden_size=512,
        num_attention_heads=4,
        head_dim=128,
        max_position_embeddings=131072,
        rope_parameters=rope,
    )
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 1.0 / 500000.0 ** (torch.arange(0, 128, 2) / 128)
    shape = replace(_about("llama").shape, head_dim=128)
    for spelled in (
        {"rope_parameters": rope},
        {"rope_theta": 500000.0, "rope_scaling": {**rope, "rope_theta": 500000.0}},
    ):
        factors = torch.tensor(gguf_file._compute_rope_factors(spelled, shape))
        torch.testing.assert_close(plain / factors, scaled, rtol=1e-4, atol=0)
    assert not gguf_file._compute_rope_factors({"rope_theta": 1e4}, shape)
    with pytest.raises(ModelError, match="rope_type=yarn"):
        gguf_file._compute_rope_factors({"rope_scaling": {"type": "yarn"}}, shape)


def test_a_row_that_is_no_multiple_of_a_block_stays_f16() -> None:
    assert gguf_file._choose_storage((8, 48), GgufType.q8_0) == (gguf.GGMLQuantizationType.F16, 768)
    assert gguf_file._choose_storage((8, 64), GgufType.q8_0) == (
        gguf.GGMLQuantizationType.Q8_0,
        544,
    )
    assert gguf_file._choose_storage((64,), GgufType.q8_0) == (gguf.GGMLQuantizationType.F32, 256)


def test_rows_are_interleaved_head_by_head() -> None:
    rows = np.arange(8, dtype=np.float32)[:, None]
    assert gguf_file._permute_rows(rows, 2).ravel().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_the_chat_template_of_a_run_goes_in(
    tokenizer_folder: Path, tmp_path: Path, prompt: Any
) -> None:
    from transformers import AutoTokenizer

    tokenizer_files.copy_tokenizer(
        tokenizer_folder, tmp_path, chat_template.render_jinja_template(prompt)
    )
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    ids = loaded.apply_chat_template([{"role": "user", "content": "Why?"}], return_dict=False)
    assert ids == [1, *loaded("Q: Why?\n<think>\n", add_special_tokens=False)["input_ids"]]
