"""In which order cases are trained on: a function of the seed alone, so that a resumed run goes on
with the very next case.
"""

import random
from collections.abc import Iterator, Sequence
from fractions import Fraction
from math import ceil, floor

# how many batches are sorted by length together: long enough to save padding, short enough to stay
# random
GROUPED_BATCHES = 16


def count_steps(epochs: float, num_cases: int, cases_per_step: int) -> int:
    """Return how many optimizer steps see `num_cases` cases `epochs` times, the last step possibly
    beyond."""
    return max(1, ceil(epochs * num_cases / cases_per_step))


def make_training_order(
    num_cases: int, num_drawn: int, seed: int, lengths: Sequence[int] | None = None, batch: int = 1
) -> list[int]:
    """Return `num_drawn` indices into `num_cases` cases: whole shuffled passes, the last one cut
    short.

    With `lengths` (tokens a case), each run of GROUPED_BATCHES batches of `batch` cases is sorted
    by length and its batches shuffled, so that a batch holds cases of like length.
    """
    indices: list[int] = []
    for epoch in range(ceil(num_drawn / num_cases)):
        one_pass = list(range(num_cases))
        random.Random(f"{seed}/{epoch}").shuffle(one_pass)
        indices += one_pass
    indices = indices[:num_drawn]
    return indices if lengths is None else _group_by_length(indices, lengths, batch, seed)


def make_mixed_order(
    sizes: Sequence[int],
    weights: Sequence[float],
    num_drawn: int,
    seed: int,
    lengths: Sequence[int] | None = None,
    batch: int = 1,
) -> list[int]:
    """Return `num_drawn` indices into the cases of all parts, one part after another (`sizes` cases
    each).

    Parts take turns so that after any number of draws none is a whole case ahead of or behind its
    share of `weights`; each part is gone through in shuffled passes of its own, as in
    `make_training_order`, which also says what `lengths` and `batch` do.
    """
    turns = list(_take_turns(weights, num_drawn))
    starts = [sum(sizes[:part]) for part in range(len(sizes))]
    drawn = [
        iter(make_training_order(size, turns.count(part), seed)) for part, size in enumerate(sizes)
    ]
    indices = [starts[part] + next(drawn[part]) for part in turns]
    return indices if lengths is None else _group_by_length(indices, lengths, batch, seed)


def count_epoch_draws(sizes: Sequence[int], weights: Sequence[float]) -> int:
    """Return how many draws see every case of every part: the other parts go round again meanwhile.

    Source: "all_exhausted" of datasets.interleave_datasets.
    """
    return max(
        ceil(size / share) for size, share in zip(sizes, _normalise_weights(weights), strict=True)
    )


def share_out(total: int, weights: Sequence[float]) -> list[int]:
    """Return `total` shared out by `weights` in whole numbers, largest remainders first."""
    exact = [total * share for share in _normalise_weights(weights)]
    whole = [floor(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda part: whole[part] - exact[part])
    for part in by_remainder[: total - sum(whole)]:
        whole[part] += 1
    return whole


def _normalise_weights(weights: Sequence[float]) -> list[Fraction]:
    """Return the weights as written (0.1 is a tenth), made to add up to 1."""
    exact = [Fraction(str(weight)) for weight in weights]
    return [weight / sum(exact) for weight in exact]


def _take_turns(weights: Sequence[float], num_drawn: int) -> Iterator[int]:
    """Return whose turn each draw is: of the parts whose next turn may have come, the one that must
    have it soonest.

    Source: the j-th turn of a part with share w lies between draws floor((j - 1) / w) and ceil(j /
    w); earliest deadline first then keeps every part within one turn of its share (Baruah et al.
    1996, proportionate progress).
    """
    shares, taken = _normalise_weights(weights), [0] * len(weights)
    for draw in range(num_drawn):
        waiting = [part for part, share in enumerate(shares) if floor(taken[part] / share) <= draw]
        part = min(
            waiting,
            key=lambda candidate: (ceil((taken[candidate] + 1) / shares[candidate]), candidate),
        )
        taken[part] += 1
        yield part


def _group_by_length(
    indices: list[int], lengths: Sequence[int], batch: int, seed: int
) -> list[int]:
    chance, window, grouped = random.Random(f"{seed}/groups"), batch * GROUPED_BATCHES, []
    for start in range(0, len(indices), window):
        ordered = sorted(
            indices[start : start + window], key=lambda index: lengths[index], reverse=True
        )
        batches = [ordered[first : first + batch] for first in range(0, len(ordered), batch)]
        ragged = batches.pop() if len(batches[-1]) < batch else []
        chance.shuffle(batches)
        grouped += [index for group in [*batches, ragged] for index in group]
    return grouped
