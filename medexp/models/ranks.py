"""Several cards for one run. The command's own process has the first card and is rank 0; each other
card has a process that holds the same model and does what it is sent (`rank_process`).

Rank 0 alone talks to the user, to MLflow and to the disk. The others say nothing but in a log file,
hear no Ctrl-C, and end with rank 0 however it ends: their standard input is a pipe from it. Where
one of them ends by itself, everything ends with one sentence that says how.

Gradients go through torch.distributed (NCCL between cards, gloo without), everything else through
pipes: a command, its result, and what was decided after a step. torchrun would start as many whole
commands, each with its own console, MLflow run and folder.
"""

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medexp.config.schema import Device, Hardware, RunConfig
from medexp.errors import MedexpError
from medexp.models.adapter_model import AdapterModel, Decision
from medexp.models.peer import GRACE_S, Opening, Peer
from medexp.models.tokenizer import unbind_run_prompt
from medexp.models.weights import Weights

# How long after an error here it is looked for at the other ranks, whose end may have caused it.
LOOK_S = 10.0


@dataclass(frozen=True)
class Task:
    """`function(model, *args)`, to be called by another rank; for `measures` in evaluation mode,
    with the adapter off where `is_base`.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    measures: bool = False
    is_base: bool = False


@contextmanager
def open_ranks(hardware: Hardware, folder: Path) -> Iterator["Ranks | None"]:
    """Start the processes of the other cards of `hardware`; None where there is one card.

    They import the training stack meanwhile. What they print goes to `folder`. They end with the
    `with`.
    """
    if hardware.cards == 1:
        yield None
        return
    ranks = Ranks(hardware, folder)
    try:
        yield ranks
    finally:
        ranks.close()


class Ranks:
    """The other ranks of a run, as rank 0 sees them."""

    rank = 0

    def __init__(self, hardware: Hardware, folder: Path):
        self.size, self._on_card = hardware.cards, hardware.device is Device.cuda
        self._port = 0
        self._store: Any = None
        self._take_back_cores: Callable[[], None] = lambda: None
        # Who waits for a task can be told to end; whoever does something else is ended.
        self._are_waiting = False
        folder.mkdir(parents=True, exist_ok=True)
        self._others = [
            Peer(Opening(rank, self.size, hardware), folder) for rank in range(1, self.size)
        ]

    def join(self, model: AdapterModel, config: RunConfig, weights: Weights) -> None:
        """Have every other rank load the model of `config`, and make one group of all; what is
        asked of `model` from then on is shared out.

        Raises: what another rank could not load it for.
        """
        import torch.distributed as dist

        for peer in self._others:
            peer.send((unbind_run_prompt(config), weights))
        for peer in self._others:
            peer.receive()
        self._store = dist.TCPStore(
            "127.0.0.1", 0, self.size, is_master=True, wait_for_workers=False
        )
        self._port = self._store.port
        if not self._on_card:
            self._take_back_cores = share_cores(self.size)
        model.ranks = self
        with self.together(join_group, self._port):
            join_group(model, self._port, self._store)
        self._are_waiting = True

    @contextmanager
    def together(self, function: Callable[..., Any], *args: Any) -> Iterator[None]:
        """Have every other rank call `function(model, *args)` while what is inside runs here.

        Raises: the error of a rank that has ended meanwhile, in the place of what its end caused.
        """
        were_waiting, self._are_waiting = self._are_waiting, False
        for peer in self._others:
            peer.send(Task(function, args))
        over = threading.Event()
        threading.Thread(target=self._watch, args=(over,), daemon=True).start()
        try:
            with _set_in_environment(describe_rank(0, self.size, self._port, self._on_card)):
                yield
            for peer in self._others:
                peer.receive()
        except MedexpError:
            raise
        except Exception as error:
            if (lost := self._find_lost()) is not None:
                raise lost from error
            raise
        finally:
            over.set()
        self._are_waiting = were_waiting

    def agree(self, decision: Decision, /) -> Decision:
        """Tell every rank what was decided after a step, for which they wait; return it."""
        for peer in self._others:
            peer.send(decision)
        return decision

    def share(
        self, model: AdapterModel, work: Callable[..., Any], items: Sequence[Any]
    ) -> Iterator[tuple[int, Any]]:
        """Yield each place in `items` with `work(model, item)`, as they come: whoever is free takes
        the next item.
        """
        left: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        for numbered in enumerate(items):
            left.put(numbered)
        came: queue.SimpleQueue[tuple[int, Any] | BaseException] = queue.SimpleQueue()

        is_base = model.is_base

        def feed(peer: Peer) -> None:
            try:
                while True:
                    place, item = left.get_nowait()
                    peer.send(Task(work, (item,), measures=True, is_base=is_base))
                    came.put((place, peer.receive()))
            except queue.Empty:
                pass
            except BaseException as error:
                came.put(error)

        were_waiting, self._are_waiting = self._are_waiting, False
        for peer in self._others:
            threading.Thread(target=feed, args=(peer,), daemon=True).start()
        missing = len(items)
        while missing:
            try:
                place, item = left.get_nowait()
            except queue.Empty:
                pass
            else:
                yield place, work(model, item)
                missing -= 1
            # Where nothing is left to take, wait for what the others have taken.
            while missing and (left.empty() or not came.empty()):
                result = came.get()
                if isinstance(result, BaseException):
                    raise result
                yield result
                missing -= 1
        self._are_waiting = were_waiting

    def close(self) -> None:
        """End the other ranks, and leave this process as it was."""
        for peer in self._others:
            if self._are_waiting:
                peer.dismiss()
            else:
                peer.end(0)
        if self._store is not None:
            self._leave_group()
        # They leave it, too, which may be waited for.
        for peer in self._others:
            peer.end(GRACE_S)

    def _leave_group(self) -> None:
        import torch.distributed as dist

        self._take_back_cores()
        if dist.is_initialized():
            # After an error the group may be in any state, and is used by nobody any more.
            with suppress(Exception):
                if not self._are_waiting:
                    self._abort()
                dist.destroy_process_group()
        self._store = None

    def _watch(self, over: threading.Event) -> None:
        """End everything where a rank has ended and this one still waits for it: a card waits for
        another for ever.
        """
        while not over.wait(0.5):
            if all(peer.is_alive for peer in self._others):
                continue
            if not over.wait(LOOK_S):
                self._abort()
            if over.wait(GRACE_S):
                return
            lost = self._find_lost() or MedexpError("another card's process has ended")
            os.write(2, f"medexp: {lost}\n".encode())
            os._exit(lost.exit_code)

    def _abort(self) -> None:
        """Have NCCL give up what waits for a rank that is gone; gloo mostly notices by itself."""
        import torch.distributed as dist

        if dist.is_initialized() and dist.group.WORLD is not None:
            with suppress(Exception):
                dist.group.WORLD.abort()

    def _find_lost(self) -> MedexpError | None:
        """Return why a rank has ended; None where all are there after LOOK_S."""
        deadline = time.monotonic() + LOOK_S
        while time.monotonic() < deadline:
            lost = [error for peer in self._others if (error := peer.find_end()) is not None]
            # A rank that only lost another one says so as a plain error.
            if lost:
                return min(lost, key=lambda error: type(error) is MedexpError)
            time.sleep(0.1)
        return None


def share_cores(processes: int) -> Callable[[], None]:
    """Have this process use its part of the processor's cores, of so many that share them, where
    nobody has said how many threads each may have; return what takes that back.
    """
    import torch

    if "OMP_NUM_THREADS" in os.environ:
        return lambda: None
    before: int = torch.get_num_threads()
    threads = max(1, before // processes)
    torch.set_num_threads(threads)
    # accelerate reads it, and without it chooses another number and warns of that.
    os.environ["OMP_NUM_THREADS"] = str(threads)

    def take_back() -> None:
        torch.set_num_threads(before)
        os.environ.pop("OMP_NUM_THREADS", None)

    return take_back


def join_group(model: AdapterModel, port: int, store: Any = None) -> None:
    """Make this process one of the group of `model.ranks`, whose store is at `port`; rank 0 has it
    as `store`.
    """
    import torch.distributed as dist

    ranks = model.ranks
    assert ranks is not None
    dist.init_process_group(
        "cuda:nccl,cpu:gloo" if model.device.type == "cuda" else "gloo",
        store=store or dist.TCPStore("127.0.0.1", port, ranks.size, is_master=False),
        rank=ranks.rank,
        world_size=ranks.size,
    )


def describe_rank(rank: int, size: int, port: int, on_card: bool) -> dict[str, str]:
    """Return the environment by which accelerate knows a rank, as torchrun sets it.

    Without a card accelerate would call the processor cpu:0, where torch loads no optimizer to.
    """
    device = {} if on_card else {"ACCELERATE_TORCH_DEVICE": "cpu"}
    return device | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


@contextmanager
def _set_in_environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
