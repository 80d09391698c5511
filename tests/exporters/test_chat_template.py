"""The run's prompt as others render it: byte for byte the text that was trained on."""

import re
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import replace
from typing import Any

import pytest
from helpers.chat_templates import CHAT, PUBLISHED
from jinja2.sandbox import ImmutableSandboxedEnvironment
from omegaconf import OmegaConf

from medexp.config.schema import Prompt
from medexp.config.shipped import find_conf_dir
from medexp.data.cases import Turn
from medexp.data.prompts import ChatPrompt, bind_prompt, render_question
from medexp.exporters import chat_template

QUESTION = "A man says \"help\", {{ .Prompt }} and {question}; C:\\new\n\tcost: 5 % 'ok' – Ärztin?"
SHIPPED = [
    Prompt(**OmegaConf.load(file))
    for file in sorted((find_conf_dir() / "prompt").glob("*.yaml"))
    if file.stem != "chat"
]  # type: ignore[arg-type]
AWKWARD = Prompt("awkward", 'Say "{{ x }}" or """y"""\r\n\\n it\'s {question}"', "{answer}")
PROMPTS = pytest.mark.parametrize("prompt", [*SHIPPED, AWKWARD], ids=lambda prompt: prompt.name)


def rendered_by_go(template: str, values: dict[str, Any]) -> str:
    """What Go's text/template makes of the part of its language that a Modelfile of ours uses:
    fields, quoted strings, if and else, a range over messages.
    """
    pieces = re.split(r'(\{\{ (?:"(?:[^"\\]|\\.)*"|[^"}]|"[^"]*")*? \}\})', template)
    return _render_block(iter(pieces), values, True)[0]


def _render_block(pieces: Iterator[str], values: dict[str, Any], writes: bool) -> tuple[str, str]:
    """The text up to the end or the else of this block, and which of them ended it."""
    text = ""
    for piece in pieces:
        action = piece[3:-3] if piece.startswith("{{ ") else None
        if action is None:
            text += piece
        elif action == "end" or action.startswith("else"):
            return (text if writes else ""), action
        elif action.startswith("if "):
            text += _render_choice(pieces, action[3:], values)
        elif action == "range $i, $m := .Messages":
            body = list(_take_block(pieces))
            for place, message in enumerate(values["Messages"]):
                inside = values | message | {"left": len(values["Messages"]) - place}
                text += _render_block(iter(body), inside, True)[0]
        elif action.startswith("."):
            text += values[action[1:]]
        else:
            text += re.sub(r"\\(.)", _unescape, action[1:-1])
    return text, "end"


def _unescape(escape: re.Match[str]) -> str:
    return {"r": "\r", "n": "\n"}.get(escape[1], escape[1])


def _render_choice(pieces: Iterator[str], condition: str, values: dict[str, Any]) -> str:
    chosen, is_open, ended = "", True, f"else if {condition}"
    while ended != "end":
        holds = is_open and (ended == "else" or _holds(ended.removeprefix("else if "), values))
        body, ended = _render_block(pieces, values, holds)
        chosen, is_open = chosen + body, is_open and not holds
    return chosen


def _holds(condition: str, values: dict[str, Any]) -> bool:
    if role := re.fullmatch(r'eq \.Role "(\w+)"', condition):
        return bool(values["Role"] == role[1])
    if condition == "eq (len (slice $.Messages $i)) 1":
        return bool(values["left"] == 1)
    return bool(values[condition.removeprefix(".")])


def _take_block(pieces: Iterator[str]) -> Iterator[str]:
    depth = 1
    for piece in pieces:
        depth += piece.startswith(("{{ if ", "{{ range ")) - (piece == "{{ end }}")
        if not depth:
            return
        yield piece


def template_in(modelfile: str) -> str:
    """Return a Modelfile's TEMPLATE as Ollama's parser reads it: up to the next three quotes."""
    found = re.search(r'^TEMPLATE """(.*?)"""$', modelfile, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


@PROMPTS
def test_ollama_renders_the_training_prompt(prompt: Prompt) -> None:
    written = chat_template.render_modelfile(
        "m.gguf",
        chat_template.render_go_template(prompt, "<|end|>"),
        [("stop", "<|end|>")],
        "MIT",
        ["a comment"],
    )
    values = {"Prompt": QUESTION, "System": "", "Response": ""}
    assert rendered_by_go(
        template_in(written).partition("{{ .Response }}")[0], values
    ) == render_question(prompt, QUESTION)


@PROMPTS
def test_an_earlier_turn_ends_as_a_training_text_does(prompt: Prompt) -> None:
    values = {"Prompt": QUESTION, "System": "", "Response": "An answer."}
    turn = rendered_by_go(chat_template.render_go_template(prompt, "<|end|>"), values)
    assert turn == render_question(prompt, QUESTION) + "An answer.<|end|>"


def test_the_modelfile_sets_what_the_run_was_measured_with() -> None:
    written = chat_template.render_modelfile(
        "m.gguf",
        "{{ .Prompt }}",
        chat_template.make_ollama_parameters(["</s>"], 928, 288),
        "MIT",
        [],
    )
    assert written.splitlines() == [
        "FROM ./m.gguf", 'TEMPLATE """{{ .Prompt }}"""', "PARAMETER num_ctx 928",
        "PARAMETER num_predict 288", "PARAMETER temperature 0", "PARAMETER repeat_penalty 1",
        'PARAMETER stop "</s>"', 'LICENSE """MIT"""',
    ]  # fmt: skip


@pytest.fixture(scope="module")
def chat() -> Callable[..., str]:
    """chat(template, *messages): as Transformers renders it."""

    def refuse(why: str) -> str:
        raise ValueError(why)

    def render(template: str, *messages: tuple[str, str]) -> str:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = refuse
        turns = [{"role": role, "content": content} for role, content in messages]
        return environment.from_string(template).render(
            messages=turns, bos_token="<s>", eos_token="</s>", add_generation_prompt=True
        )

    return render


@PROMPTS
def test_a_user_message_is_a_question(prompt: Prompt, chat: Callable[..., str]) -> None:
    template = chat_template.render_jinja_template(prompt)
    assert chat(template, ("user", QUESTION)) == "<s>" + render_question(prompt, QUESTION)
    conversation = chat(template, ("user", "One?"), ("assistant", "Yes."), ("user", "Two?"))
    assert conversation == "<s>" + render_question(prompt, "One?") + "Yes.</s>" + render_question(
        prompt, "Two?"
    )


@PROMPTS
def test_a_system_message_stands_before_the_first_users_text(
    prompt: Prompt, chat: Callable[..., str]
) -> None:
    template = chat_template.render_jinja_template(prompt)
    instructed = render_question(prompt, f"Be brief.\n\n{QUESTION}")
    for role in ("system", "developer"):
        assert chat(template, (role, "Be brief."), ("user", QUESTION)) == "<s>" + instructed
    conversation = [("system", "Be brief."), ("user", QUESTION), ("assistant", "Yes.")]
    assert chat(template, *conversation, ("user", "Two?")) == (
        f"<s>{instructed}Yes.</s>" + render_question(prompt, "Two?")
    )
    values = {"Prompt": QUESTION, "System": "Be brief.", "Response": ""}
    go = chat_template.render_go_template(prompt, "</s>")
    assert rendered_by_go(go.partition("{{ .Response }}")[0], values) == instructed


def test_a_message_of_another_role_is_refused(prompt: Prompt, chat: Callable[..., str]) -> None:
    with pytest.raises(ValueError, match="system, user and assistant alone"):
        chat(chat_template.render_jinja_template(prompt), ("user", "a"), ("tool", "b"))


TURNS = [
    [Turn("user", QUESTION)],
    [Turn("system", "Be brief."), Turn("user", QUESTION)],
    [Turn("user", "One?"), Turn("assistant", "Yes."), Turn("user", QUESTION)],
    [
        *(Turn("system", "Be brief."), Turn("user", "One?"), Turn("assistant", "Yes.")),
        *(Turn("user", "Two?"), Turn("assistant", "No."), Turn("user", QUESTION)),
    ],
]


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("turns", TURNS, ids=["one", "system", "two", "three"])
def test_ollama_renders_a_conversation_as_the_chat_template_does(
    name: str, turns: list[Turn], chat_tokenizer: Callable[[str], Any]
) -> None:
    if name == "mistral_v0_3" and len(turns) > 2:
        # It moves the system text to the last question, which Go cannot.
        turns = [turn for turn in turns if turn.role != "system"]
    tokenizer = chat_tokenizer(name)
    prompt = bind_prompt(CHAT, tokenizer)
    assert isinstance(prompt, ChatPrompt)
    bos = tokenizer.bos_token if chat_template.adds_bos(prompt, tokenizer.bos_token) else None
    system = turns[0].text if turns[0].role == "system" else ""
    said = [{"Role": turn.role, "Content": turn.text} for turn in turns]
    # Ollama hands the system text over twice, as a message, too.
    values = {"System": system, "Messages": said}
    written = chat_template.render_modelfile(
        "m.gguf", chat_template.render_go_template(prompt, "", bos), [], "MIT", []
    )
    asked = prompt.template.ask(turns)
    assert (bos or "") + rendered_by_go(template_in(written), values) == asked


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_exported_template_renders_what_was_trained_and_binds_again(
    name: str, chat_tokenizer: Callable[[str], Any]
) -> None:
    tokenizer = chat_tokenizer(name)
    system = "You are \"careful\".\n{{ not }} 'jinja' \\n"
    for prompt in (CHAT, replace(CHAT, system=system)):
        bound = bind_prompt(prompt, tokenizer)
        assert isinstance(bound, ChatPrompt)
        exported = copy(tokenizer)
        exported.chat_template = chat_template.render_jinja_template(bound)
        for turns in TURNS:
            messages = [{"role": turn.role, "content": turn.text} for turn in turns]
            rendered = exported.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
            assert rendered == bound.template.ask(turns)
            if prompt.system is not None and turns[0].role != "system":
                assert system.strip() in rendered
        again = bind_prompt(prompt, exported)
        assert isinstance(again, ChatPrompt)
        assert again.template.digest == bound.template.digest
