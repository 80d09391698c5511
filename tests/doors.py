"""For tests of whole runs: a tiny model with the embedded tokenizer, runs in this process, and commands in their own."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medexp import machine
from medexp.command import Invocation
from medexp.config.schema import RunConfig
from medexp.screen import Screen
from medexp.train import TrainResult, train

TINY = {"layers": 2, "hidden": 64, "heads": 4, "kv_heads": 2, "head_dim": 16, "ffn": 128}
QUICK = [
    *(f"model.shape.{name}={value}" for name, value in TINY.items()),
    "debug=fast",
    "evaluation.answers=2",
    "tracking.system_metrics=false",
]


def a_second() -> float:
    """A second on a processor of today; where Hydra alone takes longer to import, as much more (0.3 s on an old one)."""
    took = []
    for _ in range(3):  # a busy neighbour makes one slow, not all
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        subprocess.run([sys.executable, "-c", "import hydra, omegaconf"], check=True)
        took.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before)
    return max(1, 7 * min(took))


def write_tiny_model(folder: Path, tokenizer: Any) -> Path:
    """A random Llama of the TINY shape in `folder`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@dataclass
class Doors:
    """Runs of the tiny model that keep everything under `root`."""

    root: Path
    model: Path
    resolved: Callable[..., RunConfig]

    def overrides(self, *more: str) -> list[str]:
        """The command line of a quick run."""
        return [*QUICK, f"model.path={self.model}", f"tracking.root={self.root / 'mlruns'}", *more]

    def run(self, *more: str) -> RunConfig:
        """The checked config of a quick run."""
        return self.resolved(*self.overrides(*more), on=machine.read())

    def train(self, *more: str, name: str = "out") -> TrainResult:
        """A quick run in this process."""
        return train(self.run(*more), Invocation(self.root / name, tuple(more), "composed: yaml\n"), Screen())

    def client(self) -> Any:
        """MLflow's client over the runs made here."""
        from mlflow import MlflowClient

        return MlflowClient(f"sqlite:///{self.root / 'mlruns' / 'mlflow.db'}")

    def runs(self) -> list[Any]:
        """Every MLflow run made here, newest first."""
        client = self.client()
        return list(client.search_runs([each.experiment_id for each in client.search_experiments()]))

    def history(self, run_id: str, metric: str) -> dict[int, float]:
        """The last value of `metric` at every step."""
        return {each.step: each.value for each in self.client().get_metric_history(run_id, metric)}


def command(*words: str, cwd: Path, **environment: str) -> tuple[int, str]:
    """Exit status and output (both streams) of `python words...` in `cwd`."""
    with _started(words, cwd, environment) as process:
        output, _ = process.communicate(timeout=300)
    return process.returncode, output


def killed_at(line_part: str, words: list[str], cwd: Path) -> int:
    """Exit status of `python words...` killed outright as soon as it prints a line with `line_part`."""
    with _started(words, cwd, {}) as process:
        for line in process.stdout or ():
            if line_part in line:
                process.kill()
    return process.returncode


def _started(words: Iterable[str], cwd: Path, environment: Mapping[str, str]) -> subprocess.Popen[str]:
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])} | environment
    return subprocess.Popen([sys.executable, *words], cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
