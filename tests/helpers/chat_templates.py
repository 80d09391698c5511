"""Published chat templates, and tokenizers that know their control tokens."""

from pathlib import Path
from typing import Any, NamedTuple

from medexp.config.schema import Prompt, PromptForm

FOLDER = Path(__file__).parents[1] / "data" / "chat_templates"
CHAT = Prompt(
    "chat",
    "{question}",
    "<think>\n{reasoning}\n</think>\n\n{answer}",
    PromptForm.chat,
    None,
)


class Tokens(NamedTuple):
    """The BOS and EOS tokens of a published tokenizer, and its other control tokens."""

    bos: str | None
    eos: str
    others: tuple[str, ...]


_CHATML = ("<|im_start|>", "<|endoftext|>")
_GEMMA = ("<start_of_turn>", "<end_of_turn>")
_LLAMA = ("<|start_header_id|>", "<|end_header_id|>", "<|end_of_text|>")
_PHI = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
_THINK = ("<think>", "</think>")
_R1 = Tokens(
    "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", ("<｜User｜>", "<｜Assistant｜>", *_THINK)
)
PUBLISHED = {
    "qwen3": Tokens(None, "<|im_end|>", (*_CHATML, *_THINK)),
    "qwen2_5": Tokens(None, "<|im_end|>", _CHATML),
    "gemma_3": Tokens("<bos>", "<eos>", _GEMMA),
    "gemma_2": Tokens("<bos>", "<eos>", _GEMMA),
    "llama_3_1": Tokens("<|begin_of_text|>", "<|eot_id|>", _LLAMA),
    "llama_3_2": Tokens("<|begin_of_text|>", "<|eot_id|>", _LLAMA),
    "mistral_v0_3": Tokens("<s>", "</s>", ("[INST]", "[/INST]")),
    "phi_4_mini": Tokens("<|endoftext|>", "<|endoftext|>", _PHI),
    "deepseek_r1_distill": _R1,
    "deepseek_r1_distill_first": _R1,
    "smollm2": Tokens("<|im_start|>", "<|im_end|>", ("<|endoftext|>",)),
}


def read_template(name: str) -> str:
    """Return the Jinja text of a published template."""
    return (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")


def make_tokenizer(name: str, vocabulary: Any) -> Any:
    """Return a tokenizer with the published template `name` and its control tokens, which splits
    words as `vocabulary` does.
    """
    from tokenizers import Tokenizer
    from tokenizers.decoders import ByteLevel
    from transformers import PreTrainedTokenizerFast

    tokens = PUBLISHED[name]
    words = Tokenizer.from_str(vocabulary.backend_tokenizer.to_str())
    # That of a GGUF would take R1's marks, which hold sentencepiece's line, for such a tokenizer's.
    words.decoder = ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token=tokens.bos,
        eos_token=tokens.eos,
        # Reasoning marks are tokens that a decoded answer keeps.
        additional_special_tokens=[token for token in tokens.others if token not in _THINK],
    )
    made.add_tokens([token for token in tokens.others if token in _THINK])
    made.chat_template = read_template(name)
    return made
