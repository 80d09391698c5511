"""Merged weights as a GGUF that llama.cpp and Ollama read: f16, bf16 or q8_0, a tensor at a time,
through the package `gguf`.

It covers the families that say so in `config.families`, and byte-level BPE tokenizers. A
tokenizer whose pre-tokenizer is not known here is refused, because llama.cpp would tokenize a
prompt differently from training.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medexp.config.command_options import GgufType
from medexp.config.families.registry import FAMILIES, describe_family
from medexp.config.schema import ModelShape
from medexp.errors import ModelError, listing
from medexp.exporters import tokenizer_files
from medexp.exporters.merge import MergedWeights

SUPPORTED_TYPES = (GgufType.f16, GgufType.bf16, GgufType.q8_0)
# Numbers of a row that share a scale in q8_0. A row that is no multiple of it stays f16.
_Q8_0_BLOCK = 32

# A text that tells pre-tokenizers apart, and by the SHA-256 of its token ids the names that
# llama.cpp has for those of conf/model. Source: llama.cpp's convert_hf_to_gguf.py (MIT),
# get_vocab_base_pre.
_PROBE = (
    "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n🚀 (normal) 😶\u200d🌫️ (multiple emojis"
    " concatenated) ✅ 🦙🦙 3 33 333 3333 33333 333333 3333333 33333333 3.3 3..3 3...3"
    " កាន់តែពិសេសអាច😁 ?我想在apple工作1314151天～ ------======= нещо на Български"
    " ''''''```````\"\"\"\"......!!!!!!?????? I've been 'told he's there, 'RE you sure? 'M not sure"
    " I'll make it, 'D you like some tea? We'Ve a'lL"
)
_PRE_TOKENIZERS = {
    "0ef9807a4087ebef797fc749390439009c3b9eda9ad1a097abbe738f486c01e5": "llama-bpe",
    "e636dc30a262dcc0d8c323492e32ae2b70728f4df7dfe9737d9f920a282b8aea": "qwen2",
    "855059429035d75a914d1eda9f10a876752e281a054a7a3d421ef0533e5b6249": "smollm",
    "b3f499bb4255f8ca19fccd664443283318f2fd2414d5e0b040fbdd0cc195d6c5": "deepseek-r1-qwen",
    "3ce83efda5659b07b1ad37ca97ca5797ea4285d9b9ab0dc679e4a720c9da7454": "gpt-2",
}


@dataclass(frozen=True)
class GgufMetadata:
    """What a GGUF says of its model beside the weights; `adds_bos` where texts begin with the BOS
    token.
    """

    name: str
    licence: str
    shape: ModelShape
    adds_bos: bool = True


def check_family(shape: ModelShape) -> None:
    """Raises: ModelError for a family that is not written here."""
    if describe_family(shape).gguf_architecture is None:
        known = [
            family.value for family, each in FAMILIES.items() if each.gguf_architecture is not None
        ]
        raise ModelError(
            f"a GGUF of family {shape.family.value} is not written here ({listing(known)} are);"
            " export to=merged and convert that with llama.cpp's convert_hf_to_gguf.py"
        )


def find_pre_tokenizer(tokenizer_folder: Path) -> str:
    """Return llama.cpp's name for how the tokenizer in the folder splits text before BPE.

    Raises: ModelError if it is none that is known here.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    plain = tokenizer.encode(_PROBE, add_special_tokens=False).ids
    bos = tokenizer.token_to_id(
        tokenizer_files.read_special_token(tokenizer_folder, "bos_token") or ""
    )
    for ids in (tokenizer.encode(_PROBE).ids, plain, [bos, *plain]):
        name = _PRE_TOKENIZERS.get(hashlib.sha256(str(ids).encode()).hexdigest())
        if name is not None:
            return name
    raise ModelError(
        f"the tokenizer in {tokenizer_folder} splits text by a rule that is not known here, so no"
        f" GGUF can be written for it (known are {listing(_PRE_TOKENIZERS.values())}); export"
        " to=merged and convert that with llama.cpp's convert_hf_to_gguf.py"
    )


def estimate_file_bytes(merged: MergedWeights, gguf_type: GgufType) -> int:
    """Return how many bytes the tensors take in the file."""
    return sum(_choose_storage(merged.shape_of(name), gguf_type)[1] for name in merged.names)


def write_gguf(
    merged: MergedWeights,
    tokenizer_folder: Path,
    metadata: GgufMetadata,
    gguf_type: GgufType,
    file: Path,
    advance: Callable[[int], None],
) -> None:
    """Write `file`; `advance` is called with 1 after every tensor.

    Raises: ModelError for a tokenizer or a tensor that a GGUF of this architecture has no place
        for.
    """
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(file, describe_family(metadata.shape).gguf_architecture)
    try:
        _add_hyperparameters(writer, merged.base.config, metadata, gguf_type)
        _add_tokenizer(writer, tokenizer_folder, metadata.shape.vocab, metadata.adds_bos)
        rope_factors = _compute_rope_factors(merged.base.config, metadata.shape)
        if rope_factors:
            writer.add_tensor_info(
                "rope_freqs.weight",
                (len(rope_factors),),
                np.dtype(np.float32),
                4 * len(rope_factors),
            )
        gguf_names = _map_tensor_names(merged, metadata.shape)
        for name, gguf_name in gguf_names.items():
            ggml_type, num_bytes = _choose_storage(merged.shape_of(name), gguf_type)
            writer.add_tensor_info(
                gguf_name,
                _storage_shape(merged.shape_of(name), ggml_type),
                _numpy_type(ggml_type),
                num_bytes,
                raw_dtype=ggml_type,
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if rope_factors:
            writer.write_tensor_data(np.array(rope_factors, dtype=np.float32))
        for name in gguf_names:
            writer.write_tensor_data(_encode_tensor(merged, name, metadata.shape, gguf_type))
            advance(1)
    finally:
        writer.close()


def _add_hyperparameters(
    writer: Any, config: Mapping[str, Any], metadata: GgufMetadata, gguf_type: GgufType
) -> None:
    import gguf

    shape, rope = metadata.shape, _read_rope_parameters(config)
    writer.add_type("model")
    writer.add_name(metadata.name)
    writer.add_license(metadata.licence)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_block_count(shape.layers)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(shape.vocab)
    writer.add_file_type(getattr(gguf.LlamaFileType, f"MOSTLY_{gguf_type.name.upper()}"))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _read_rope_parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of the rotary embedding as Transformers 5 gguf_names them.

    Earlier versions keep theta apart from the scaling and call rope_type `type`.

    Raises: ModelError for a scaling that is not written here.
    """
    parameters = {
        "rope_theta": config.get("rope_theta", 10000.0),
        **(config.get("rope_parameters") or config.get("rope_scaling") or {}),
    }
    rope_type = parameters.get("rope_type", parameters.get("type", "default"))
    if rope_type not in ("default", "llama3"):
        raise ModelError(
            f"the base's rope_type={rope_type} is not written to a GGUF here; default and llama3"
            " are"
        )
    return parameters | {"rope_type": rope_type}


def _compute_rope_factors(config: Mapping[str, Any], shape: ModelShape) -> list[float]:
    """Return what llama.cpp divides each rotary frequency by; empty where none is scaled.

    Source: Llama 3.1's own scaling, as in transformers.modeling_rope_utils and llama.cpp's
        converter.
    """
    rope = _read_rope_parameters(config)
    if rope["rope_type"] != "llama3":
        return []
    old_context = rope["original_max_position_embeddings"]
    low = rope["low_freq_factor"]
    high = rope["high_freq_factor"]
    factors = []
    for index in range(0, shape.head_dim, 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (index / shape.head_dim)
        # How often this frequency turns within the context that the model was first trained on.
        turns = old_context / wavelength
        smooth = min(1.0, max(0.0, (turns - low) / (high - low)))
        factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return factors


def _add_tokenizer(writer: Any, folder: Path, vocab: int, adds_bos: bool) -> None:
    import gguf

    pre_tokenizer = find_pre_tokenizer(folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokens, token_types = _build_vocabulary(tokenizer, vocab)
    # llama.cpp calls every byte-level BPE gpt2.
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer)
    writer.add_token_list(tokens)
    writer.add_token_types(token_types)
    special = gguf.SpecialVocab(folder, load_merges=True, n_vocab=vocab)
    for name in ("bos", "eos", "pad"):
        if (token := tokenizer_files.read_special_token(folder, f"{name}_token")) in tokens:
            special.special_token_ids[name] = tokens.index(token)
    # No prompt ends with EOS.
    has_bos = adds_bos and "bos" in special.special_token_ids
    special.add_special_token = {"bos": has_bos, "eos": False}
    special.add_to_gguf(writer, quiet=True)


def _build_vocabulary(tokenizer: Mapping[str, Any], size: int) -> tuple[list[str], list[int]]:
    """Return the tokens by id, and their types.

    Control tokens are never read from plain text; user-defined ones are. An id without a token,
    where the embedding is larger than the vocabulary, is unused.
    """
    import gguf

    if tokenizer["model"]["type"] != "BPE":
        raise ModelError(
            f"the tokenizer is a {tokenizer['model']['type']} and only byte-level BPE is written to"
            " a GGUF here"
        )
    tokens = [f"[PAD{token_id}]" for token_id in range(size)]
    token_types = [int(gguf.TokenType.UNUSED)] * size
    for token, token_id in tokenizer["model"]["vocab"].items():
        tokens[token_id] = token
        token_types[token_id] = int(gguf.TokenType.NORMAL)
    for added in tokenizer["added_tokens"]:
        is_control = added["special"] or _is_control_token(added["content"])
        token_type = gguf.TokenType.CONTROL if is_control else gguf.TokenType.USER_DEFINED
        tokens[added["id"]] = added["content"]
        token_types[added["id"]] = int(token_type)
    return tokens, token_types


def _is_control_token(token: str) -> bool:
    """Does llama.cpp's converter take `token` for a control token by its look?"""
    has_ascii_bars = token.startswith("<|") and token.endswith("|>")
    has_wide_bars = token.startswith("<｜") and token.endswith("｜>")
    return has_ascii_bars or has_wide_bars or token in ("<pad>", "<mask>")


def _map_tensor_names(merged: MergedWeights, shape: ModelShape) -> dict[str, str]:
    """Return the name in a GGUF of every tensor.

    Raises: ModelError for a tensor that has none.
    """
    import gguf

    architecture = gguf.MODEL_ARCH[str(describe_family(shape).gguf_architecture).upper()]
    name_map = gguf.get_tensor_name_map(architecture, shape.layers)
    gguf_names: dict[str, str] = {}
    for name in merged.names:
        gguf_name = name_map.get_name(name, try_suffixes=(".weight", ".bias"))
        if gguf_name is None:
            raise ModelError(f"a GGUF of {shape.family.value} has no place for {name}")
        gguf_names[name] = gguf_name
    return gguf_names


def _choose_storage(shape: Sequence[int], gguf_type: GgufType) -> tuple[Any, int]:
    """Return the GGML type of a tensor of `shape`, and its bytes. Norms and biases stay float32.

    What llama.cpp's quantizer is to quantise is written as f16 first.
    """
    import gguf

    ggml_type = gguf.GGMLQuantizationType[
        gguf_type.name.upper() if gguf_type in SUPPORTED_TYPES else "F16"
    ]
    if len(shape) == 1:
        ggml_type = gguf.GGMLQuantizationType.F32
    elif ggml_type is gguf.GGMLQuantizationType.Q8_0 and shape[-1] % _Q8_0_BLOCK:
        ggml_type = gguf.GGMLQuantizationType.F16
    block_elements, block_bytes = gguf.GGML_QUANT_SIZES[ggml_type]
    return ggml_type, math.prod(shape) // block_elements * block_bytes


def _storage_shape(shape: Sequence[int], ggml_type: Any) -> Sequence[int]:
    """Return the shape of what is written: of bytes, where numpy has no type for the format."""
    import gguf

    return (
        shape
        if _numpy_type(ggml_type).itemsize > 1
        else gguf.quant_shape_to_byte_shape(shape, ggml_type)
    )


def _numpy_type(ggml_type: Any) -> Any:
    import numpy as np

    return np.dtype({"F32": np.float32, "F16": np.float16}.get(ggml_type.name, np.uint8))


def _encode_tensor(merged: MergedWeights, name: str, shape: ModelShape, gguf_type: GgufType) -> Any:
    import gguf

    values = merged.load_tensor(name).float().numpy()
    reorders = describe_family(shape).gguf_reorders_heads
    if reorders and name.endswith((".q_proj.weight", ".q_proj.bias")):
        values = _permute_rows(values, shape.heads)
    elif reorders and name.endswith((".k_proj.weight", ".k_proj.bias")):
        values = _permute_rows(values, shape.kv_heads)
    return gguf.quants.quantize(values, _choose_storage(merged.shape_of(name), gguf_type)[0])


def _permute_rows(values: Any, heads: int) -> Any:
    """Return the rows of each head reordered from two halves to neighbours.

    Transformers rotates a row with the one half a head further, llama.cpp with its neighbour.
    """
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape).copy()
