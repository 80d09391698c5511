"""What kept layers save waits on the host: gradients stay what they were, to the bit, however late
a copy is made.
"""

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.checkpoint import checkpoint

from medexp.errors import HostMemoryError
from medexp.models.patches import activation_offloading

WIDTH, TOKENS, LAYERS, KEPT = 64, 32, 6, (1, 3, 5)


class Layer(torch.nn.Module):
    """A residual MLP, and a product that saves its input and the input's transpose: one memory,
    seen twice.
    """

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = torch.nn.Linear(WIDTH, 4 * WIDTH), torch.nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.nn.functional.silu(self.up(x))) + 0.01 * x @ torch.tanh(x.T @ x)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is large enough to leave, and takes several pieces."""
    monkeypatch.setattr(activation_offloading, "LEAST_BYTES", 1024)
    monkeypatch.setattr(activation_offloading, "PIECE_BYTES", 3000)


def network(make: Callable[[], torch.nn.Module] = Layer) -> torch.nn.ModuleList:
    torch.manual_seed(0)
    return torch.nn.ModuleList([make() for _ in range(LAYERS)])


def forward(layers: torch.nn.ModuleList, seed: int) -> torch.Tensor:
    """The loss of one micro-batch; layers that are not kept are recomputed, as Unsloth does it."""
    hidden = torch.randn(
        TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed)
    ).requires_grad_()
    for place, layer in enumerate(layers):
        hidden = layer(hidden) if place in KEPT else checkpoint(layer, hidden, use_reentrant=True)
    return (hidden * hidden).mean()


def gradients(layers: torch.nn.ModuleList, batches: int = 3) -> list[torch.Tensor]:
    for seed in range(batches):
        forward(layers, seed).backward()
    return [parameter.grad for parameter in layers.parameters()]


def kept(layers: torch.nn.ModuleList) -> list[torch.nn.Module]:
    return [layers[place] for place in KEPT]


def waiting_on_host(
    layers: torch.nn.ModuleList, num_bytes: int = 0
) -> activation_offloading.OffloadedActivations:
    return activation_offloading.offload_activations(
        layers, kept(layers), activation_offloading.HostBuffers(num_bytes, pinned=False)
    )


def test_gradients_are_the_same_to_the_bit() -> None:
    expected = gradients(network())
    layers = network()
    waiting = waiting_on_host(layers)
    assert all(map(torch.equal, gradients(layers), expected))
    assert waiting._pieces._free  # something did leave, and its memory is free again


# torch's own tracer asks for it
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled_layers_too() -> None:
    def compiled() -> Layer:
        layer = Layer()
        layer.forward = torch.compile(layer.forward, backend="aot_eager")
        return layer

    expected = gradients(network(compiled))
    layers = network(compiled)
    waiting_on_host(layers)
    assert all(map(torch.equal, gradients(layers), expected))


class Memory:
    """A part of a tensor that may be gone when it is looked for."""

    def __init__(self, part: torch.Tensor) -> None:
        self.storage, self.where = (
            StorageWeakRef(part.untyped_storage()),
            (
                part.storage_offset(),
                part.size(),
                part.stride(),
            ),
        )

    def found(self) -> torch.Tensor | None:
        storage = torch.UntypedStorage._new_with_weak_ptr(self.storage.cdata)
        return (
            None
            if storage is None
            else torch.empty(0, dtype=torch.uint8).set_(storage, *self.where)
        )


class LateStream:
    """A stream that copies nothing before it is waited for; memory that was given back by then
    holds something else.
    """

    current: "LateStream | None" = None

    def __init__(self) -> None:
        self.copies: list[tuple[Memory, Memory]] = []
        self.done = 0

    def wait_stream(self, other: "LateStream") -> None:
        other.catch_up(len(other.copies))

    def wait_event(self, event: SimpleNamespace) -> None:
        event.stream.catch_up(event.upto)

    def record_event(self) -> SimpleNamespace:
        return SimpleNamespace(stream=self, upto=len(self.copies))

    def catch_up(self, upto: int) -> None:
        for into, source in self.copies[self.done : upto]:
            to, seen = into.found(), source.found()
            assert to is not None, "a copy was made into memory that belongs to others by now"
            to.copy_(torch.full_like(to, 0xFF) if seen is None else seen)
        self.done = max(self.done, upto)


@pytest.fixture
def late(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[activation_offloading.OffloadedActivations], None]:
    """late(waiting): its copies are made at the last moment that its events allow, as over a busy
    link.
    """
    computing = LateStream()

    def copy(to: torch.Tensor, source: torch.Tensor) -> None:
        assert LateStream.current is not None
        LateStream.current.copies.append((Memory(to), Memory(source)))

    @contextmanager
    def within(stream: LateStream) -> Iterator[None]:
        LateStream.current = stream
        yield
        LateStream.current = None

    def apply(waiting: activation_offloading.OffloadedActivations) -> None:
        monkeypatch.setattr(activation_offloading, "_copy", copy)
        monkeypatch.setattr(torch.cuda, "stream", within)
        monkeypatch.setattr(waiting, "_streams", (LateStream(), LateStream()))
        monkeypatch.setattr(waiting, "_computing", lambda: computing)

    return apply


def test_the_latest_copies_that_the_events_allow_are_early_enough(
    late: Callable[[activation_offloading.OffloadedActivations], None],
) -> None:
    expected = gradients(network())
    layers = network()
    late(waiting_on_host(layers))
    assert all(map(torch.equal, gradients(layers), expected))


def test_a_wait_that_is_forgotten_would_be_noticed(
    late: Callable[[activation_offloading.OffloadedActivations], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layers = network()
    late(waiting_on_host(layers))
    monkeypatch.setattr(activation_offloading._Visit, "wait", lambda _: None)
    with pytest.raises(AssertionError, match="belongs to others by now"):
        gradients(layers)


def test_a_graph_that_is_dropped_waits_for_its_copies(
    late: Callable[[activation_offloading.OffloadedActivations], None],
) -> None:
    layers = network()
    waiting = waiting_on_host(layers)
    late(waiting)
    loss = forward(layers[:4], 0)
    sending = waiting._streams[0]
    assert sending.done < len(sending.copies)
    del loss
    gc.collect()
    assert sending.done == len(sending.copies)
    assert waiting._latest() is None
    expected = gradients(network())
    assert all(map(torch.equal, gradients(layers), expected))


def test_host_memory_can_be_had_before_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = network()
    waiting = waiting_on_host(layers, 100 * activation_offloading.PIECE_BYTES)
    monkeypatch.setattr(waiting._pieces, "_new", lambda: pytest.fail("the reserve was enough"))
    gradients(layers)
    assert len(waiting._pieces._free) == 100


def test_host_memory_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = network()
    waiting = waiting_on_host(layers)
    made: list[None] = []
    new = waiting._pieces._new
    monkeypatch.setattr(waiting._pieces, "_new", lambda: made.append(None) or new())
    gradients(layers, batches=1)
    once = len(made)
    gradients(layers, batches=3)
    assert len(made) == once > 0
    assert len(waiting._pieces._free) == once


def test_two_kept_layers_are_on_the_card_at_most() -> None:
    layers = network()
    waiting = waiting_on_host(layers)
    visits: list[weakref.ref] = []
    fetch = waiting._fetch

    def on_card() -> int:
        alive = [visit for ref in visits if (visit := ref()) is not None]
        return sum(
            any(saved.on_card is not None for saved in visit.saved.values()) for visit in alive
        )

    seen: list[int] = []

    def counted(visit: activation_offloading._Visit) -> None:
        fetch(visit)
        seen.append(on_card())

    waiting._fetch = counted
    for place in KEPT:
        layers[place].register_forward_hook(
            lambda *_: visits.append(weakref.ref(waiting._latest()))
        )
    forward(layers, 0).backward()
    assert seen == [2, 2]


def test_only_training_leaves_anything() -> None:
    layers = network()
    waiting = waiting_on_host(layers)
    layers.eval()
    forward(layers, 0).backward()
    layers.train()
    with torch.no_grad():
        kept(layers)[0](torch.ones(TOKENS, WIDTH))
    assert waiting._latest() is None
    assert not waiting._pieces._free


def test_weights_stay_and_so_do_the_scales_of_quantised_ones() -> None:
    layers = network()
    weight = layers[1].up.weight
    weight.quant_state = SimpleNamespace(
        absmax=torch.ones(4), state2=SimpleNamespace(absmax=torch.ones(2))
    )
    stay = activation_offloading.list_resident_addresses(layers)
    held = [weight, weight.quant_state.absmax, weight.quant_state.state2.absmax]
    assert {each.untyped_storage().data_ptr() for each in held} <= stay


def test_an_embedding_that_lies_elsewhere_does_not_say_where_the_layers_are() -> None:
    layers = network()
    whole = torch.nn.ModuleList([torch.nn.Embedding(2, 2, device="meta"), *layers])
    waiting = activation_offloading.offload_activations(
        whole, kept(layers), activation_offloading.HostBuffers(0, pinned=False)
    )
    gradients(layers, batches=1)
    assert waiting._pieces._free


def test_no_more_pinned_memory_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch, "empty", refused)
    with pytest.raises(
        HostMemoryError,
        match=r"cannot pin more host memory.*hardware\.offload_activations.*set it to false",
    ):
        activation_offloading.HostBuffers(1, pinned=True)
