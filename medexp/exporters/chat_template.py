"""The run's own prompt in the template languages of the servers: Jinja for Transformers, vLLM and
llama.cpp, Go templates for Ollama.

Both render a user's message as `data.prompts.render_question` renders a question, byte for byte, so
a served model sees what it was trained on. The Jinja template writes the BOS token, because chat
endpoints add none. The Go template leaves it to the GGUF's add_bos_token. Earlier turns of a
conversation are rendered as training texts are: prompt, answer, EOS.

A run with prompt=chat carries the template of its tokenizer, which its texts were written by.
"""

import re
from collections.abc import Mapping, Sequence

from medexp.config.schema import Prompt
from medexp.data.cases import Turn
from medexp.data.chat_template import ChatTemplate, quote_for_jinja
from medexp.data.prompts import ChatPrompt

_QUESTION_FIELD = "{question}"
# What Go would read as an action, and what a Modelfile would not keep.
_GO_MARKS = re.compile(r'\{\{|\r|"""|"\Z')
_OTHER_ROLE = "this model knows messages of system, user and assistant alone"


def split_prompt(prompt: Prompt) -> tuple[str, str]:
    """Return the prompt's text before and after the question."""
    before, _, after = prompt.question.partition(_QUESTION_FIELD)
    return before, after


def render_jinja_template(prompt: Prompt) -> str:
    """Return a chat template: a user message is a question, an assistant message an answer that
    ended. A system message is said before the first user's, behind the prompt's own instruction,
    as it stands in training texts.

    With prompt=chat it is the template that training texts were written by.
    """
    if isinstance(prompt, ChatPrompt):
        return prompt.template.source
    before, after = map(quote_for_jinja, split_prompt(prompt))
    user = f"{{{{ {before} + ns.system + message['content'] + {after} }}}}"
    return (
        "{{ bos_token }}{% set ns = namespace(system='') %}{% for message in messages %}"
        "{% if message['role'] == 'system' or message['role'] == 'developer' %}"
        "{% set ns.system = ns.system + message['content'] + '\\n\\n' %}"
        f"{{% elif message['role'] == 'user' %}}{user}{{% set ns.system = '' %}}"
        "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}"
        f"{{% else %}}{{{{ raise_exception({quote_for_jinja(_OTHER_ROLE)}) }}}}{{% endif %}}"
        "{% endfor %}"
    )


def render_go_template(prompt: Prompt, eos: str, bos: str | None = None) -> str:
    """Return the TEMPLATE of a Modelfile.

    `.Prompt` is the question, `.System` is said before it. What follows `.Response` is only
    rendered for earlier turns. `bos` is what Ollama writes itself, from the GGUF.
    """
    if isinstance(prompt, ChatPrompt):
        return _render_go_chat(prompt.template, bos)
    before, after = (_GO_MARKS.sub(_escape_for_go, text) for text in split_prompt(prompt))
    system = '{{ if .System }}{{ .System }}{{ "\\n\\n" }}{{ end }}'
    return (
        f"{before}{system}{{{{ .Prompt }}}}{after}{{{{ .Response }}}}"
        f"{_GO_MARKS.sub(_escape_for_go, eos)}"
    )


def adds_bos(prompt: Prompt, bos: str | None) -> bool:
    """Return whether texts of `prompt` begin with the token `bos`, which a GGUF is told to add."""
    if isinstance(prompt, ChatPrompt):
        return bool(bos) and prompt.template.ask([Turn("user", "x")]).startswith(str(bos))
    return True


def _render_go_chat(template: ChatTemplate, bos: str | None) -> str:
    """Return `template` in Go: what it writes around turns, found by marked ones.

    A system text stands where the template has it in a conversation of one question.
    """
    system, user, answer, further = (
        f"Medexp{word}Text" for word in ("One", "Two", "Three", "Four")
    )
    first = Turn("user", user)
    instructed = template.ask([Turn("system", system), first]).removeprefix(bos or "")
    alone = template.ask([first]).removeprefix(bos or "")
    turns = [first, Turn("assistant", answer), Turn("user", further)]
    later = template.ask(turns).removeprefix(bos or "")
    before_system, _, rest = instructed.partition(system)
    behind_system, plain = rest.partition(user)[0], alone.partition(user)[0]
    asks = alone.partition(user)[2]
    answered = later.partition(user)[2].partition(answer)[0]
    ended = later.partition(answer)[2].partition(further)[0]

    def go(text: str) -> str:
        return _GO_MARKS.sub(_escape_for_go, text)

    return (
        f"{{{{ if .System }}}}{go(before_system)}{{{{ .System }}}}{go(behind_system)}"
        f"{{{{ else }}}}{go(plain)}{{{{ end }}}}"
        '{{ range $i, $m := .Messages }}{{ if eq .Role "user" }}{{ .Content }}'
        f"{{{{ if eq (len (slice $.Messages $i)) 1 }}}}{go(asks)}{{{{ else }}}}{go(answered)}"
        f'{{{{ end }}}}{{{{ else if eq .Role "assistant" }}}}{{{{ .Content }}}}{go(ended)}'
        "{{ end }}{{ end }}"
    )


def _escape_for_go(match: re.Match[str]) -> str:
    quoted = match[0].replace('"', '\\"').replace("\r", "\\r")
    return f'{{{{ "{quoted}" }}}}'


def render_modelfile(
    gguf_name: str,
    template: str,
    parameters: Sequence[tuple[str, object]],
    licence: str,
    comments: Sequence[str],
) -> str:
    """Return an Ollama Modelfile for the GGUF beside it.

    `parameters` may hold a name several times, as `stop`. Everything between three double quotes is
    kept as it is.

    Source: Ollama's Modelfile reference.
    """
    lines = [
        *(f"# {comment}" for comment in comments),
        f"FROM ./{gguf_name}",
        f'TEMPLATE """{template}"""',
    ]
    lines += [f"PARAMETER {name} {_format_parameter(value)}" for name, value in parameters]
    return "\n".join([*lines, f'LICENSE """{licence}"""']) + "\n"


def _format_parameter(value: object) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    return f"{value:g}" if isinstance(value, float) else str(value)


def make_ollama_parameters(
    stops: Sequence[str], num_ctx: int, num_predict: int
) -> list[tuple[str, object]]:
    """Return the parameters of greedy answers of at most `num_predict` tokens, as the run's own
    were measured.
    """
    fixed: Mapping[str, object] = {
        "num_ctx": num_ctx,
        "num_predict": num_predict,
        "temperature": 0,
        # Ollama's default penalises repetition, which the measured answers were not.
        "repeat_penalty": 1.0,
    }
    return [*fixed.items(), *(("stop", stop) for stop in stops)]
