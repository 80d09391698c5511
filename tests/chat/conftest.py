"""A finished run of the tiny model, trained once, and what answers for it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers.chats import OPENAI, write_chat
from helpers.commands import TinyRuns, invoke, write_tiny_model
from omegaconf import OmegaConf

from medexp.chat.responder import Responder, load_responder, make_question_encoder
from medexp.config.schema import RunConfig
from medexp.evaluation.generation import Sampling
from medexp.models.session import open_session, prepare_finished_run
from medexp.system.console import Console
from medexp.tracking import finished_run
from medexp.training.context import TrainResult
from medexp.training.run import train

GREEDY = Sampling(max_new_tokens=16, temperature=0.0, top_p=0.95, seed=0)


@dataclass(frozen=True)
class Trained:
    """A finished run of the tiny model: where, what came of it, and its composed config checked."""

    tiny_runs: TinyRuns
    result: TrainResult
    run: RunConfig

    @property
    def words(self) -> list[str]:
        """The command line that asks it."""
        return [
            "-m",
            "medexp.ask",
            f"run={self.result.run_id}",
            f"tracking.root={self.tiny_runs.root / 'mlruns'}",
        ]

    @property
    def artifacts(self) -> Path:
        """Where its artifacts lie."""
        return Path(self.tiny_runs.client().download_artifacts(self.result.run_id, ""))


@pytest.fixture(scope="session")
def talkative_model(tmp_path_factory: pytest.TempPathFactory, embedded_tokenizer: Any) -> Path:
    """A tiny random model whose layers outweigh its embedding: left as it is, it says its last
    token again and again.
    """
    import torch
    from transformers import AutoModelForCausalLM

    folder = write_tiny_model(tmp_path_factory.mktemp("talkative") / "model", embedded_tokenizer)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                weight.mul_(60)
    model.save_pretrained(folder)
    return folder


def train_talkative(
    root: Path,
    tiny_runs_in: Callable[..., TinyRuns],
    model: Path,
    compose: Callable[..., Any],
    *more: str,
) -> Trained:
    """A finished run of the talkative model in `root`."""
    tiny_runs = tiny_runs_in(root, model)
    words = tiny_runs.overrides("training.learning_rate=1e-2", "hardware.dtype=float32", *more)
    yaml = OmegaConf.to_yaml(compose(*words), resolve=True)
    result = train(tiny_runs.run(*words), invoke(root / "train", words, yaml), Console())
    return Trained(tiny_runs, result, tiny_runs.run(*words))


def load_tuned(trained: Trained) -> Responder:
    """The tuned model of a finished run, loaded as the command does."""
    subject = finished_run.find_run(
        trained.result.run_id, str(trained.tiny_runs.root / "mlruns"), trained.tiny_runs.root
    )
    console = Console()
    config, found = prepare_finished_run(trained.run, subject, console)
    base = open_session(config, found, console)
    encoder = make_question_encoder(base.config, base, GREEDY)
    run_id = trained.result.run_id
    return load_responder(subject.name, run_id, base.config, base, encoder, console)


@pytest.fixture(scope="session")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_runs_in: Callable[..., TinyRuns],
    talkative_model: Path,
    compose: Callable[..., Any],
) -> Trained:
    root = tmp_path_factory.mktemp("asked")
    return train_talkative(root, tiny_runs_in, talkative_model, compose)


@pytest.fixture(scope="session")
def responder(trained: Trained) -> Responder:
    return load_tuned(trained)


@pytest.fixture(scope="session")
def trained_on_chats(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_runs_in: Callable[..., TinyRuns],
    talkative_model: Path,
    compose: Callable[..., Any],
) -> Trained:
    """A finished run on conversations of two questions, with prompt=chat."""
    root = tmp_path_factory.mktemp("conversing")
    file = write_chat(root / "chats.jsonl", OPENAI, reasons=False)
    local = ["dataset=local", f"dataset.path={file}", "dataset.held_out=2", "dataset.validation=0"]
    words = [*local, "dataset.max_cases=null", "prompt=chat"]
    return train_talkative(root, tiny_runs_in, talkative_model, compose, *words)


@pytest.fixture(scope="session")
def conversing(trained_on_chats: Trained) -> Responder:
    return load_tuned(trained_on_chats)
