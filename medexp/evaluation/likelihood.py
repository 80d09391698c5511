"""How likely a model finds what follows a text: the log-likelihood of continuations, in nats.

Two ways to the same figures. On a CPU the prefix that several continuations share goes through the
model once, and its keys and values serve them all. On a card every continuation goes through whole,
with its prefix, as in `losses`: that is what the plan of the memory counts, and what Unsloth's
layers take.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from medexp.data.batching import batch_into_fewest
from medexp.models.adapter_model import AdapterModel

# Positions whose logits exist at once, as in `losses`.
CHUNK_TOKENS = 256


@dataclass(frozen=True)
class Continuation:
    """Token ids `ids` that follow `prefix`; neither is empty. The first `skipped` of them are read
    and not counted."""

    prefix: tuple[int, ...]
    ids: tuple[int, ...]
    skipped: int = 0

    @property
    def counted(self) -> int:
        """How many tokens are counted."""
        return len(self.ids) - self.skipped


def measure_log_likelihoods(
    model: AdapterModel,
    continuations: Sequence[Continuation],
    fits: Callable[[int, int], bool],
    shares_prefix: bool,
    advance: Callable[[int], None] = lambda _: None,
) -> list[float]:
    """Return the log-likelihood of every continuation after its prefix, in nats, in their order.

    `fits(rows, longest)` says whether so many token rows, the longest of so many tokens, may go
    through the model together. With `shares_prefix` a prefix goes through once for all of its
    continuations. `advance` is told how many continuations have been measured.
    """
    batches = [(0, indices) for indices in _plan_batches(continuations, fits, shares_prefix)]
    (nats,) = _measure_batches(
        model, [continuations], batches, shares_prefix, lambda _, rows: advance(rows)
    )
    return nats


def measure_groups(
    model: AdapterModel,
    groups: Sequence[Sequence[Continuation]],
    fits: Callable[[int, int], bool],
    shares_prefix: bool,
    advance: Callable[[int], None] = lambda _: None,
) -> list[list[float]]:
    """Return what `measure_log_likelihoods` does of each of `groups`, which are shared out over the
    cards; `advance` is told how many groups have been measured.
    """
    batches = [
        (number, indices)
        for number, group in enumerate(groups)
        for indices in _plan_batches(group, fits, shares_prefix)
    ]
    left = Counter(number for number, _ in batches)

    def count(number: int, _rows: int) -> None:
        left[number] -= 1
        if not left[number]:
            advance(1)

    return _measure_batches(model, groups, batches, shares_prefix, count)


def _measure_batches(
    model: AdapterModel,
    groups: Sequence[Sequence[Continuation]],
    batches: Sequence[tuple[int, list[int]]],
    shares_prefix: bool,
    advance: Callable[[int, int], None],
) -> list[list[float]]:
    """Return the nats of every continuation of `groups`; each of `batches` is the number of a group
    and places in it, and `advance` is told that number, and how many places.
    """
    nats = [[0.0] * len(group) for group in groups]
    measure = _measure_after_shared_prefix if shares_prefix else _measure_whole_rows
    given = [[groups[number][index] for index in indices] for number, indices in batches]
    with model.evaluation_mode():
        for place, measured in model.share(measure, given):
            number, indices = batches[place]
            for index, value in zip(indices, measured, strict=True):
                nats[number][index] = value
            advance(number, len(indices))
    return nats


def fits_tokens(batch_size: int, max_tokens: int) -> Callable[[int, int], bool]:
    """Return whether rows hold no more tokens together than `batch_size` rows of `max_tokens`."""
    return lambda rows, longest: rows * longest <= batch_size * max_tokens


def _plan_batches(
    continuations: Sequence[Continuation], fits: Callable[[int, int], bool], shares_prefix: bool
) -> Iterator[list[int]]:
    """Yield indices of what the model takes together, all of one prefix where it is shared."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, continuation in enumerate(continuations):
        groups.setdefault(continuation.prefix if shares_prefix else (), []).append(index)
    for indices in groups.values():
        lengths = [len(continuations[at].prefix) + len(continuations[at].ids) for at in indices]
        for batch in batch_into_fewest(lengths, fits):
            yield [indices[at] for at in batch]


def _measure_whole_rows(model: AdapterModel, batch: Sequence[Continuation]) -> list[float]:
    """Return the log-likelihoods of `batch`, prefixes included in every row."""
    causal = model.network.get_base_model()
    rows = [[*continuation.prefix, *continuation.ids] for continuation in batch]
    # Padding stands on the right, where a causal model cannot see it.
    hidden = causal.model(input_ids=_pad_rows(rows, model.device), use_cache=False)[0]
    places = [
        (row, len(continuation.prefix) - 1 + at, token)
        for row, continuation in enumerate(batch)
        for at, token in enumerate(continuation.ids)
        if at >= continuation.skipped
    ]
    return _sum_log_likelihoods(causal, hidden, places, len(batch))


def _measure_after_shared_prefix(model: AdapterModel, batch: Sequence[Continuation]) -> list[float]:
    """Return the log-likelihoods of `batch`, whose prefix is the same in every row."""
    import torch

    causal, prefix = model.network.get_base_model(), batch[0].prefix
    rows = [[prefix[-1], *continuation.ids[:-1]] for continuation in batch]
    cache = None
    if len(prefix) > 1:
        cache = _fill_prefix_cache(model, prefix[:-1])
        cache.batch_repeat_interleave(len(batch))
    start = len(prefix) - 1
    ids = _pad_rows(rows, model.device)
    positions = torch.arange(start, start + ids.shape[1], device=model.device)
    hidden = causal.model(
        input_ids=ids,
        past_key_values=cache,
        position_ids=positions.expand(len(batch), -1),
        use_cache=cache is not None,
    )[0]
    places = [
        (row, at, token)
        for row, continuation in enumerate(batch)
        for at, token in enumerate(continuation.ids)
        if at >= continuation.skipped
    ]
    return _sum_log_likelihoods(causal, hidden, places, len(batch))


def _fill_prefix_cache(model: AdapterModel, prefix: Sequence[int]) -> Any:
    causal = model.network.get_base_model()
    ids = _pad_rows([list(prefix)], model.device)
    return causal.model(input_ids=ids, use_cache=True).past_key_values


def _pad_rows(rows: Sequence[Sequence[int]], device: Any) -> Any:
    import torch

    longest = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)


def _sum_log_likelihoods(
    causal: Any, hidden: Any, places: Sequence[tuple[int, int, int]], rows: int
) -> list[float]:
    """Return the sum over `places` (row, position, the token that follows it) for each row."""
    import torch
    from torch.nn.functional import cross_entropy

    row, position, target = torch.tensor(places, device=hidden.device).T
    nats = torch.zeros(rows, dtype=torch.float64, device=hidden.device)
    for start in range(0, len(places), CHUNK_TOKENS):
        chunk = slice(start, start + CHUNK_TOKENS)
        logits = causal.lm_head(hidden[row[chunk], position[chunk]]).float()
        losses = cross_entropy(logits, target[chunk], reduction="none")
        nats.index_add_(0, row[chunk], -losses.double())
    return [float(total) for total in nats.tolist()]
