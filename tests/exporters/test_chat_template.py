"""The run's prompt as others render it: byte for byte the text that was trained on."""

import re
from collections.abc import Callable

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from omegaconf import OmegaConf

from medexp.config.registration import find_conf_dir
from medexp.config.schema import Prompt
from medexp.data.prompts import render_question
from medexp.exporters import chat_template

QUESTION = "A man says \"help\", {{ .Prompt }} and {question}; C:\\new\n\tcost: 5 % 'ok' – Ärztin?"
SHIPPED = [
    Prompt(**OmegaConf.load(file)) for file in sorted((find_conf_dir() / "prompt").glob("*.yaml"))
]  # type: ignore[arg-type]
AWKWARD = Prompt("awkward", 'Say "{{ x }}" or """y"""\r\n\\n it\'s {question}"', "{answer}")
PROMPTS = pytest.mark.parametrize("prompt", [*SHIPPED, AWKWARD], ids=lambda prompt: prompt.name)


def rendered_by_go(template: str, values: dict[str, str]) -> str:
    """What Go's text/template makes of the part of its language that a Modelfile of ours uses:
    fields and quoted strings.
    """

    def action(match: re.Match[str]) -> str:
        inside = match[1]
        if inside.startswith("."):
            return values[inside[1:]]
        return re.sub(r"\\(.)", lambda escape: {"r": "\r"}.get(escape[1], escape[1]), inside[1:-1])

    return re.sub(r'\{\{ (\.\w+|"(?:[^"\\]|\\.)*") \}\}', action, template)


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


def test_a_system_message_is_refused(prompt: Prompt, chat: Callable[..., str]) -> None:
    with pytest.raises(ValueError, match="trained without system messages"):
        chat(
            chat_template.render_jinja_template(prompt), ("system", "Be brief."), ("user", QUESTION)
        )
