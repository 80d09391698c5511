"""Every token of a case has one role, and the roles add up to what is trained on."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medexp.config.schema import LossOn, Prompt
from medexp.data.cases import Case
from medexp.data.encoding import IGNORED, encode_case
from medexp.data.prompts import locate_values
from medexp.data.token_roles import Role, TokenizedText, list_texts, split_into_spans
from medexp.data.tokenizer_cache import CachedTokenizer

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def spelled_by_character(prompt, case):
    return {
        text: TokenizedText([ord(letter) + 3 for letter in text], range(1, len(text) + 1))
        for text in list_texts(prompt, [case])
    }


@given(TEXTS, TEXTS, TEXTS)
def test_with_a_token_a_character_roles_are_the_texts(
    prompt, characters, question, reasoning, answer
):
    case = Case(question, reasoning, answer)
    cut = split_into_spans(
        prompt,
        case,
        encode_case(prompt, case, characters, LossOn.completion),
        spelled_by_character(prompt, case),
    )
    total = Counter()
    for piece in cut:
        total[piece.role] += piece.tokens
    roles = (Role.question, Role.reasoning, Role.answer, Role.eos)
    assert [total[role] for role in roles] == [len(question), len(reasoning), len(answer), 1]
    # BOS and what stands around the question.
    assert total[Role.instructions] == 1 + len("Q: \n<think>\n")
    assert total[Role.marks] == len("\n</think>\n\n")
    assert all(
        piece.text == getattr(case, piece.role.value)
        for piece in cut
        if hasattr(case, piece.role.value)
    )


LEARNT = {
    LossOn.all: set(Role),
    LossOn.completion: {Role.reasoning, Role.answer, Role.marks, Role.eos},
    LossOn.answer: {Role.answer, Role.marks, Role.eos},
}


@pytest.mark.parametrize("loss_on", LossOn)
def test_what_is_learnt_is_what_has_labels(prompt, characters, loss_on):
    case = Case("question?", "Because.", "answer")
    encoded = encode_case(prompt, case, characters, loss_on)
    cut = split_into_spans(prompt, case, encoded, spelled_by_character(prompt, case))
    assert sum(piece.tokens for piece in cut if piece.learnt) == sum(
        label != IGNORED for label in encoded.labels
    )
    assert {piece.role for piece in cut if piece.learnt and piece.tokens} == (LEARNT[loss_on])


@pytest.fixture(scope="module")
def speller(embedded_tokenizer, resolved_prompt) -> CachedTokenizer:
    return CachedTokenizer(embedded_tokenizer, resolved_prompt)


@given(TEXTS, TEXTS, TEXTS)
def test_with_the_real_tokenizer_roles_add_up_to_the_row(
    speller, resolved_prompt, question, reasoning, answer
):
    case = Case(question, reasoning, answer)
    encoded = encode_case(resolved_prompt, case, speller.vocabulary, LossOn.completion)
    speller.tokenize(list_texts(resolved_prompt, [case]))
    # known texts are spelled alike
    assert encode_case(resolved_prompt, case, speller.vocabulary, LossOn.completion) == encoded
    cut = split_into_spans(resolved_prompt, case, encoded, speller.known)
    assert sum(piece.tokens for piece in cut) == len(encoded.input_ids)


@pytest.fixture(scope="module")
def resolved_prompt(resolved) -> Prompt:
    return resolved("hardware=cpu").prompt


def test_the_leading_space_of_a_word_counts_with_the_word(speller):
    prompt = Prompt("p", "{question}", "So: {reasoning} then {answer}.")
    case = Case("Why?", "because it hurts", "rest")
    speller.tokenize(list_texts(prompt, [case]))
    cut = split_into_spans(
        prompt,
        case,
        encode_case(prompt, case, speller.vocabulary, LossOn.completion),
        speller.known,
    )
    after_instructions = [piece for piece in cut if piece.role is not Role.instructions]
    assert [(piece.role.value, piece.tokens) for piece in after_instructions] == [
        ("question", 2),
        ("marks", 2),
        ("reasoning", 3),
        ("marks", 1),
        ("answer", 1),
        ("marks", 1),
        ("EOS", 1),
    ]


@given(TEXTS, TEXTS)
def test_places_are_where_the_values_stand(reasoning, answer):
    template = "a {reasoning}{answer} {question} b"
    found = locate_values(template, {"reasoning": reasoning, "answer": answer})
    text = f"a {reasoning}{answer} {{question}} b"
    assert text[slice(*found["reasoning"])] == reasoning
    assert text[slice(*found["answer"])] == answer
    assert text[slice(*found["question"])] == "{question}"
