"""What tells a family of decoders from another, as far as counting, loading and exporting need it.

What is the same in all of them is not here: layers in a stack, each with attention and a gated MLP
of three matrices, root-mean-square norms without biases, an embedding, a head.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

# Our word for a part of the shape: the word in a Hugging Face config.json.
CONFIG_NAMES: Mapping[str, str] = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "ffn": "intermediate_size",
    "vocab": "vocab_size",
    "tied_embeddings": "tie_word_embeddings",
}


@dataclass(frozen=True)
class FusedProjection:
    """One matrix that stands for several, its rows one after the other."""

    name: str
    parts: tuple[str, ...]


@dataclass(frozen=True)
class TextPart:
    """Where a model of text and images keeps its decoder: `model_type` is that of the whole,
    `architecture` the decoder's own class; `tensors` are the beginnings of its tensors' names, each
    with what the decoder alone calls it.
    """

    model_type: str
    architecture: str
    tensors: Mapping[str, str]

    def name_in_decoder(self, tensor: str) -> str | None:
        """Return what the decoder alone calls `tensor` of the whole; None where it has it not."""
        for theirs, ours in self.tensors.items():
            if tensor.startswith(theirs):
                return ours + tensor.removeprefix(theirs)
        return None


@dataclass(frozen=True)
class DecoderFamily:
    """How the decoders of a family are built. The defaults are Llama's.

    `left_out` is what Transformers takes where config.json leaves a part of the shape out; `off`
    are keys of config.json that switch on what is not counted here, and so must be off. The window
    of `sliding` layers is `ModelShape.window`; every `full_attention_every`-th layer attends to
    everything, where that is set.
    """

    left_out: Mapping[str, int | bool | None] = field(
        default_factory=lambda: {"tied_embeddings": False}
    )
    off: tuple[str, ...] = ()
    # Whether plans were held against a card (benchmarks/vram): they leave more of it free, else.
    is_measured: bool = False
    text_part: TextPart | None = None
    fused: tuple[FusedProjection, ...] = ()
    has_attention_biases: bool = False
    # Norms as wide as the model in a layer: before attention and MLP, and after them in some.
    wide_norms: int = 2
    # Queries and keys are normalised: each head by itself, or all at once.
    norms_each_head: bool = False
    norms_all_heads: bool = False
    has_sliding_layers: bool = False
    full_attention_every: int | None = None
    # Whether Unsloth trains its layers with its own kernels for LoRA; PEFT's are compiled, else.
    runs_fused_kernels: bool = True
    # Whether its activations stay inside float16's range.
    fits_float16: bool = True
    # The name of its architecture in a GGUF, None where medexp's own writer does not know it; and
    # whether llama.cpp wants the rows of queries and keys in another order.
    gguf_architecture: str | None = None
    gguf_reorders_heads: bool = False
