"""The command that serves an export, as a shell script beside it. Text only; nothing here starts a
server.
"""

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

# What --max-lora-rank takes. Source: vLLM's LoRAConfig.
VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
# Characters that are not safe inside double quotes of a shell.
_NOT_PLAIN = re.compile(r"[^\w./ -]")
_HERE = '"$here"'


@dataclass(frozen=True)
class ServeSettings:
    """What is served: under which name, with how long a context, computed in which format."""

    name: str
    max_tokens: int
    dtype: str


def find_vllm_obstacle(
    rank: int, uses_dora: bool, trains_bias: bool, is_part: bool = False
) -> str | None:
    """Return why vLLM cannot serve this adapter over its base, None where it can."""
    if uses_dora:
        return "lora.dora=true"
    if trains_bias:
        return "lora.bias is not none"
    if is_part:
        # vLLM would load the whole model, whose tensors have other names.
        return "tensors of the part for text alone"
    return f"lora.r={rank}" if rank > VLLM_RANKS[-1] else None


def make_vllm_adapter_command(
    settings: ServeSettings, base: str, is_local: bool, rank: int, is_nf4: bool
) -> list[str]:
    """Return vLLM's command for the base with the adapter that lies beside the script.

    A base that is not the Hub's is the folder in the variable BASE, because every machine has it in
    another place.
    """
    max_rank = next(max_rank for max_rank in VLLM_RANKS if max_rank >= rank)
    local_base = (
        f'"${{BASE:?is the folder of the base model, {_NOT_PLAIN.sub("_", base)}: BASE=FOLDER sh'
        ' serve.sh}"'
    )
    command = ["vllm", "serve", local_base if is_local else shlex.quote(base)]
    command += ["--enable-lora", "--max-lora-rank", str(max_rank)]
    command += ["--lora-modules", f"{shlex.quote(settings.name)}={_HERE}", "--tokenizer", _HERE]
    if is_nf4:
        command += ["--quantization", "bitsandbytes"]
    return command + _server_options(settings)


def make_vllm_merged_command(settings: ServeSettings) -> list[str]:
    """Return vLLM's command for the merged weights beside the script."""
    name = shlex.quote(settings.name)
    return ["vllm", "serve", _HERE, "--served-model-name", name, *_server_options(settings)]


def _server_options(settings: ServeSettings) -> list[str]:
    options = ["--dtype", settings.dtype, "--max-model-len", str(settings.max_tokens)]
    options += ["--chat-template", f"{_HERE}/chat_template.jinja"]
    return [*options, "--host", "127.0.0.1", "--port", "8000"]


def render_script(settings: ServeSettings, vllm_command: Sequence[str], is_merged: bool) -> str:
    """Return serve.sh, which runs vLLM, or with `sh serve.sh transformers` Transformers' own
    server.

    Transformers' server takes no adapter without its base, and knows a model by its folder alone.
    The script begins with a comment that holds a first request.

    Source: both servers were run, benchmarks/export.
    """
    messages = [{"role": "user", "content": "QUESTION"}]
    request = json.dumps({"model": settings.name, "temperature": 0, "messages": messages})
    transformers_command = (
        _TRANSFORMERS.format(dtype=settings.dtype) if is_merged else _NOT_TRANSFORMERS
    )
    return f"""#!/bin/sh
# Serves {settings.name} on 127.0.0.1:8000. A user message is the question: chat_template.jinja \
puts the run's prompt around it.
#   curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \
-d '{request}'
# sh serve.sh: vLLM (pip install vllm); sh serve.sh transformers: Transformers' own server, for \
merged weights
export VLLM_NO_USAGE_STATS=1 HF_HUB_DISABLE_TELEMETRY=1  # neither reports that it was used
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
if [ "$1" = transformers ]; then
  {transformers_command}
fi
exec {" ".join(vllm_command)}
"""


_TRANSFORMERS = """\
echo "transformers[serving] is needed; the server knows the model by its folder: \
\\"model\\": \\"$here\\""
  exec transformers serve "$here" --dtype {dtype} --host 127.0.0.1 --port 8000"""
_NOT_TRANSFORMERS = """\
echo "Transformers' server takes no adapter without its base: export the run with to=merged" >&2
  exit 2"""
