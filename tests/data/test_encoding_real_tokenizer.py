"""The promises of test_encoding and test_prompts once more, with the embedded model's own
tokenizer.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medexp.config.schema import LossOn, Overlong
from medexp.data import loading as data_loading
from medexp.data.cases import Case
from medexp.data.encoding import IGNORED, encode_case, encode_cases, encode_prompt, make_vocabulary
from medexp.data.prompts import render_case, render_question

# the rest is partly not in its vocabulary
LETTERS = st.characters(max_codepoint=0x1FFFF, exclude_categories=["Cs", "Cc"])
PIECES = st.text(LETTERS, max_size=12) | st.sampled_from(
    ["{answer}", "\t", "\n", "\r\n", " . ", "</think>", "≥38 °C", "発熱"]
)
TEXTS = st.lists(PIECES, max_size=4).map("".join)
CASES = st.builds(Case, TEXTS, TEXTS, TEXTS)


@pytest.fixture(scope="module")
def real(embedded_tokenizer, run):
    return make_vocabulary(embedded_tokenizer, run.prompt)


@pytest.fixture(scope="module")
def run(resolved):
    return resolved("hardware=cpu")


def test_the_ends_of_a_text_are_the_chat_models(embedded_tokenizer, real):
    assert embedded_tokenizer.convert_ids_to_tokens([real.bos_id, real.eos_id]) == [
        "<|im_start|>",
        "<|im_end|>",
    ]
    assert real.bos_id not in real.encode("no special tokens are added")


@given(CASES)
@settings(max_examples=150)
def test_the_inference_prompt_is_an_exact_prefix_and_the_rest_is_learnt(
    embedded_tokenizer, run, real, case
):
    encoded = encode_case(run.prompt, case, real, LossOn.completion)
    asked = encode_prompt(render_question(run.prompt, case.question), real)
    learnt = [label for label in encoded.labels if label != IGNORED]
    assert encoded.input_ids == asked + learnt
    assert (encoded.input_ids[0], encoded.input_ids.count(real.bos_id)) == (real.bos_id, 1)
    assert (learnt[-1], encoded.input_ids.count(real.eos_id)) == (real.eos_id, 1)
    text = render_case(run.prompt, case)
    asked_text, learnt_text = embedded_tokenizer.batch_decode(
        [asked[1:], learnt[:-1]], clean_up_tokenization_spaces=False
    )
    assert (asked_text, learnt_text) == (text.prompt, text.completion)
    assert learnt_text.startswith(case.reasoning)


def test_nearly_every_shipped_case_fits_the_cpu_preset_s_length(run, real):
    cases = data_loading.load_cases(run.dataset).cases
    encoded = encode_cases(
        run.prompt, cases, real, run.training.max_seq_tokens, Overlong.drop, LossOn.completion
    )
    assert len(encoded.cases) >= 0.98 * len(cases)
    assert run.evaluation.max_seq_tokens >= run.training.max_seq_tokens
