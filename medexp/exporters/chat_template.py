"""The run's own prompt in the template languages of the servers: Jinja for Transformers, vLLM and
llama.cpp, Go templates for Ollama.

Both render a user's message as `data.prompts.render_question` renders a question, byte for byte, so
a served model sees what it was trained on. The Jinja template writes the BOS token, because chat
endpoints add none. The Go template leaves it to the GGUF's add_bos_token. Earlier turns of a
conversation are rendered as training texts are: prompt, answer, EOS.
"""

import re
from collections.abc import Mapping, Sequence

from medexp.config.schema import Prompt

_QUESTION_FIELD = "{question}"
# What Go would read as an action, and what a Modelfile would not keep.
_GO_MARKS = re.compile(r'\{\{|\r|"""|"\Z')
_NO_SYSTEM = "this model was trained without system messages: put everything into the user message"


def split_prompt(prompt: Prompt) -> tuple[str, str]:
    """Return the prompt's text before and after the question."""
    before, _, after = prompt.question.partition(_QUESTION_FIELD)
    return before, after


def render_jinja_template(prompt: Prompt) -> str:
    """Return a chat template: a user message is a question, an assistant message an answer that
    ended. A system message is an error.
    """
    before, after = map(_quote_for_jinja, split_prompt(prompt))
    user = f"{{{{ {before} + message['content'] + {after} }}}}"
    return (
        "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user'"
        f" %}}{user}{{% elif message['role'] == 'assistant' %}}{{{{ message['content'] + eos_token"
        f" }}}}{{% else %}}{{{{ raise_exception({_quote_for_jinja(_NO_SYSTEM)}) }}}}{{% endif %}}"
        "{% endfor %}"
    )


def _quote_for_jinja(text: str) -> str:
    """Return `text` as a string literal that both Jinja and llama.cpp's Jinja parser understand."""
    escapes = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return "'" + "".join(escapes.get(letter, letter) for letter in text) + "'"


def render_go_template(prompt: Prompt, eos: str) -> str:
    """Return the TEMPLATE of a Modelfile.

    `.Prompt` is the question. What follows `.Response` is only rendered for earlier turns.
    """
    before, after = (_GO_MARKS.sub(_escape_for_go, text) for text in split_prompt(prompt))
    return (
        f"{before}{{{{ .Prompt }}}}{after}{{{{ .Response }}}}{_GO_MARKS.sub(_escape_for_go, eos)}"
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
