"""What all rigs share: the tiny model of the tests (or the embedded one), and a store whose tables
are made.
"""

import json
import sys
from pathlib import Path

from benchmarks.torture.rig import REPOSITORY, Parts


def parts_in(scratch: Path, embedded: bool) -> Parts:
    """The model and the empty store, under `scratch`."""
    sys.path.insert(0, str(REPOSITORY / "tests"))
    from helpers.commands import QUICK, write_tiny_model

    return Parts(
        _without_model(QUICK) if embedded else _tiny(scratch, QUICK, write_tiny_model),
        _store(scratch),
    )


def _store(scratch: Path) -> Path:
    from mlflow import MlflowClient

    file = scratch / "empty" / "mlflow.db"
    file.parent.mkdir()
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


def _without_model(quick: list[str]) -> tuple[str, ...]:
    return tuple(override for override in quick if not override.startswith("model."))


def _tiny(scratch: Path, quick: list[str], write_tiny_model) -> tuple[str, ...]:
    from transformers import AutoTokenizer

    from medexp.system import machine

    found = sorted((machine.cache_dir()).glob("smollm2_135m-*"))
    if not found:
        raise SystemExit(
            "the tiny model needs the embedded model's tokenizer: run python -m medexp.audit once"
        )
    folder = write_tiny_model(scratch / "model", AutoTokenizer.from_pretrained(found[-1]))
    for file in folder.iterdir():
        file.chmod(0o644)  # nobody reads them, too
    vocab = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    return (*quick, f"model.shape.vocab={vocab}", f"model.path={folder}")
