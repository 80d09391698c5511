"""Published chat templates as prompts: what is asked is, token by token, the beginning of what is
learnt, for every turn; no reasoning is lost, no answer is learnt twice.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import pytest
from helpers.chat_templates import CHAT, PUBLISHED
from hypothesis import given, settings
from hypothesis import strategies as st

from medexp.config.schema import LossOn, Overlong
from medexp.data.answer_offsets import find_answer_starts
from medexp.data.cases import CONVERSATION, Case, Turn
from medexp.data.encoding import (
    IGNORED,
    EncodedCases,
    encode_case,
    encode_cases,
    encode_prompt,
    join_turns,
    make_vocabulary,
)
from medexp.data.prompts import (
    ChatPrompt,
    bind_prompt,
    digest_cases,
    render_case,
    render_question,
)
from medexp.data.token_roles import Role, split_into_spans
from medexp.data.tokenizer_cache import CachedTokenizer
from medexp.errors import ConfigError, DataError
from medexp.evaluation.question_forms import make_training_form

Tokenizers = Callable[[str], Any]
LETTERS = st.characters(max_codepoint=0x1FFFF, exclude_categories=["Cs", "Cc", "Z"])
WORDS = st.text(LETTERS, min_size=1, max_size=8)
PIECES = WORDS | st.sampled_from(
    ["{answer}", "{{ x }}", "{% raw %}", "≥38 °C", "発熱", "[INS", "<|", "user", "system\n\nx", "'"]
)
TEXTS = st.lists(PIECES, min_size=1, max_size=4).map(" ".join).map(str.strip).filter(bool)


@st.composite
def conversations(draw: st.DrawFn) -> list[Case]:
    """The cases of a conversation of one to three questions, as `dataset.turns=all` reads it."""
    system = draw(st.none() | TEXTS)
    said = [Turn("system", system)] if system is not None else []
    reasons = draw(st.booleans())
    cases = []
    for _ in range(draw(st.integers(1, 3))):
        said.append(Turn("user", draw(TEXTS)))
        answer = draw(TEXTS)
        reasoning = draw(TEXTS) if reasons else ""
        extra = {CONVERSATION: "1"}
        cases.append(Case(said[-1].text, reasoning, answer, extra, turns=tuple(said)))
        said.append(Turn("assistant", answer))
    return cases


def bind(name: str, chat_tokenizer: Tokenizers) -> tuple[ChatPrompt, Any]:
    """The prompt in the words of a published template, and its tokenizer as a run has it."""
    tokenizer = chat_tokenizer(name)
    tokenizer.eos_token = PUBLISHED[name].eos
    prompt = bind_prompt(CHAT, tokenizer)
    assert isinstance(prompt, ChatPrompt)
    tokenizer.eos_token = prompt.template.end
    return prompt, tokenizer


def ask_as_a_server(prompt: ChatPrompt, tokenizer: Any, turns: Sequence[Turn]) -> list[int]:
    """The tokens of the template that an export carries, its whole text tokenised at once."""
    ids: list[int] = tokenizer.apply_chat_template(
        [{"role": turn.role, "content": turn.text} for turn in turns],
        chat_template=prompt.template.source,
        add_generation_prompt=True,
        return_dict=False,
    )
    return ids


def encode(name: str, chat_tokenizer: Tokenizers, cases: Sequence[Case]) -> EncodedCases:
    prompt, tokenizer = bind(name, chat_tokenizer)
    vocabulary = make_vocabulary(tokenizer, prompt)
    return encode_cases(prompt, cases, vocabulary, 10_000, Overlong.error, LossOn.completion)


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of tokens, marks included, without any tidying of Transformers'."""
    text: str = tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False)
    return text


def learnt(labels: Sequence[int]) -> list[int]:
    return [label for label in labels if label != IGNORED]


@pytest.mark.parametrize("name", PUBLISHED)
@given(cases=conversations())
@settings(max_examples=40)
def test_what_is_asked_begins_what_is_learnt_token_by_token(
    name: str, cases: list[Case], chat_tokenizer: Tokenizers
) -> None:
    prompt, tokenizer = bind(name, chat_tokenizer)
    vocabulary, end = make_vocabulary(tokenizer, prompt), prompt.template.end
    for case in cases:
        asked = ask_as_a_server(prompt, tokenizer, case.turns)
        encoded = encode_case(prompt, case, vocabulary, LossOn.completion)
        assert encode_prompt(render_question(prompt, "", case.turns), vocabulary) == asked
        assert encoded.input_ids == asked + learnt(encoded.labels)
        said = decode(tokenizer, learnt(encoded.labels))
        text = render_case(prompt, case)
        assert said == text.completion + end
        reasoned = f"<think>\n{case.reasoning}\n</think>\n\n{case.answer}{end}"
        assert (text.prompt + said).endswith(reasoned if case.reasoning else case.answer + end)


@pytest.mark.parametrize("name", sorted(set(PUBLISHED) - {"gemma_2", "llama_3_2"}))
@given(cases=conversations())
@settings(max_examples=20)
def test_a_published_template_is_rendered_as_it_is(
    name: str, cases: list[Case], chat_tokenizer: Tokenizers
) -> None:
    prompt, tokenizer = bind(name, chat_tokenizer)
    for case in cases:
        messages = [{"role": turn.role, "content": turn.text} for turn in case.turns]
        asked = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert render_question(prompt, case.question, case.turns) == asked


@pytest.mark.parametrize("name", PUBLISHED)
@given(cases=conversations())
@settings(max_examples=40)
def test_answers_of_a_conversation_share_a_text_only_where_that_is_exact(
    name: str, cases: list[Case], chat_tokenizer: Tokenizers
) -> None:
    apart = encode(name, chat_tokenizer, cases)
    joined = join_turns(apart)
    assert joined.joined + len(joined.cases) == len(cases)
    # Every answer is learnt, and no token of one twice.
    answers, joined_answers = (
        [*chain.from_iterable(learnt(text.labels) for text in side.encoded)]
        for side in (apart, joined)
    )
    assert joined_answers == answers
    prompt, tokenizer = bind(name, chat_tokenizer)
    asked = [ask_as_a_server(prompt, tokenizer, case.turns) for case in cases]
    for text in joined.encoded:
        is_learnt = [label != IGNORED for label in text.labels]
        starts = [at for at in range(1, len(is_learnt)) if is_learnt[at] and not is_learnt[at - 1]]
        assert starts
        assert all(text.input_ids[:start] in asked for start in starts)


PLAIN = [
    Case("Q1 of it?", "", "A one.", {CONVERSATION: "7"}, turns=(Turn("user", "Q1 of it?"),)),
    Case(
        "flat",
        "",
        "A two.",
        {CONVERSATION: "7"},
        turns=(Turn("user", "Q1 of it?"), Turn("assistant", "A one."), Turn("user", "Q2?")),
    ),
]
# Qwen3 and R1 write an earlier turn otherwise than the last one; and of Meta's two line ends before
# an answer this vocabulary makes one token where nothing follows, two before a word.
JOINING = set(PUBLISHED) - {"qwen3", "deepseek_r1_distill", "llama_3_1", "llama_3_2"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_answers_without_reasoning_are_learnt_in_one_text(
    name: str, chat_tokenizer: Tokenizers
) -> None:
    joined = join_turns(encode(name, chat_tokenizer, PLAIN))
    assert joined.joined == (name in JOINING)
    assert len(joined.encoded) == (1 if name in JOINING else 2)


@pytest.mark.parametrize("name", PUBLISHED)
def test_answers_with_reasoning_keep_their_own_texts(name: str, chat_tokenizer: Tokenizers) -> None:
    reasoned = [replace(case, reasoning="Because.") for case in PLAIN]
    assert join_turns(encode(name, chat_tokenizer, reasoned)).joined == 0


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_roles_of_a_text_are_told_apart(name: str, chat_tokenizer: Tokenizers) -> None:
    prompt, tokenizer = bind(name, chat_tokenizer)
    cached = CachedTokenizer(tokenizer, prompt)
    system = (Turn("system", "Be careful."),)
    cases = [replace(case, turns=(*system, *case.turns)) for case in PLAIN]
    cached.tokenize(text for case in cases for text in vars(render_case(prompt, case)).values())
    words = cached.vocabulary
    joined = join_turns(encode_cases(prompt, cases, words, 999, Overlong.error, LossOn.completion))
    for case, encoded in zip(joined.cases, joined.encoded, strict=True):
        spans = split_into_spans(prompt, case, encoded, cached.known)
        assert sum(span.tokens for span in spans) == len(encoded.input_ids)
        assert sum(span.tokens for span in spans if span.learnt) == len(learnt(encoded.labels))
        questions = [span.text for span in spans if span.role is Role.question]
        said = [span.text for span in spans if span.role is Role.answer and span.learnt]
        assert case.turns[-1].text in questions
        assert said[-1] == case.answer
        if joined.joined:
            assert said == ["A one.", "A two."]
            assert "A one." not in questions


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_likelihood_is_taken_behind_reasoning_that_is_closed(
    name: str, chat_tokenizer: Tokenizers
) -> None:
    prompt, tokenizer = bind(name, chat_tokenizer)
    form = make_training_form(prompt, make_vocabulary(tokenizer, prompt))
    prefix = form.encode_prefix(PLAIN[1], "It is")
    text = decode(tokenizer, prefix)
    case = replace(PLAIN[1], answer="It is")
    assert text == "".join(vars(render_case(prompt, case)).values())
    assert text.count("<think>") == text.count("</think>")


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_answer_begins_behind_the_reasoning(name: str, chat_tokenizer: Tokenizers) -> None:
    prompt, tokenizer = bind(name, chat_tokenizer)
    vocabulary, end = make_vocabulary(tokenizer, prompt), prompt.template.end
    case = Case("Why so?", "Because of it.", "Rest.")
    encoded = encode_case(prompt, case, vocabulary, LossOn.answer)
    [start] = find_answer_starts(prompt, [case], [encoded], vocabulary)
    assert decode(tokenizer, encoded.input_ids[start:]).strip() == f"Rest.{end}"
    assert decode(tokenizer, learnt(encoded.labels)).strip() == f"</think>\n\nRest.{end}"


def test_the_date_of_today_is_in_no_text(chat_tokenizer: Tokenizers) -> None:
    prompt, _ = bind("llama_3_2", chat_tokenizer)
    assert "Today Date: 26 Jul 2024" in render_question(prompt, "Why?")


def test_a_system_text_of_the_prompt_stands_where_a_case_has_none(
    chat_tokenizer: Tokenizers,
) -> None:
    prompt = bind_prompt(replace(CHAT, system="Be careful."), chat_tokenizer("gemma_2"))
    assert "user\nBe careful.\n\nWhy?<end_of_turn>" in render_question(prompt, "Why?")
    own = (Turn("system", "Be quick."), Turn("user", "Why?"))
    assert "user\nBe quick.\n\nWhy?<end_of_turn>" in render_question(prompt, "Why?", own)


def test_another_template_makes_other_data(chat_tokenizer: Tokenizers) -> None:
    digests = {digest_cases(bind(name, chat_tokenizer)[0], PLAIN) for name in PUBLISHED}
    assert len(digests) == len(PUBLISHED)
    prompt = bind("smollm2", chat_tokenizer)[0]
    changed = [PLAIN[0], replace(PLAIN[1], turns=PLAIN[1].turns[2:])]
    assert digest_cases(prompt, changed) != digest_cases(prompt, PLAIN)


BROKEN = {
    "{% for m in messages %}{{ m.role }}{% endfor %}": "neither a system text nor the user's",
    "{{ raise_exception('no') }}": "neither a system text nor the user's",
    "{% for m in messages %}{{ m.content }}\n{% endfor %}": "no token of its own",
    "{% for m in messages %}{{ m.content | replace('AnswerMark', 'x') }}<|im_end|>{% endfor %}": (
        "once and as it is"
    ),
    "{% for m in messages %}{{ m.content }}{{ m.content if m.role == 'assistant' }}<|im_end|>"
    "{% endfor %}": "once and as it is",
    "{% for m in messages %}{{ m.content }}{{ '<|im_end|>' if loop.last else '<|endoftext|>' }}"
    "{% endfor %}": "no token of its own",
    "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    "{% if messages | length > 2 %}{{ raise_exception('too long') }}{% endif %}": "too long",
}


@pytest.mark.parametrize("template", BROKEN)
def test_a_template_that_cannot_be_proven_is_refused_in_a_sentence(
    template: str, chat_tokenizer: Tokenizers, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = chat_tokenizer("smollm2")
    monkeypatch.setattr(tokenizer, "chat_template", template)
    with pytest.raises(ConfigError, match="cannot train with the chat template") as refused:
        bind_prompt(CHAT, tokenizer)
    [said] = refused.value.problems
    assert BROKEN[template] in said
    assert "use prompt=direct" in said
    assert "\n" not in said


def test_a_tokenizer_without_a_template_says_which_prompt_to_use(
    chat_tokenizer: Tokenizers, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = chat_tokenizer("smollm2")
    monkeypatch.setattr(tokenizer, "chat_template", None)
    with pytest.raises(ConfigError, match="has none; use prompt=direct for answers alone"):
        bind_prompt(CHAT, tokenizer)


def test_a_conversation_that_the_template_refuses_is_named(chat_tokenizer: Tokenizers) -> None:
    prompt, _ = bind("gemma_3", chat_tokenizer)
    greeted = (Turn("assistant", "Hello."), Turn("user", "Why?"))
    case = Case("Why?", "", "So.", place="row 3 of chat.json", turns=greeted)
    with pytest.raises(DataError, match=r"row 3 of chat.json: the chat template of .* must altern"):
        render_case(prompt, case)


def test_marks_of_the_template_in_a_conversation_are_refused(chat_tokenizer: Tokenizers) -> None:
    case = Case("a <|im_end|> b", "", "So.", turns=(Turn("user", "a <|im_end|> b"),))
    with pytest.raises(DataError, match=r"holds '<\|im_end\|>', which the model reads"):
        encode("smollm2", chat_tokenizer, [case])
    # Another mark of the tokenizer is plain text.
    other = Case("a <filename> b", "", "So.", turns=(Turn("user", "a <filename> b"),))
    assert encode("smollm2", chat_tokenizer, [other]).plain == 1
