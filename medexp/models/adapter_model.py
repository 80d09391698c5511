"""What one hand makes and another takes: weights that were found, and a model with its adapter."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from medexp.config.schema import Dtype
from medexp.models.backend import Backend
from medexp.models.patches.unsloth_scratch import release_scratch

# The attention that a model is loaded with where Unsloth has no kernels of its own, by its name in
# Transformers.
ATTENTION = "sdpa"
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Decision:
    """What is done after a step: whether training ends with it, and whether it is saved."""

    stops: bool
    saves: bool


class RankLink(Protocol):
    """The process that holds a model, among those of the other cards that hold the same one
    (`models.ranks`).
    """

    @property
    def rank(self) -> int:
        """Which it is; 0 is the command's own process."""

    @property
    def size(self) -> int:
        """How many there are."""

    def agree(self, decision: Decision, /) -> Decision:
        """Return what rank 0 has decided, on every rank; `decision` is what this one would do."""

    def share(
        self, model: "AdapterModel", work: Callable[..., Any], items: Sequence[Any]
    ) -> Iterator[tuple[int, Any]]:
        """Yield each place in `items` with `work(model, item)`, in any order."""

    def together(self, function: Callable[..., Any], *args: Any) -> AbstractContextManager[None]:
        """Have every other rank call `function(model, *args)` meanwhile."""


@dataclass
class AdapterModel:
    """A PEFT model and its tokenizer; `trainable` counts the adapter's parameters, `base_biases`
    holds what the base had where a bias is trained with it, `notes` are what the user should be
    told of how it was loaded. `scratch` is the module of Unsloth whose scratch memory is handed
    back after an evaluation, None where there is none or it is to stay. `ranks` are the processes
    that hold it, None where there is no other; `is_base` is True while the adapter takes no part.
    """

    network: Any
    tokenizer: Any
    stack: Backend
    dtype: Dtype
    trainable: int
    base_biases: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    scratch: Any = None
    ranks: RankLink | None = None
    is_base: bool = False

    @property
    def rank(self) -> int:
        """Which of the processes that hold the model this is."""
        return self.ranks.rank if self.ranks is not None else 0

    @property
    def cards(self) -> int:
        """How many cards hold the model, a process each."""
        return self.ranks.size if self.ranks is not None else 1

    def share(
        self, work: Callable[["AdapterModel", Item], Result], items: Sequence[Item]
    ) -> Iterator[tuple[int, Result]]:
        """Yield each place in `items` with `work(self, item)`: in their order on one card, on
        several as they come.

        On other cards `work`, which is sent there, runs in evaluation mode and with the adapter on
        or off as it is here.
        """
        if self.ranks is not None:
            yield from self.ranks.share(self, work, items)
            return
        for place, item in enumerate(items):
            yield place, work(self, item)

    def on_other_cards(
        self, function: Callable[..., Any], *args: Any
    ) -> AbstractContextManager[None]:
        """Have every other card call `function(model, *args)` while what is inside runs here."""
        if self.ranks is None or self.rank:
            return nullcontext()
        return self.ranks.together(function, *args)

    @property
    def device(self) -> Any:
        """Where inputs go. The embedding may be held on the host, so the head is asked."""
        return self.network.get_base_model().lm_head.weight.device

    @property
    def end_ids(self) -> list[int]:
        """The tokens that end an answer, the one that is trained first. A base may end its turn
        with another: Gemma with <end_of_turn>, Phi with <|end|>."""
        made_for = self.network.generation_config.eos_token_id
        others = made_for if isinstance(made_for, list) else [made_for]
        ids = (self.tokenizer.eos_token_id, *others)
        return list(dict.fromkeys(each for each in ids if each is not None))

    @contextmanager
    def evaluation_mode(self) -> Iterator[None]:
        """No gradients, no dropout, mixed precision as in training; training mode is put back, and
        what Unsloth keeps of it on the card is handed back."""
        import torch

        was_training, precision = self.network.training, getattr(torch, self.dtype.value)
        self.network.eval()
        try:
            with (
                torch.no_grad(),
                torch.autocast(
                    self.device.type, precision, enabled=self.dtype is not Dtype.float32
                ),
            ):
                yield
        finally:
            self.network.train(was_training)
            if self.scratch is not None:
                release_scratch(self.network, self.scratch)

    @contextmanager
    def restoring_weights(self) -> Iterator[None]:
        """Forget what is trained inside: put the adapter back from a copy in host memory."""
        kept = self.copy_weights()
        try:
            yield
        finally:
            self.load_weights(kept)

    @contextmanager
    def restoring_attributes(self) -> Iterator[None]:
        """Take off what is set on the network itself inside, as a trainer's marks and its wrapped
        forward are. Modules and weights stay as they have become.
        """
        attributes = vars(self.network)
        before = dict(attributes)
        try:
            yield
        finally:
            attributes.clear()
            attributes.update(before)

    def copy_weights(self) -> list[Any]:
        """Return a copy of what is trained, in host memory."""
        return [parameter.detach().cpu().clone() for parameter in self._trained_parameters()]

    def load_weights(self, values: Sequence[Any]) -> None:
        """Put `values`, as `copy_weights` returned them, in the place of what is trained; on every
        card.
        """
        import torch

        with self.on_other_cards(AdapterModel.load_weights, values), torch.no_grad():
            for parameter, value in zip(self._trained_parameters(), values, strict=True):
                parameter.copy_(value)
                parameter.grad = None

    def _trained_parameters(self) -> list[Any]:
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    @contextmanager
    def adapter_disabled(self) -> Iterator[None]:
        """The adapter takes no part, and biases that are trained with it, which PEFT leaves in
        place, are the base's.
        """
        import torch

        parameters = dict(self.network.named_parameters()) if self.base_biases else {}
        trained = {name: parameters[name].detach().clone() for name in self.base_biases}

        def put(values: Mapping[str, Any]) -> None:
            with torch.no_grad():
                for name, value in values.items():
                    parameters[name].copy_(value)

        with _without_peft_warning(), self.network.disable_adapter():
            put(self.base_biases)
            was_base, self.is_base = self.is_base, True
            try:
                yield
            finally:
                self.is_base = was_base
                put(trained)


@contextmanager
def _without_peft_warning() -> Iterator[None]:
    """PEFT warns that biases stay as they were trained: here they do not."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Careful, disabling adapter layers with bias")
        yield
