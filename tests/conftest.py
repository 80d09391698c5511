"""What several tests share: real Hydra composition, machines made by hand, small schemas, a small
vocabulary, real models.
"""

import shutil
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import hydra
import pytest
from helpers.chat_templates import make_tokenizer
from helpers.commands import TinyRuns, write_tiny_model
from hypothesis import settings
from omegaconf import DictConfig, open_dict

from medexp.config.registration import register_with_hydra
from medexp.config.resolve import resolve
from medexp.config.schema import (
    Columns,
    Dataset,
    Faulty,
    Format,
    Overlong,
    Prompt,
    RunConfig,
    Turns,
)
from medexp.config.shipped import find_conf_dir
from medexp.data.encoding import Vocabulary
from medexp.errors import BadInput
from medexp.evaluation.measures import lexicon as shipped_lexicon
from medexp.evaluation.measures.clinical_terms import Lexicon
from medexp.models import backend, weights
from medexp.system import machine
from medexp.system.machine import Gpu, Machine
from medexp.system.units import GIB

# a build that fails fails again
settings.register_profile("medexp", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("medexp")

LAUNCH_DIR = Path("/launched/here")


@pytest.fixture(scope="session")
def lexicon() -> Lexicon:
    return shipped_lexicon.load()


@pytest.fixture(scope="session")
def no_card() -> Machine:
    return Machine(cores=2, system="by hand", gpus=())


@pytest.fixture(scope="session")
def large_card() -> Machine:
    return Machine(
        cores=16, system="by hand", gpus=(Gpu("H200", int(139.8 * GIB), has_bfloat16=True),)
    )


@cache
def _compose_once(folder: Path, machine_here: Machine, root: str, *overrides: str) -> DictConfig:
    """What these words mean in `folder`, whose presets a test writes before it composes, on this
    machine. It takes a seventh of a second, and thousands of tests ask for the same.
    """
    register_with_hydra()
    with hydra.initialize_config_dir(str(find_conf_dir()), version_base="1.3"):
        return hydra.compose(root, list(overrides), return_hydra_config=True)


def _composed(*overrides: str, root: str = "train") -> DictConfig:
    return deepcopy(_compose_once(Path.cwd(), machine.read(), root, *overrides))


@pytest.fixture(scope="session")
def compose() -> Callable[..., DictConfig]:
    """compose(*overrides, root="train"): what Hydra hands to a command."""

    def composed(*overrides: str, root: str = "train") -> DictConfig:
        cfg = _composed(*overrides, root=root)
        with open_dict(cfg):
            del cfg["hydra"]
        return cfg

    return composed


@pytest.fixture(scope="session")
def resolved(large_card: Machine) -> Callable[..., RunConfig]:
    """resolved(*overrides, on=large_card, launch_dir=...): the checked run."""

    def run(*overrides: str, on: Machine = large_card, launch_dir: Path = LAUNCH_DIR) -> RunConfig:
        cfg = _composed(*overrides)
        choices = dict(cfg.hydra.runtime.choices)
        with open_dict(cfg):
            del cfg["hydra"]
        register_with_hydra()
        # the parts of a mixture are composed too
        with hydra.initialize_config_dir(str(find_conf_dir()), version_base="1.3"):
            return resolve(cfg, on, launch_dir, choices)

    return run


@pytest.fixture(scope="session")
def problems(resolved: Callable[..., RunConfig]) -> Callable[..., tuple[str, ...]]:
    """problems(*overrides, on=large_card): everything that is said against this run; fails where
    nothing is.
    """

    def said(*overrides: str, **keywords: Any) -> tuple[str, ...]:
        with pytest.raises(BadInput) as refused:
            resolved(*overrides, **keywords)
        return refused.value.problems

    return said


@pytest.fixture(scope="session")
def dataset() -> Callable[..., Dataset]:
    """dataset(**changes): a Dataset of a local file."""

    def made(**changes: Any) -> Dataset:
        columns = Columns(question="Question", reasoning="Complex_CoT", answer="Response")
        plain = {
            "name": "local",
            "hub_id": None,
            "config": None,
            "revision": None,
            "path": None,
            "columns": columns,
        }
        split = {
            "mixture": [],
            "held_out_from": None,
            "group_by": None,
            "format": Format.auto,
            "turns": Turns.last,
            "test_share": None,
            "validation_share": 0.0,
            "held_out": 1,
            "validation": 0,
            "stratify_by": [],
            "max_cases": None,
            "split_seed": 3407,
        }
        return Dataset(
            **(
                plain
                | split
                | {"overlong": Overlong.drop, "faulty": Faulty.error, "licence": "none"}
                | changes
            )
        )

    return made


@pytest.fixture(scope="session")
def prompt() -> Prompt:
    return Prompt("short", "Q: {question}\n<think>\n", "{reasoning}\n</think>\n\n{answer}")


BOS, EOS = 1, 2


@pytest.fixture(scope="session")
def characters() -> Vocabulary:
    """A token a character, its code point moved past BOS (1) and EOS (2)."""
    return Vocabulary(lambda text: [ord(character) + 3 for character in text], BOS, EOS)


@pytest.fixture(scope="session")
def decoded() -> Callable[[list[int]], str]:
    """The text of `characters` tokens; BOS and EOS are shown as ⟨ and ⟩."""
    return lambda ids: "".join({BOS: "⟨", EOS: "⟩"}.get(token) or chr(token - 3) for token in ids)


@pytest.fixture(scope="session")
def embedded_tokenizer(resolved: Callable[..., RunConfig], no_card: Machine) -> Any:
    """The tokenizer of the embedded model, converted first where that has not happened on this
    machine.
    """
    run = resolved("hardware=cpu", on=no_card)
    found = weights.find_weights(run.model)
    if found.gguf is not None:
        found = weights.convert_gguf(
            found, run.model, backend.load_backend(run.hardware, machine.cache_dir())
        )
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(found.location)


@pytest.fixture(scope="session")
def chat_tokenizer(embedded_tokenizer: Any) -> Callable[[str], Any]:
    """chat_tokenizer(name): a tokenizer with the published chat template of that name."""
    return cache(lambda name: make_tokenizer(name, embedded_tokenizer))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, embedded_tokenizer: Any) -> Path:
    """A random two-layer Llama with the first tokens of the embedded tokenizer."""
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model", embedded_tokenizer)


@pytest.fixture(scope="session")
def whole_vocabulary_model(
    tmp_path_factory: pytest.TempPathFactory, embedded_tokenizer: Any
) -> Path:
    """The same with the whole tokenizer: a GGUF knows it by how it splits text, and the shipped
    cases have their real lengths.
    """
    return write_tiny_model(
        tmp_path_factory.mktemp("whole") / "model", embedded_tokenizer, len(embedded_tokenizer)
    )


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh MLflow database: creating its tables takes seconds, copying it does not."""
    from mlflow import MlflowClient

    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture(scope="session")
def tiny_runs_in(
    tiny_model: Path, empty_store: Path, resolved: Callable[..., RunConfig]
) -> Callable[..., TinyRuns]:
    """tiny_runs_in(root, model=tiny_model): quick runs that keep everything under `root`, where
    MLflow's tables are made already.
    """

    def made(root: Path, model: Path = tiny_model) -> TinyRuns:
        (root / "mlruns").mkdir()
        shutil.copy(empty_store, root / "mlruns" / "mlflow.db")
        return TinyRuns(root, model, resolved)

    return made


@pytest.fixture
def tiny_runs(tmp_path: Path, tiny_runs_in: Callable[..., TinyRuns]) -> TinyRuns:
    """Quick runs that keep everything under this test's folder."""
    return tiny_runs_in(tmp_path)
