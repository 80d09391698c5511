"""The real sentence model: what means the same is nearer than what does not. Skipped where its
package is not installed.
"""

from importlib import metadata

import pytest

from medexp.evaluation import embedding
from medexp.evaluation.embedding import Embedder
from medexp.models import backend
from medexp.system import machine


@pytest.fixture(scope="module")
def embedder(resolved) -> Embedder:
    try:
        metadata.version(embedding.PACKAGE)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{embedding.PACKAGE} is not installed")
    run = resolved("hardware=cpu")
    return embedding.load_embedder(backend.load_backend(run.hardware, machine.cache_dir()))


def test_a_paraphrase_is_near_and_another_topic_is_not(embedder: Embedder) -> None:
    ((near, far),) = embedder(
        ["Trouble breathing at rest"],
        ["She is short of breath even when sitting still", "Pay the invoice by Friday"],
    )
    assert near > 0.4
    assert far < 0.2


def test_a_vector_does_not_depend_on_what_else_is_asked(embedder: Embedder) -> None:
    fresh = Embedder(embedder._network, embedder._tokenizer)
    alone = fresh(["Fever"], ["High temperature"])
    assert embedder(["Fever", "Rash"], ["Pain", "High temperature"])[0][1] == pytest.approx(
        alone[0][0], abs=1e-6
    )


def test_nothing_has_no_cosines(embedder: Embedder) -> None:
    assert embedder(["Fever"], []) == [[]]
    assert embedder([], ["Fever"]) == []
