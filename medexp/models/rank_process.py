"""The process of a run's second card, or of a later one: `python -m medexp.models.rank_process FD`.

It is started by `ranks`, loads the model that it is told to, and then does what it is sent until it
is told to end. What goes wrong is sent to rank 0, in full it stands in its log.
"""

import os
import signal
import sys
import threading
import traceback
from contextlib import nullcontext, suppress
from multiprocessing.connection import Connection
from typing import Any

from medexp.config.schema import Device, RunConfig
from medexp.errors import MedexpError, first_line
from medexp.models import backend, memory_guard
from medexp.models import loading as model_loading
from medexp.models.adapter_model import AdapterModel, Decision
from medexp.models.peer import Opening, receive, send
from medexp.models.ranks import Task, describe_rank, share_cores
from medexp.models.tokenizer import bind_run_prompt, load_tokenizer
from medexp.models.weights import Weights
from medexp.system import machine


class FollowingRank:
    """This rank, as the code that runs on it sees it."""

    def __init__(self, opening: Opening, pipe: Connection):
        self.rank, self.size, self._pipe = opening.rank, opening.size, pipe
        self._on_card = opening.hardware.device is Device.cuda
        self._meter = memory_guard.cap_allocator(opening.hardware, self.rank)
        self._stack = backend.load_backend(opening.hardware, machine.cache_dir())
        self._model: AdapterModel | None = None

    def load(self, config: RunConfig, weights: Weights) -> None:
        """Load the model of `config`, the same as that of rank 0."""
        if not self._on_card:
            share_cores(self.size)
        tokenizer = load_tokenizer(weights, self._stack)
        config = bind_run_prompt(config, tokenizer)
        with memory_guard.explain_out_of_memory(self._meter, "loading the model"):
            self._model = model_loading.load_model(config, weights, tokenizer, self._stack)
        self._model.ranks = self

    def serve(self) -> Decision | None:
        """Do what is sent, until a decision is, or None."""
        while isinstance(message := receive(self._pipe), Task):
            send(self._pipe, (self._do(message), None))
        assert message is None or isinstance(message, Decision)
        return message

    def agree(self, _: Decision, /) -> Decision:
        """Do what is sent, until rank 0 says what was decided; return that. What this rank would do
        counts for nothing.
        """
        decided = self.serve()
        if decided is None:
            raise MedexpError("rank 0 has ended in the middle of training")
        return decided

    def share(self, *_: Any) -> Any:
        """Raises: AssertionError, as only rank 0 shares work out."""
        raise AssertionError("work is shared out by rank 0")

    def together(self, *_: Any) -> Any:
        """Raises: AssertionError, as only rank 0 shares work out."""
        raise AssertionError("work is shared out by rank 0")

    def _do(self, task: Task) -> Any:
        model = self._model
        assert model is not None
        with (
            memory_guard.explain_out_of_memory(self._meter, "taking its part of the run"),
            model.evaluation_mode() if task.measures else nullcontext(),
            model.adapter_disabled() if task.is_base else nullcontext(),
        ):
            return task.function(model, *task.args)


def main() -> None:
    """Serve rank 0 over the pipe whose file descriptor is the argument; ends the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_rank_0, daemon=True).start()
    pipe = Connection(int(sys.argv[1]))
    opening = receive(pipe)
    on_card = opening.hardware.device is Device.cuda
    os.environ.update(describe_rank(opening.rank, opening.size, 0, on_card))
    try:
        rank = FollowingRank(opening, pipe)
        loading = receive(pipe)
        if loading is not None:
            rank.load(*loading)
            send(pipe, (None, None))
            rank.serve()
            _leave_group()
    except EOFError:
        # Rank 0 has ended, and with it this run.
        os._exit(1)
    except BaseException as error:
        traceback.print_exc()
        with suppress(OSError):
            send(pipe, (None, _describe_error(error, f"card {opening.rank + 1}")))
        os._exit(1)
    # Python takes seconds to take the training stack apart, and nothing is left to be kept.
    os._exit(0)


def _end_with_rank_0() -> None:
    """End this process as soon as the one at the other end of standard input has ended."""
    os.read(0, 1)
    os._exit(1)


def _leave_group() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def _describe_error(error: BaseException, card: str) -> MedexpError:
    """Return `error` as rank 0 raises it: it keeps its kind where it is one of medexp's."""
    if not isinstance(error, MedexpError):
        return MedexpError(f"{card}: {type(error).__name__}: {first_line(error)}")
    error.args = (f"{card}: {error}",)
    return error


if __name__ == "__main__":
    main()
