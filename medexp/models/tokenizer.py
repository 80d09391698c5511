"""The tokenizer that lies beside a model's weights, and how long a text that model can read."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from medexp.config.schema import Prompt, PromptForm, RunConfig
from medexp.data import prompts
from medexp.data.chat_template import without_template_error
from medexp.errors import MedexpError, ModelError, first_line
from medexp.models.backend import Backend
from medexp.models.weights import Weights


def load_tokenizer(weights: Weights, stack: Backend) -> Any:
    """Load the tokenizer beside the weights, with a padding token (its EOS where it has none;
    padding is masked by length).

    Raises: ModelError if it cannot be read, or has no end of sequence.
    """
    # tokenizers raises a bare Exception: it has no type of its own.
    with refuse_unreadable("the tokenizer", weights, Exception):
        tokenizer = stack.transformers.AutoTokenizer.from_pretrained(
            weights.location, revision=revision_of(weights)
        )
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"the tokenizer of {weights.location} has no EOS token; a model trained with it could"
            " not end an answer"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_chat_template(config: RunConfig, found: Weights) -> None:
    """Refuse a prompt that needs a chat template where none lies beside the weights in a folder;
    of others the tokenizer says it once it is loaded.

    Raises: ConfigError.
    """
    folder = Path(found.location)
    if config.prompt.form is not PromptForm.chat or not folder.is_dir():
        return
    with refuse_unreadable("the tokenizer", found, OSError, ValueError):
        file = folder / "tokenizer_config.json"
        stored = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        files = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")
        if not stored.get("chat_template") and not any((folder / name).exists() for name in files):
            raise without_template_error(folder.name)


def bind_run_prompt(config: RunConfig, tokenizer: Any) -> RunConfig:
    """Return `config` with its prompt as it is written for `tokenizer`. With a chat template the
    token that ends a turn there is the EOS: answers are trained, stopped and exported with it.

    Raises: ConfigError where the tokenizer has no chat template that can be trained with.
    """
    prompt = prompts.bind_prompt(config.prompt, tokenizer)
    if isinstance(prompt, prompts.ChatPrompt):
        tokenizer.eos_token = prompt.template.end
    return replace(config, prompt=prompt)


def unbind_run_prompt(config: RunConfig) -> RunConfig:
    """Return `config` as it was before `bind_run_prompt`: another process binds the prompt to a
    tokenizer of its own.
    """
    values = {key.name: getattr(config.prompt, key.name) for key in fields(Prompt)}
    return replace(config, prompt=Prompt(**values))


@contextmanager
def refuse_unreadable(what: str, weights: Weights, *kinds: type[Exception]) -> Iterator[None]:
    """Errors of these `kinds` are about a file that is missing, cut off, or not this user's to
    read.
    """
    try:
        yield
    except MedexpError:
        raise
    except kinds as error:
        raise ModelError(
            f"{what} of {weights.location} cannot be read ({first_line(error)}); copy the folder"
            " again, and see that its files may be read"
        ) from error


def read_context_tokens(weights: Weights, stack: Backend) -> int:
    """Return how many tokens, prompt and answer together, the model in `weights` was made for."""
    config = stack.transformers.AutoConfig.from_pretrained(
        weights.location, revision=revision_of(weights)
    )
    return int(config.get_text_config().max_position_embeddings)


def revision_of(weights: Weights) -> str | None:
    """Return the commit to read from the Hub, or None where the weights lie in a folder."""
    return None if Path(weights.location).is_absolute() else weights.commit
