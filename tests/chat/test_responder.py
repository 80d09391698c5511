"""The answer that is heard token by token is the one that an evaluation keeps, and what cannot be
asked is refused.
"""

import json
from dataclasses import replace

import pytest

from medexp.chat.reply import Reply
from medexp.chat.responder import Responder
from medexp.config.schema import Prompt
from medexp.errors import ConfigError


def nobody(_: Reply) -> bool:
    return False


def test_greedy_answers_are_those_that_the_run_has_stored(trained, responder: Responder) -> None:
    record = json.loads((trained.artifacts / "evaluation/record.json").read_text())
    assert len(record["cases"]) == 2
    for case in record["cases"]:
        for side in ("base", "tuned"):
            reply = responder.reply(case["question"], nobody, base=side == "base")
            assert (reply.text, reply.tokens, reply.ended_by_model) == (
                case[side]["text"],
                case[side]["tokens"],
                case[side]["ended"],
            )
            assert reply.is_complete
            assert not reply.was_stopped
    assert record["cases"][0]["base"] != record["cases"][0]["tuned"]


def test_every_token_is_heard_and_the_last_reply_is_the_whole(responder: Responder) -> None:
    heard: list[Reply] = []
    whole = responder.reply("Why?", lambda reply: heard.append(reply) or False)
    assert [reply.tokens for reply in heard] == list(range(1, whole.tokens + 1))
    assert heard[-1].text == whole.text
    assert not heard[-1].is_complete


def test_an_answer_ends_where_the_listener_says(responder: Responder) -> None:
    full = responder.reply("Why?", nobody)
    cut = responder.reply("Why?", lambda reply: reply.tokens == 5)
    assert (cut.tokens, cut.was_stopped, cut.ended_by_model) == (5, True, False)
    assert full.text.startswith(cut.text.rstrip("\ufffd"))
    assert responder.reply("Why?", nobody).text == full.text


def test_a_drawn_answer_is_the_same_again_and_another_with_another_seed(
    responder: Responder,
) -> None:
    drawn = replace(responder.sampling, temperature=1.5, top_p=1.0)
    texts = [
        responder.reply("Why?", nobody, sampling=replace(drawn, seed=seed)).text
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]
    least = replace(drawn, top_p=1e-6)
    assert (
        responder.reply("Why?", nobody, sampling=least).text == responder.reply("Why?", nobody).text
    )


def test_another_prompt_asks_in_other_words(responder: Responder) -> None:
    direct = Prompt("direct", "Q: {question}\nA: ", "{answer}")
    reply = responder.reply("Why?", nobody, prompt=direct)
    assert not reply.expects_reasoning
    assert responder.reply("Why?", nobody).expects_reasoning
    assert len(responder.encoder.encode("Why?", direct)) < len(responder.encoder.encode("Why?"))


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("  \n", "the question is empty"),
        ("a </think> b", "holds '</think>', which the model reads as a control token"),
        (
            "pain " * 3000,
            (
                r"has 30\d\d tokens with prompt=clinical_sections and 2032 are allowed: the context"
                r" of 2048 less"
            ),
        ),
    ],
    ids=["empty", "marker", "too long"],
)
def test_what_cannot_be_asked_is_refused(responder: Responder, question: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        responder.reply(question, nobody)


def test_added_tokens_in_a_question_are_asked_as_plain_text(responder: Responder) -> None:
    tokenizer = responder.encoder.tokenizer
    added = {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}
    assert len(added) > 10
    question = f"The note says {' and '.join(added)} and no more. Why?"
    bos, *rest = responder.encoder.encode(question)
    assert bos == tokenizer.bos_token_id
    assert not set(rest) & set(added.values()) - {tokenizer.unk_token_id}
    assert question.partition("|>")[2] in tokenizer.decode(rest)


def test_room_for_no_question_at_all_is_refused(responder: Responder) -> None:
    with pytest.raises(
        ConfigError, match=r"ask\.max_new_tokens=2048 leaves nothing of the model's context of 2048"
    ):
        responder.reply("Why?", nobody, sampling=replace(responder.sampling, max_new_tokens=2048))
