"""The page in a real browser: both answers come, the controls work, and nothing beyond this machine
is asked for.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.browser import chromium, window
from helpers.commands import command

from medexp.chat.reply import format_markdown, make_turns
from medexp.chat.responder import Responder
from medexp.errors import MachineError
from medexp.evaluation.generation import Sampling
from medexp.system.ports import listen_on_port

ROOT = Path(__file__).parents[2]


@contextmanager
def serving(words: list[str], folder: Path) -> Iterator[str]:
    """The address of the command with ui=true, which ends with Ctrl-C."""
    pytest.importorskip("gradio", reason="the ui extra is not installed")
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    command_line = [sys.executable, *words, "ui=true", "ask.open=false"]
    with subprocess.Popen(
        command_line, cwd=folder, env=env, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


@pytest.fixture(scope="module")
def page_url(trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(trained.words, tmp_path_factory.mktemp("page")) as url:
        yield url


@pytest.fixture(scope="module")
def chat_url(trained_on_chats, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same of a run with prompt=chat."""
    words = [*trained_on_chats.words, "ask.max_new_tokens=6"]
    with serving(words, tmp_path_factory.mktemp("chat")) as url:
        yield url


@pytest.fixture(scope="module")
def opened() -> Iterator[tuple[Any, list[str]]]:
    """A window of the browser, and the addresses beyond this machine that it has asked for."""
    with window(chromium()) as found:
        yield found


def open_page(opened: tuple[Any, list[str]], url: str) -> Any:
    page, _ = opened
    page.goto(url)
    page.get_by_label("Question").wait_for()
    return page


@pytest.fixture
def page(opened: tuple[Any, list[str]], page_url: str) -> Any:
    """The page, just opened."""
    return open_page(opened, page_url)


@pytest.fixture
def chat_page(opened: tuple[Any, list[str]], chat_url: str) -> Any:
    """The page of a run with prompt=chat, just opened."""
    return open_page(opened, chat_url)


def allow(page: Any, tokens: str) -> None:
    """Set the most new tokens. Gradio draws the controls when they are unfolded, and for a moment
    puts its own values back.
    """
    page.get_by_text("Prompt and sampling").click()
    box = page.get_by_label("Most new tokens")
    for _ in range(50):
        box.fill(tokens)
        box.press("Tab")
        page.wait_for_timeout(200)
        if box.input_value() == tokens:
            return
    raise AssertionError(f"the field holds {box.input_value()}")


def send(page: Any, question: str) -> None:
    page.get_by_label("Question").fill(question)
    page.get_by_role("button", name="Ask both").click()


def read_columns(page: Any) -> dict[str, str]:
    return {
        f"{side} {part}": page.locator(f".prose.{side}-{part}").text_content().strip()
        for side in ("base", "tuned")
        for part in ("answer", "status")
    }


def ask(
    page: Any, question: str, until: str = "tokens in", without: str | None = None
) -> dict[str, str]:
    """What the columns say once both statuses hold `until` and not `without`, which those of the
    question before must not do.
    """
    send(page, question)
    for side in ("tuned", "base"):
        page.locator(f".prose.{side}-status").filter(
            has_text=until, has_not_text=without
        ).wait_for()
    return read_columns(page)


def say(page: Any, question: str, answer: str) -> dict[str, str]:
    """What the columns say once the conversation, which both answers' end adds to, has the
    question and the tuned model's `answer`.
    """
    send(page, question)
    turns = page.locator(".prose.conversation").filter(has_text=question)
    turns.filter(has_text=answer).wait_for()
    return read_columns(page)


@pytest.mark.browser
def test_both_answers_are_those_that_the_run_has_stored_and_nothing_is_asked_of_others(
    trained, opened: tuple[Any, list[str]], page: Any
) -> None:
    case = json.loads((trained.artifacts / "evaluation/record.json").read_text())["cases"][0]
    shown = ask(page, case["question"])
    assert shown["tuned answer"] == case["tuned"]["text"]
    assert shown["base answer"] == case["base"]["text"]
    assert shown["tuned status"].startswith("16 tokens in ")
    assert "Not for clinical use" in page.content()
    assert opened[1] == []


@pytest.mark.browser
def test_an_answer_moves_nothing_and_empty_reasoning_has_no_box(page: Any) -> None:
    def place() -> tuple[float, float]:
        box = page.get_by_label("Question").bounding_box()
        return box["x"], box["width"]

    empty = place()
    assert not page.get_by_text("Reasoning", exact=True).count()
    # so all of it is the answer
    assert "reasoning never ended" in ask(page, "Why?")["tuned status"]
    assert place() == empty
    assert not page.get_by_text("Reasoning", exact=True).count()


@pytest.mark.browser
def test_on_a_phone_the_tuned_model_comes_first(page: Any) -> None:
    def places() -> list[dict[str, float]]:
        return [page.locator(f".{side}-column").bounding_box() for side in ("tuned", "base")]

    tuned, base = places()
    assert base["x"] < tuned["x"]
    size = page.viewport_size
    page.set_viewport_size({"width": 400, "height": 900})
    tuned, base = places()
    wide = page.evaluate("document.documentElement.scrollWidth")
    page.set_viewport_size(size)
    assert (tuned["y"] < base["y"], tuned["x"], wide) == (True, base["x"], 400)


@pytest.mark.browser
def test_prompt_and_sampling_are_what_the_controls_say(page: Any) -> None:
    greedy = ask(page, "Why?")
    allow(page, "3")
    fewer = ask(page, "Why?", until="3 tokens in ")
    assert greedy["tuned answer"].startswith(fewer["tuned answer"])
    page.get_by_label("Prompt", exact=True).click()
    assert (
        page.get_by_role("option")
        .all_text_contents()[0]
        .strip()
        .endswith("the run's own (clinical_sections)")
    )
    page.get_by_role("option", name="direct").click()
    assert "reasoning never ended" in greedy["tuned status"]
    ask(page, "Why?", until="3 tokens in ", without="reasoning")


@pytest.mark.browser
def test_stop_ends_the_answer_and_a_bad_question_is_said(page: Any) -> None:
    allow(page, "1900")
    page.get_by_label("Question").fill("Why?")
    page.get_by_role("button", name="Ask both").click()
    page.locator(".prose.tuned-status").filter(has_text="reasoning, ").wait_for()
    page.locator(".tuned-column").get_by_text("Reasoning", exact=True).click()
    page.locator(".prose.tuned-reasoning").wait_for()
    page.wait_for_timeout(500)
    assert page.locator(".prose.tuned-reasoning").is_visible()  # stays open while it grows
    page.get_by_role("button", name="Stop").click()
    page.locator(".prose.tuned-status").filter(has_text="stopped").wait_for()
    page.locator(".prose.base-status").filter(has_text="not asked: stopped").wait_for()
    page.get_by_label("Question").fill("a </think> b")
    page.get_by_role("button", name="Ask both").click()
    page.get_by_text("which the model reads as a control token").first.wait_for()


@pytest.mark.browser
def test_a_conversation_of_two_turns(conversing: Responder, chat_page: Any) -> None:
    assert "A further question is the next turn" in chat_page.content()
    encoder = replace(conversing.encoder, sampling=Sampling(6, 0.0, 0.95, 0))
    model = replace(conversing, encoder=encoder)
    expected = model.reply("A man of 54.", lambda _: False)
    first = say(chat_page, "A man of 54.", expected.answer)
    assert first["tuned answer"] == format_markdown(expected)
    before = make_turns(expected)
    replies = {
        side: model.reply("He is a smoker.", lambda _: False, base=side == "base", before=before)
        for side in ("base", "tuned")
    }
    second = say(chat_page, "He is a smoker.", replies["tuned"].answer)
    for side, reply in replies.items():
        assert second[f"{side} answer"] == format_markdown(reply).strip()
    so_far = chat_page.locator(".prose.conversation")
    assert so_far.text_content().count("User") == 2
    chat_page.get_by_role("button", name="New conversation").click()
    so_far.wait_for(state="hidden")
    again = say(chat_page, "A man of 54.", expected.answer)
    assert again["tuned answer"] == first["tuned answer"]


def choose_example(page: Any, place: int) -> None:
    page.get_by_text("Held-out cases of this run").wait_for()
    page.locator("button.gallery-item, tr.tr-body").nth(place).click()


@pytest.mark.browser
def test_a_held_out_case_is_asked_by_a_click_and_its_reference_unfolds(
    trained, page: Any, opened: tuple[Any, list[str]]
) -> None:
    assert "Each question is asked by itself" in page.content()
    case = json.loads((trained.artifacts / "evaluation/record.json").read_text())["cases"][1]
    choose_example(page, 1)
    page.wait_for_function(
        "text => document.querySelector('textarea').value === text", arg=case["question"]
    )
    reference = page.locator(".prose.reference")
    assert not reference.is_visible()
    page.get_by_text("What the case's author answers").click()
    reference.wait_for()
    words = re.findall(r"\w{4,}", case["reference"])
    assert words == re.findall(r"\w{4,}", reference.text_content())
    assert ask(page, case["question"])["tuned answer"] == case["tuned"]["text"]
    assert opened[1] == []


@pytest.mark.browser
def test_a_held_out_conversation_is_asked_with_what_was_said_before(
    trained_on_chats, chat_page: Any
) -> None:
    record = trained_on_chats.artifacts / "evaluation/record.json"
    case = json.loads(record.read_text())["cases"][0]
    choose_example(chat_page, 0)
    last = case["turns"][-1][1]
    chat_page.wait_for_function(
        "text => document.querySelector('textarea').value === text", arg=last
    )
    so_far = chat_page.locator(".prose.conversation")
    so_far.filter(has_text="You are a careful clinician.").wait_for()
    answer = ask(chat_page, last)["tuned answer"]
    assert case["tuned"]["text"].startswith(answer)


def test_another_host_name_is_not_answered_and_the_policy_is_sent(page_url: str) -> None:
    with urllib.request.urlopen(page_url, timeout=30) as answer:
        assert "default-src 'self'" in answer.headers["content-security-policy"]
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(
            urllib.request.Request(page_url, headers={"Host": "evil.example"}), timeout=30
        )


def test_a_port_that_is_taken_is_said() -> None:
    with closing(socket.socket()) as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with (
            pytest.raises(MachineError, match=f"ask.port={port} cannot be listened on"),
            listen_on_port(port, "ask.port"),
        ):
            pass


def test_a_port_out_of_range_is_refused(trained, tmp_path: Path) -> None:
    status, output = command(*trained.words, "ui=true", "ask.port=70000", cwd=tmp_path)
    assert status == 2
    assert "ask.port=70000 is out of range" in output
