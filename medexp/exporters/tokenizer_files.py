"""The tokenizer of a run as it goes into an export: its files, and the run's prompt as its chat
template.
"""

import json
import shutil
from pathlib import Path
from typing import Any

_FILES = (
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)
_CONFIG = "tokenizer_config.json"
_MACHINE_KEYS = ("chat_template", "is_local", "local_files_only", "name_or_path")


def copy_tokenizer(adapter: Path, folder: Path, chat_template: str) -> None:
    """Copy the tokenizer beside `adapter` to `folder`; `chat_template` replaces its own."""
    for name in _FILES:
        if (adapter / name).is_file():
            shutil.copyfile(adapter / name, folder / name)
    config = {
        name: value for name, value in _read_config(adapter).items() if name not in _MACHINE_KEYS
    }
    if config.get("tokenizer_class") == "TokenizersBackend":
        # Transformers 5 writes a name of its own here, which Transformers 4 does not know.
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / _CONFIG).write_text(
        json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    (folder / "chat_template.jinja").write_text(chat_template, encoding="utf-8")


def read_special_token(folder: Path, name: str) -> str | None:
    """Return the text of a special token (bos_token, eos_token, pad_token), None without one."""
    value = _read_config(folder).get(name)
    text: str | None = value["content"] if isinstance(value, dict) else value
    return text


def _read_config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    return config
