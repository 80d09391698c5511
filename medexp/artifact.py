"""The adapter as a folder: safetensors, adapter_config.json with the absolute base, the tokenizer, and the run that made it."""

import os
import shutil
import tempfile
from pathlib import Path

from medexp.tuned import Tuned


def save_adapter(tuned: Tuned, folder: Path, composed_yaml: str) -> Path:
    """Write the adapter to `folder`, whole or not at all; an adapter already there is replaced. Returns `folder`."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    half_done = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        tuned.network.save_pretrained(half_done, save_embedding_layers=False)
        tuned.tokenizer.save_pretrained(half_done)
        (half_done / "run.yaml").write_text(composed_yaml, encoding="utf-8")
        half_done.chmod(0o777 & ~_umask())
        shutil.rmtree(folder, ignore_errors=True)
        half_done.rename(folder)
    finally:
        shutil.rmtree(half_done, ignore_errors=True)
    return folder


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
