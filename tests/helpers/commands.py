"""For tests of whole runs: a tiny model with the embedded tokenizer, runs in this process, and
commands in their own.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers import with_fork_server
from medexp.config.invocation import AnyInvocation, Invocation
from medexp.config.schema import RunConfig
from medexp.sweep.workers.warm_process import WarmProcess, can_fork
from medexp.system import machine
from medexp.system.console import Console
from medexp.training.context import TrainResult
from medexp.training.run import train

TINY = {"layers": 2, "hidden": 64, "heads": 4, "kv_heads": 2, "head_dim": 16, "ffn": 128}
TOKENS = 12288  # of the vocabulary: the shipped cases are then a little longer than with all 49,152
QUICK = [
    *(f"model.shape.{name}={value}" for name, value in TINY.items()),
    "debug=fast",
    "evaluation.answers=2",
    "evaluation.max_seq_tokens=1024",
    "tracking.system_metrics=false",
]


READ_LATE = {"COLUMNS", "HOME", "LOGNAME", "USER"}
# processor seconds for importing Hydra where a second is a second; CI's machine takes 0.19, an
# older EPYC 0.3
HYDRA_S = 0.15


@dataclass(frozen=True)
class Start:
    """A command that ended: its exit status, what it imported, and its processor seconds where
    Hydra takes HYDRA_S.
    """

    status: int
    modules: frozenset[str]
    took_s: float


def quickest_start(*words: str, cwd: Path) -> Start:
    """The quickest of three starts of `python words...`.

    A busy neighbour slows all on this machine to half, for seconds or for minutes: so each is held
    against an import of Hydra right before it.
    """
    return min((_start(words, cwd) for _ in range(3)), key=lambda start: start.took_s)


def _start(words: Sequence[str], cwd: Path) -> Start:
    before = _children_s()
    subprocess.run([sys.executable, "-c", "import hydra, omegaconf"], check=True)
    between = _children_s()
    status, output = command("-X", "importtime", *words, cwd=cwd)
    took = _children_s() - between
    modules = (
        line.rpartition("|")[2].strip()
        for line in output.splitlines()
        if line.startswith("import time:")
    )
    return Start(status, frozenset(modules), HYDRA_S * took / (between - before))


def _children_s() -> float:
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime


def write_tiny_model(folder: Path, tokenizer: Any, tokens: int = TOKENS) -> Path:
    """A random Llama of the TINY shape in `folder`, with the first `tokens` of `tokenizer`: of a
    model this small, the whole vocabulary would be nearly all there is to compute and to read."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokens, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, tie_word_embeddings=True,
        bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    keep_first(tokens, folder / "tokenizer.json")
    return folder


def change_one_weight(folder: Path, place: tuple[int, int] = (0, 0)) -> None:
    """Make the checkpoint in `folder` another one, of the same shape."""
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    weights = load_file(file)
    weights["model.layers.1.mlp.up_proj.weight"][place] += 1
    save_file(weights, file, metadata={"format": "pt"})


def keep_first(tokens: int, file: Path) -> None:
    """Byte-pair encoding numbers its tokens as it merges them, so that the first ones are a
    vocabulary of their own.
    """
    whole = json.loads(file.read_text())
    model = whole["model"]
    model["vocab"] = {token: number for token, number in model["vocab"].items() if number < tokens}
    model["merges"] = [pair for pair in model["merges"] if "".join(pair) in model["vocab"]]
    file.write_text(json.dumps(whole))


def invoke(output_dir: Path, overrides: Sequence[str], composed_yaml: str) -> AnyInvocation:
    """Return the call of a command with `overrides`, without options and without a finished run."""
    return Invocation(output_dir, tuple(overrides), composed_yaml, "", None, None)


@dataclass
class TinyRuns:
    """Runs of the tiny model that keep everything under `root`."""

    root: Path
    model: Path
    resolved: Callable[..., RunConfig]

    def overrides(self, *more: str) -> list[str]:
        """The command line of a quick run."""
        vocab = json.loads((self.model / "config.json").read_text())["vocab_size"]
        kept_in = f"tracking.root={self.root / 'mlruns'}"
        return [*QUICK, f"model.shape.vocab={vocab}", f"model.path={self.model}", kept_in, *more]

    def run(self, *more: str) -> RunConfig:
        """The checked config of a quick run."""
        return self.resolved(*self.overrides(*more), on=machine.read())

    def train(self, *more: str, name: str = "out") -> TrainResult:
        """A quick run in this process."""
        return train(
            self.run(*more),
            invoke(self.root / name, more, "composed: yaml\n"),
            Console(),
        )

    def client(self) -> Any:
        """MLflow's client over the runs made here."""
        from mlflow import MlflowClient

        return MlflowClient(f"sqlite:///{self.root / 'mlruns' / 'mlflow.db'}")

    def runs(self) -> list[Any]:
        """Every MLflow run made here, newest first."""
        client = self.client()
        return list(
            client.search_runs([each.experiment_id for each in client.search_experiments()])
        )

    def history(self, run_id: str, metric: str) -> dict[int, float]:
        """The last value of `metric` at every step."""
        return {each.step: each.value for each in self.client().get_metric_history(run_id, metric)}


def command(*words: str, cwd: Path, **environment: str) -> tuple[int, str]:
    """Exit status and output (both streams) of `python words...` in `cwd`."""
    with started(words, cwd, **environment) as process:
        output, _ = process.communicate(timeout=300)
    assert process.returncode is not None
    return process.returncode, output


def command_in_streams(
    words: Sequence[str], cwd: Path, streams: Path, piped: str = ""
) -> tuple[int, str, str]:
    """Exit status, output and error stream of `python -m words...` in `cwd` with `piped` as its
    input, forked with the training stack imported; `streams` is a new folder for the three.
    """
    streams.mkdir()
    for name in with_fork_server.STREAMS:
        (streams / name).write_text(piped if name == "stdin" else "", encoding="utf-8")
    said = {with_fork_server.STREAMS_IN: str(streams)}
    with WarmCommand(words[0], list(words[1:]), cwd, _inherit() | said) as process:
        process.communicate(timeout=300)
    assert process.returncode is not None
    return process.returncode, *((streams / name).read_text() for name in ("stdout", "stderr"))


def killed_at(line_part: str, words: list[str], cwd: Path) -> int:
    """Exit status of `python words...` killed outright as soon as it prints a line with
    `line_part`.
    """
    with started(words, cwd) as process:
        for line in process.stdout or ():
            if line_part in line:
                process.kill()
    assert process.returncode is not None
    return process.returncode


def started(
    words: Sequence[str], cwd: Path, **environment: str
) -> "subprocess.Popen[str] | WarmCommand":
    """`python words...` under way in `cwd`, both streams in one.

    A command of medexp is forked with the training stack imported, as trials are. One that is given
    an `environment` is not: libraries read theirs as they are imported. What only medexp reads, and
    as it runs, makes no difference.
    """
    env = _inherit() | environment
    match list(words):
        case ["-m", module, *arguments] if can_fork() and environment.keys() <= READ_LATE:
            return WarmCommand(module, arguments, cwd, env)
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _inherit() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}


class WarmCommand:
    """A warm process with what these tests use of `subprocess.Popen`."""

    def __init__(self, module: str, arguments: list[str], cwd: Path, env: Mapping[str, str]):
        reads, writes = os.pipe()
        self.stdout = os.fdopen(reads)
        server = with_fork_server.start_server()
        words = [server, module, *arguments]
        self._process = WarmProcess(with_fork_server.__name__, words, writes, env, cwd)
        os.close(writes)
        self.pid, self.wait = self._process.pid, self._process.wait

    def __enter__(self) -> "WarmCommand":
        return self

    def __exit__(self, *_: object) -> None:
        self.stdout.close()
        self.wait()

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    def poll(self) -> int | None:
        return self._process.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """What is still to be read, until the end."""
        printed: list[str] = []
        reader = threading.Thread(target=lambda: printed.append(self.stdout.read()), daemon=True)
        reader.start()
        reader.join(timeout)
        if reader.is_alive():
            self.kill()
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        self.stdout.close()
        self.wait()
        return printed[0], None
