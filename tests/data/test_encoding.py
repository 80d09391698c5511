import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medexp.config.schema import LossOn, Overlong, Prompt
from medexp.data.cases import Case
from medexp.data.encoding import IGNORED, Vocabulary, encode_case, encode_cases, encode_prompt
from medexp.data.prompts import render_case, render_question
from medexp.errors import DataError

BOS, EOS = 1, 2
TEXTS = st.lists(
    st.text(max_size=8) | st.sampled_from(["{answer}", "{", "}", "</think>", "\n\n", ". "]),
    max_size=4,
).map("".join)
CASES = st.builds(Case, TEXTS, TEXTS, TEXTS)
SENTENCES = st.lists(st.from_regex(r"[a-z]{1,12}[.!?]", fullmatch=True), min_size=1, max_size=8)
GAPS = st.lists(st.sampled_from([" ", "  ", "\n", "\n\n"]), min_size=8, max_size=8)
REASONINGS = st.builds(
    lambda sentences, gaps: "".join(map("".join, zip(sentences, gaps, strict=False))).strip(),
    SENTENCES,
    GAPS,
)
REASONED = st.builds(Case, st.text(max_size=10), REASONINGS, st.text(min_size=1, max_size=10))


@given(CASES, st.sampled_from(LossOn))
def test_the_inference_prompt_is_an_exact_prefix_of_the_training_ids(
    prompt, characters, case, loss_on
):
    asked = encode_prompt(render_question(prompt, case.question), characters)
    encoded = encode_case(prompt, case, characters, loss_on)
    assert encoded.input_ids[: len(asked)] == asked
    assert encoded.prompt_tokens == len(asked)


@given(CASES)
def test_the_labels_are_the_reasoning_the_answer_and_eos(prompt, characters, decoded, case):
    encoded = encode_case(prompt, case, characters, LossOn.completion)
    learnt = [label for label in encoded.labels if label != IGNORED]
    assert decoded(learnt) == f"{case.reasoning}\n</think>\n\n{case.answer}⟩"
    assert encoded.labels[encoded.prompt_tokens :] == learnt


@given(CASES)
def test_the_tokens_are_the_whole_text_between_one_bos_and_one_eos(
    prompt, characters, decoded, case
):
    encoded = encode_case(prompt, case, characters, LossOn.completion)
    text = render_case(prompt, case)
    assert decoded(encoded.input_ids) == "⟨" + text.prompt + text.completion + "⟩"
    assert (encoded.input_ids.count(BOS), encoded.input_ids.count(EOS)) == (1, 1)


@given(CASES)
def test_loss_on_all_learns_every_token(prompt, characters, case):
    encoded = encode_case(prompt, case, characters, LossOn.all)
    assert encoded.labels == encoded.input_ids


@given(CASES)
def test_loss_on_the_answer_begins_at_the_mark_that_closes_the_reasoning(
    prompt, characters, decoded, case
):
    encoded = encode_case(prompt, case, characters, LossOn.answer)
    learnt = [label for label in encoded.labels if label != IGNORED]
    assert decoded(learnt) == f"\n</think>\n\n{case.answer}⟩"
    whole = encode_case(prompt, case, characters, LossOn.completion)
    assert encoded.input_ids == whole.input_ids


def test_without_reasoning_the_answer_is_the_completion(characters):
    direct = Prompt("direct", "{question} ", "{answer}")
    case = Case("q", "", "a")
    answer, completion = (
        encode_case(direct, case, characters, loss_on)
        for loss_on in (LossOn.answer, LossOn.completion)
    )
    assert answer == completion


@given(CASES, st.sampled_from(LossOn))
def test_there_are_as_many_labels_as_tokens(prompt, characters, case, loss_on):
    encoded = encode_case(prompt, case, characters, loss_on)
    assert len(encoded.labels) == len(encoded.input_ids)


def test_a_tokenizer_without_bos_gets_none(prompt, characters):
    no_bos = Vocabulary(characters.encode, None, EOS)
    assert encode_prompt("ab", no_bos) == characters.encode("ab")
    assert BOS not in encode_case(prompt, Case("q", "r", "a"), no_bos, LossOn.completion).input_ids


def length(prompt, case, characters) -> int:
    return len(encode_case(prompt, case, characters, LossOn.all).input_ids)


def test_what_fits_exactly_is_kept(prompt, characters):
    case = Case("q", "Think.", "a")
    exactly = length(prompt, case, characters)
    for overlong in Overlong:
        kept = encode_cases(prompt, [case], characters, exactly, overlong, LossOn.completion)
        assert (kept.cases, kept.dropped, kept.trimmed) == ((case,), 0, 0)


def test_drop_leaves_out_what_is_too_long_and_keeps_the_order(prompt, characters):
    short, long = Case("q", "r", "a"), Case("q", "r" * 50, "a")
    cases = [short, long, replace(short, answer="b"), long]
    kept = encode_cases(prompt, cases, characters, 40, Overlong.drop, LossOn.completion)
    assert [case.answer for case in kept.cases] == ["a", "b"]
    assert (len(kept.encoded), kept.dropped, kept.trimmed) == (2, 2, 0)


def test_error_names_the_case_its_length_and_the_limit(prompt, characters):
    case = Case("Why is the sky blue?", "r" * 50, "a")
    tokens = length(prompt, case, characters)
    with pytest.raises(DataError) as refused:
        encode_cases(
            prompt,
            [Case("q", "r", "a"), case],
            characters,
            tokens - 1,
            Overlong.error,
            LossOn.completion,
        )
    said = str(refused.value)
    assert said.startswith(
        f"case 2 ('Why is the sky blue?'...) has {tokens} tokens and the limit is {tokens - 1};"
        " raise the limit"
    )
    assert "dataset.overlong=drop or trim_reasoning" in said


@given(REASONED, st.integers(1, 120), st.sampled_from(LossOn))
def test_trimming_keeps_the_longest_run_of_sentences_that_fits(
    prompt, characters, case, limit, loss_on
):
    done = encode_cases(prompt, [case], characters, limit, Overlong.trim_reasoning, loss_on)
    ends = [match.end() for match in re.finditer(r"[.!?](?=\s|$)", case.reasoning)]
    prefixes = [replace(case, reasoning=case.reasoning[:end]) for end in ends]
    fitting = [shorter for shorter in prefixes if length(prompt, shorter, characters) <= limit]
    assert done.cases == tuple(fitting[-1:])
    assert done.dropped == (not fitting)
    assert done.trimmed == (bool(fitting) and fitting[-1] != case)


@given(REASONED, st.integers(40, 120))
def test_trimming_never_touches_the_answer_or_eos(prompt, characters, decoded, case, limit):
    done = encode_cases(
        prompt, [case], characters, limit, Overlong.trim_reasoning, LossOn.completion
    )
    for kept, encoded in zip(done.cases, done.encoded, strict=True):
        assert len(encoded.input_ids) <= limit
        assert decoded(encoded.input_ids).endswith(f"\n</think>\n\n{case.answer}⟩")
        assert case.reasoning.startswith(kept.reasoning)
        assert kept.reasoning
        assert encoded == encode_case(prompt, kept, characters, LossOn.completion)


def test_trimming_keeps_paragraphs(prompt, characters):
    case = Case("q", "First.\n\nSecond. Third.", "a")
    limit = length(prompt, case, characters) - 1
    done = encode_cases(
        prompt, [case], characters, limit, Overlong.trim_reasoning, LossOn.completion
    )
    assert [kept.reasoning for kept in done.cases] == ["First.\n\nSecond."]


def test_an_answer_that_is_too_long_alone_is_dropped_even_when_trimming(prompt, characters):
    case = Case("q", "First. Second.", "a" * 100)
    done = encode_cases(prompt, [case], characters, 60, Overlong.trim_reasoning, LossOn.completion)
    assert (done.cases, done.dropped, done.trimmed) == ((), 1, 0)


def test_one_long_sentence_cannot_be_trimmed(prompt, characters):
    case = Case("q", "no end in sight " * 10, "a")
    assert (
        encode_cases(
            prompt, [case], characters, 60, Overlong.trim_reasoning, LossOn.completion
        ).dropped
        == 1
    )


CHINESE = "先想感染。再看胸片！“要紧吗？”第一；再查血常规"


@pytest.mark.parametrize(
    ("reasoning", "kept"),
    [
        (
            CHINESE,
            [
                "先想感染。",
                "先想感染。再看胸片！",
                "先想感染。再看胸片！“要紧吗？”",
                "先想感染。再看胸片！“要紧吗？”第一；",
            ],
        ),
        (
            "- rule out sepsis\n- then  \n\n- the rest",
            ["- rule out sepsis", "- rule out sepsis\n- then"],
        ),
        ("At 38.5 it is high. Next", ["At 38.5 it is high."]),
    ],
)
def test_reasoning_may_end_where_its_language_ends_a_sentence_or_a_line(
    prompt, characters, reasoning, kept
):
    found = []
    for limit in range(
        length(prompt, Case("q", "", "a"), characters),
        length(prompt, Case("q", reasoning, "a"), characters),
    ):
        done = encode_cases(
            prompt,
            [Case("q", reasoning, "a")],
            characters,
            limit,
            Overlong.trim_reasoning,
            LossOn.completion,
        )
        found += [case.reasoning for case in done.cases]
    assert list(dict.fromkeys(found)) == kept


@pytest.mark.parametrize("mark", ["<|User|>", "</think>"])
@pytest.mark.parametrize("field", ["question", "reasoning", "answer"])
def test_cases_with_a_mark_that_the_prompt_writes_are_refused_all_at_once(
    prompt, characters, field, mark
):
    vocabulary = replace(characters, written=frozenset({"<|User|>"}))
    cases = [
        replace(
            Case(f"What is {number}?", "Think.", "This."),
            place=f"row {number} of a.csv",
            **({field: f"a {mark} b"} if bad else {}),
        )
        for number, bad in enumerate([False, *[True] * 12])
    ]
    with pytest.raises(DataError) as refused:
        encode_cases(prompt, cases, vocabulary, 1000, Overlong.drop, LossOn.completion)
    *named, last = refused.value.problems
    assert [re.match(r"row \d+", each)[0] for each in named] == [
        f"row {number}" for number in range(1, 11)
    ]
    assert f"holds {mark!r}, which the model reads as a control token" in named[0]
    assert last.startswith(
        "12 texts hold control tokens of the prompt; the first 10 are named above"
    )


def test_other_control_tokens_are_counted(prompt, characters):
    vocabulary = replace(characters, plain=frozenset({"<|im_end|>", "<file|"}))
    cases = [
        Case("q <|im_end|>", "r <|im_end|>", "a"),
        Case("q", "r", "a"),
        Case("q", "r", "<file|s>"),
    ]
    assert (
        encode_cases(prompt, cases, vocabulary, 1000, Overlong.drop, LossOn.completion).plain == 2
    )


def test_a_text_that_is_read_as_a_control_token_all_the_same_is_refused(prompt, characters):
    """As a normalizer may do, which takes ＜ for <."""
    vocabulary = replace(characters, control_ids=frozenset({ord("＜") + 3}))
    with pytest.raises(DataError, match="holds text, which the model reads as a control token"):
        encode_cases(
            prompt, [Case("q", "r", "a ＜ b")], vocabulary, 1000, Overlong.drop, LossOn.completion
        )
