"""Added tokens of a tokenizer that stand in a text as words act in none: they are encoded as the
letters that they are.
"""

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from medexp.config.schema import Prompt
from medexp.data.control_tokens import TextEncoder

DIRECT = Prompt("direct", "Q: {question}\nA: ", "{answer}")
R1 = Prompt(
    "r1", "<｜User｜>{question}<｜Assistant｜><think>\n", "{reasoning}\n</think>\n\n{answer}"
)


@pytest.fixture(scope="module")
def like_llama_3():
    """Bytes alone, whole words of the vocabulary taken as they are, special tokens beyond it, and
    some that are not special, as DeepSeek adds them to Llama 3; one of the vocabulary's own, as
    SmolLM2 has them, and letters and spaces, as others do."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate([*letters, "<|pad|>"])}
    made = Tokenizer(models.BPE(vocabulary, [], ignore_merges=True))
    made.pre_tokenizer, made.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        decoders.ByteLevel(),
    )
    made.add_special_tokens(
        ["<|pad|>", "<|begin_of_text|>", "<|eot_id|>", "<|reserved_special_token_0|>"]
    )
    made.add_tokens(
        [
            AddedToken(each, special=False, normalized=each[1] != "t")
            for each in ("<think>", "</think>", "<｜User｜>")
        ]
    )
    made.add_tokens(["<｜Assistant｜>", "ő", "    ", "<tool_call>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>"
    )


@pytest.fixture(scope="module", params=["embedded", "llama"])
def tokenizer(request, embedded_tokenizer, like_llama_3):
    return embedded_tokenizer if request.param == "embedded" else like_llama_3


@pytest.mark.parametrize("prompt", [DIRECT, R1], ids=["direct", "r1"])
def test_no_added_token_acts_in_a_text(tokenizer, prompt):
    encoder = TextEncoder(tokenizer, prompt)
    assert len(encoder.plain) >= 5
    texts = [f"Fever {mark} since{mark}Monday" for mark in sorted(encoder.plain)]
    for text, encoding in zip(texts, encoder.encode(texts), strict=True):
        assert not encoder.ids & set(encoding.ids), text
        assert tokenizer.decode(encoding.ids) == text
        assert encoding.offsets[-1][1] == len(text)


def test_those_that_the_prompt_writes_keep_their_numbers(like_llama_3):
    encoder = TextEncoder(like_llama_3, R1)
    assert encoder.written == {"<think>", "</think>", "<｜User｜>", "<｜Assistant｜>"}
    (encoding,) = encoder.encode(["<｜User｜>ő <|eot_id|><｜Assistant｜><think>"])
    numbers = like_llama_3.convert_tokens_to_ids(["<｜User｜>", "ő", "<｜Assistant｜>", "<think>"])
    assert [each for each in encoding.ids if each > 256] == numbers


def test_letters_and_spaces_among_the_added_tokens_are_vocabulary(like_llama_3):
    assert not TextEncoder(like_llama_3, DIRECT).plain & {"ő", "    "}
    assert len(TextEncoder(like_llama_3, DIRECT).encode(["ő    "])[0].ids) == 2


def test_a_text_without_them_is_what_the_tokenizer_makes_of_it(tokenizer):
    texts = ["Fever?", "a <b> c", "<|eot", "  \n", ""]
    encoded = [
        encoding.ids for encoding in TextEncoder(tokenizer, DIRECT).encode([*texts, "<|eot_id|>"])
    ][:-1]
    assert encoded == [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
