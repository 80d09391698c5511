"""Activations of kept layers wait for the backward pass in pinned host memory, so that a layer need
not be computed twice.

Recomputing a layer costs a third of its time; sending what it saved over the host link and back
costs next to nothing while the link is faster than the layer. Copies run beside the computation:
out while the next layers run, back while the kept layer above is in its backward pass. The card
holds two kept layers' activations at most, however many wait.

Source: torch.autograd.graph.saved_tensors_hooks. torchtune's and TRL's `OffloadActivations` does
the same for whole models, and without fetching ahead.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

from medexp.errors import HostMemoryError
from medexp.system.units import MIB

# What is smaller stays where it is.
LEAST_BYTES = MIB
# host memory is pinned, and copied, in pieces: others (streamed weights) get their turn between two
PIECE_BYTES = 8 * MIB


@dataclass(eq=False)
class _Saved:
    """Memory that autograd saved something in: on the card until it has been sent, on the host, on
    the card again.
    """

    on_card: Any
    num_bytes: int
    uses: int = 0
    on_host: Any = None


@dataclass(eq=False)
class _Visit:
    """One forward pass of one kept layer, and that of the kept layer before it; `sent` and
    `fetched` are the ends of its copies.
    """

    before: "_Visit | None"
    is_last: bool
    computing: Any
    saved: dict[int, _Saved] = field(default_factory=dict)
    sent: Any = None
    fetched: Any = None
    is_going_back: bool = False

    def wait(self) -> None:
        """Let the computation go on only after the copies that are under way."""
        for event in filter(None, (self.sent, self.fetched)):
            self.computing.wait_event(event)
        self.sent = self.fetched = None

    def __del__(self) -> None:
        # a graph was dropped: nothing may be given the memory that a copy still reads or writes
        self.wait()


@dataclass(eq=False)
class _Packed:
    """A tensor as autograd gets it: where in which memory."""

    visit: _Visit
    saved: _Saved
    dtype: Any
    view: tuple[Any, Any, int]


class HostBuffers:
    """Host memory, `num_bytes` of it to begin with, that is used over and over; a piece is free
    when what reads it is done.

    Raises: HostMemoryError if the system cannot pin more.
    """

    def __init__(self, num_bytes: int, pinned: bool) -> None:
        import torch

        self._torch, self._pinned = torch, pinned
        self._free: list[tuple[Any, Any]] = [
            (self._new(), None) for _ in range(-(-num_bytes // PIECE_BYTES))
        ]

    def take(self, num_bytes: int) -> list[tuple[Any, Any]]:
        """Return enough pieces for `num_bytes`, each with the event to wait for."""
        return [
            self._free.pop() if self._free else (self._new(), None)
            for _ in range(-(-num_bytes // PIECE_BYTES))
        ]

    def give(self, pieces: list[Any], read: Any) -> None:
        """`pieces` may be written once `read` has happened."""
        self._free += [(piece, read) for piece in pieces]

    def _new(self) -> Any:
        try:
            return self._torch.empty(PIECE_BYTES, dtype=self._torch.uint8, pin_memory=self._pinned)
        except RuntimeError as error:
            raise HostMemoryError(
                "the system cannot pin more host memory for the activations of kept layers"
                " (hardware.offload_activations); set it to false, or lower hardware.host_ram_gib"
                " or hardware.checkpoint_skip_layers"
            ) from error


class OffloadedActivations:
    """What kept layers saved, on the host until their backward pass.

    `resident` are the addresses of memory that stays where it is: weights and adapters.
    """

    def __init__(self, device: Any, resident: frozenset[int], pieces: HostBuffers) -> None:
        import torch

        self._torch = torch
        self._device = device
        self._settled = resident
        self._pieces = pieces
        self._streams = (
            (torch.cuda.Stream(device), torch.cuda.Stream(device))
            if device.type == "cuda"
            else None
        )
        self._latest: Callable[[], _Visit | None] = lambda: None

    @contextmanager
    def layer(self, is_first: bool, is_last: bool) -> Iterator[None]:
        """What autograd saves inside leaves for the host at once, unless the layer is the last,
        whose is needed first.
        """
        before = None if is_first else self._latest()
        if before is not None:
            _release_sent(before)
        visit = _Visit(before, is_last, self._computing())
        # A graph that is dropped takes its visits along.
        self._latest = weakref.ref(visit)

        def pack(tensor: Any) -> Any:
            return self._pack(visit, tensor)

        with self._torch.autograd.graph.saved_tensors_hooks(pack, self._unpack):
            yield

    def _pack(self, visit: _Visit, tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        address, is_whole = storage.data_ptr(), storage.nbytes() < 2 * tensor.nbytes
        if (
            tensor.device != self._device
            or tensor.nbytes < LEAST_BYTES
            or address in self._settled
            or not is_whole
        ):
            return tensor
        if address not in visit.saved:
            flat = self._torch.empty(0, dtype=self._torch.uint8, device=self._device).set_(storage)
            visit.saved[address] = _Saved(flat, flat.numel())
            if not visit.is_last:
                self._send(visit, visit.saved[address])
        saved = visit.saved[address]
        saved.uses += 1
        return _Packed(
            visit, saved, tensor.dtype, (tensor.size(), tensor.stride(), tensor.storage_offset())
        )

    def _unpack(self, packed: Any) -> Any:
        if not isinstance(packed, _Packed):
            return packed
        visit, saved = packed.visit, packed.saved
        if not visit.is_going_back:
            visit.is_going_back = True
            visit.wait()
            if visit.before is not None:
                self._fetch(visit.before)
        tensor = saved.on_card.view(packed.dtype).as_strided(*packed.view)
        saved.uses -= 1
        if not saved.uses:
            saved.on_card = None
        return tensor

    def _send(self, visit: _Visit, saved: _Saved) -> None:
        taken = self._pieces.take(saved.num_bytes)
        saved.on_host = [piece for piece, _ in taken]
        with self._beside(0) as stream:
            for part, (piece, read) in zip(saved.on_card.split(PIECE_BYTES), taken, strict=True):
                if read is not None:
                    stream.wait_event(read)
                _copy(piece[: part.numel()], part)
            visit.sent = stream and stream.record_event()

    def _fetch(self, visit: _Visit) -> None:
        """Start the copies of `visit` back."""
        _release_sent(visit)
        back = [saved for saved in visit.saved.values() if saved.on_host is not None]
        for saved in back:
            saved.on_card = self._torch.empty(
                saved.num_bytes, dtype=self._torch.uint8, device=self._device
            )
        with self._beside(1) as stream:
            for saved in back:
                for part, piece in zip(
                    saved.on_card.split(PIECE_BYTES), saved.on_host, strict=True
                ):
                    _copy(part, piece[: part.numel()])
            visit.fetched = stream and stream.record_event()
        for saved in back:
            self._pieces.give(saved.on_host, visit.fetched)
            saved.on_host = None

    @contextmanager
    def _beside(self, which: int) -> Iterator[Any]:
        """Copies inside wait for what has been computed so far, and for nothing that comes
        later."""
        if self._streams is None:
            yield None
            return
        stream = self._streams[which]
        stream.wait_stream(self._computing())
        with self._torch.cuda.stream(stream):
            yield stream

    def _computing(self) -> Any:
        return self._torch.cuda.current_stream(self._device) if self._streams else None


def _copy(to: Any, source: Any) -> None:
    to.copy_(source, non_blocking=True)


def _release_sent(visit: _Visit) -> None:
    """What `visit` sent is gone from the card, for all that is computed from here on."""
    visit.wait()
    for saved in visit.saved.values():
        if saved.on_host is not None:
            saved.on_card = None


def list_resident_addresses(network: Any) -> frozenset[int]:
    """Return the addresses of all that `network` holds for good: parameters, buffers, the scales of
    quantised weights."""
    held: list[Any] = [*network.parameters(), *network.buffers()]
    for weight in list(held):
        state = getattr(weight, "quant_state", None)
        for state_part in filter(None, (state, getattr(state, "state2", None))):
            held += [
                value for value in vars(state_part).values() if hasattr(value, "untyped_storage")
            ]
    return frozenset(tensor.untyped_storage().data_ptr() for tensor in held)


def offload_activations(
    network: Any, layers: Iterable[Any], pieces: HostBuffers
) -> OffloadedActivations:
    """Let what `layers` of `network`, in their order, save in training wait in `pieces`; an
    embedding may lie there already.
    """
    chosen = list(layers)
    waiting = OffloadedActivations(
        next(chosen[0].parameters()).device, list_resident_addresses(network), pieces
    )
    for layer in chosen:
        layer.forward = _wrap_forward(layer, waiting, layer is chosen[0], layer is chosen[-1])
    return waiting


def _wrap_forward(
    layer: Any, waiting: OffloadedActivations, is_first: bool, is_last: bool
) -> Callable[..., Any]:
    import torch

    forward = layer.forward

    @wraps(forward)
    def waiting_forward(*args: Any, **kwargs: Any) -> Any:
        if not (layer.training and torch.is_grad_enabled()):
            return forward(*args, **kwargs)
        with waiting.layer(is_first, is_last):
            return forward(*args, **kwargs)

    return waiting_forward
