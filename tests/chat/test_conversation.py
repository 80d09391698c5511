"""What each command does, with the real model of a finished run."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console as RichConsole

from medexp.chat.conversation import Conversation
from medexp.chat.responder import Responder
from medexp.data.cases import Turn
from medexp.system.console import Console


def start(responder: Responder, folder: Path) -> Conversation:
    """A conversation whose answers are four tokens long."""
    quick = replace(responder.encoder, sampling=replace(responder.sampling, max_new_tokens=4))
    console = Console()
    console.results = console.log = RichConsole(file=io.StringIO(), width=100)
    return Conversation(replace(responder, encoder=quick), console, True, folder)


@pytest.fixture
def talk(responder: Responder, tmp_path: Path) -> Conversation:
    return start(responder, tmp_path)


@pytest.fixture
def turns(conversing: Responder, tmp_path: Path) -> Conversation:
    """The same with a run that was trained on conversations."""
    return start(conversing, tmp_path)


def said(talk: Conversation) -> str:
    """What has been printed since the last call, as one line."""
    stream = talk.console.log.file
    assert isinstance(stream, io.StringIO)
    text = stream.getvalue()
    stream.seek(0)
    stream.truncate()
    return " ".join(text.split())


def test_a_follow_up_is_asked_below_the_case_and_reset_forgets_it(talk: Conversation) -> None:
    for line in ("A man of 54.", "He is a smoker.", "/reset", "A child."):
        talk.handle_line(line)
    assert [turn[0].question for turn in talk.turns] == [
        "A man of 54.",
        "A man of 54.\n\nHe is a smoker.",
        "A child.",
    ]
    assert (
        talk.turns[1][0].text
        == talk.responder.reply("A man of 54.\n\nHe is a smoker.", lambda _: False).text
    )


def test_compare_asks_the_base_the_same_once(talk: Conversation) -> None:
    talk.handle_line("/compare")
    assert "nothing has been asked yet" in said(talk)
    talk.handle_line("A man of 54.")
    talk.handle_line("/compare")
    base, tuned = talk.turns[0]
    assert (base.base, tuned.base, base.question) == (True, False, tuned.question)
    assert base.text == talk.responder.reply("A man of 54.", lambda _: False, base=True).text
    shown = said(talk)
    assert base.text.split()[0] in shown
    assert "base" in shown
    talk.handle_line("/compare")
    assert talk.turns[0] == [base, tuned]


def test_reasoning_is_unfolded_and_switched(talk: Conversation) -> None:
    talk.handle_line("A man of 54.")
    talk.turns[0][0] = replace(talk.turns[0][0], text="Because [of] this.\n</think>\nThat.")
    said(talk)
    talk.handle_line("/reasoning")
    assert said(talk) == "Because [of] this."
    talk.handle_line("/reasoning hide")
    assert not talk.with_reasoning
    talk.handle_line("/reasoning show")
    assert talk.with_reasoning
    talk.handle_line("/reasoning sideways")
    assert "write /reasoning, /reasoning show, or /reasoning hide" in said(talk)


def test_saving_never_overwrites(talk: Conversation, tmp_path: Path) -> None:
    talk.handle_line("A man of 54.")
    for name in ("a.md", "a.json"):
        talk.handle_line(f"/save {name}")
    assert "> A man of 54." in (tmp_path / "a.md").read_text()
    [[reply]] = json.loads((tmp_path / "a.json").read_text())
    assert (reply["question"], reply["run"]) == ("A man of 54.", talk.responder.run_id)
    (tmp_path / "a.md").write_text("mine")
    for line, answer in {
        "/save a.md": "a.md is there already and is left alone",
        "/save a.txt": "where FILE ends in .md, .json",
        "/save": "write /save FILE",
        "/save no/such/a.md": "no/such/a.md cannot be written",
    }.items():
        said(talk)
        talk.handle_line(line)
        assert answer in said(talk)
    assert (tmp_path / "a.md").read_text() == "mine"


def test_what_cannot_be_asked_or_done_is_said_and_no_more(talk: Conversation) -> None:
    talk.handle_line("pain " * 3000)
    assert "tokens with prompt=clinical_sections and" in said(talk)
    talk.handle_line("/rest")
    assert "/rest is not a command" in said(talk)
    assert talk.turns == []
    assert talk.case == []


def test_it_goes_on_until_it_is_told_to_end(talk: Conversation) -> None:
    typed = iter([KeyboardInterrupt, "", "/help", "/quit", AssertionError])

    def read(_: str) -> str:
        line = next(typed)
        if isinstance(line, str):
            return line
        raise line

    talk.run(read)
    shown = said(talk)
    assert "Ctrl-D or /quit ends the conversation" in shown
    assert "/compare" in shown
    assert shown.count("Not for clinical use") == 1


def test_with_a_chat_template_a_follow_up_is_the_next_turn(turns: Conversation) -> None:
    for line in ("A man of 54.", "He is a smoker."):
        turns.handle_line(line)
    first, second = (replies[0] for replies in turns.turns)
    assert (first.question, second.question) == ("A man of 54.", "He is a smoker.")
    before = (Turn("user", "A man of 54."), Turn("assistant", first.answer))
    assert second.before == before
    assert turns.before == [*before, ("user", "He is a smoker."), ("assistant", second.answer)]
    encoder = turns.responder.encoder
    asked = encoder.tokenizer.apply_chat_template(
        [{"role": role, "content": text} for role, text in (*before, ("user", "He is a smoker."))],
        add_generation_prompt=True,
        return_dict=False,
    )
    assert encoder.encode("He is a smoker.", before=second.before) == asked
    again = turns.responder.reply(second.question, lambda _: False, before=before)
    assert second.text == again.text


def test_reset_and_compare_know_the_turns(turns: Conversation, tmp_path: Path) -> None:
    for line in ("A man of 54.", "He is a smoker.", "/compare", "/save a.json"):
        turns.handle_line(line)
    base, tuned = turns.turns[1]
    assert base.base
    assert base.before == tuned.before != ()
    [_, [stored, _]] = json.loads((tmp_path / "a.json").read_text())
    assert [turn["role"] for turn in stored["before"]] == ["user", "assistant"]
    turns.handle_line("/reset")
    assert turns.before == []
    turns.handle_line("He is a smoker.")
    assert turns.turns[2][0].before == ()


def test_a_conversation_that_no_longer_fits_says_so(turns: Conversation) -> None:
    turns.handle_line("A man of 54.")
    turns.before[0] = Turn("user", "pain " * 3000)
    said(turns)
    turns.handle_line("And now?")
    assert "the conversation has" in (shown := said(turns))
    assert "begin another one" in shown
    turns.before[0] = Turn("user", "a <|im_end|> b")
    turns.handle_line("And now?")
    assert "the conversation so far holds '<|im_end|>'" in said(turns)
    assert len(turns.turns) == 1


def test_how_a_follow_up_is_asked_is_said_at_the_start(
    talk: Conversation, turns: Conversation
) -> None:
    for conversation, sentence in (
        (talk, "prompt=clinical_sections knows no turns, prompt=chat does"),
        (turns, "A follow-up is the next turn"),
    ):
        conversation.run(lambda _: "/quit")
        assert sentence in said(conversation)
