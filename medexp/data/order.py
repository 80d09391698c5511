"""In which order cases are trained on: a function of the seed alone, so that a resumed run goes on with the very next case."""

import random
from collections.abc import Sequence
from math import ceil

GROUPED_BATCHES = 16  # how many batches are sorted by length together: long enough to save padding, short enough to stay random


def steps_for(epochs: float, num_cases: int, cases_per_step: int) -> int:
    """Optimizer steps that see `num_cases` cases `epochs` times, the last step possibly beyond."""
    return max(1, ceil(epochs * num_cases / cases_per_step))


def training_order(num_cases: int, num_drawn: int, seed: int, lengths: Sequence[int] | None = None, batch: int = 1) -> list[int]:
    """`num_drawn` indices into `num_cases` cases: whole shuffled passes, the last one cut short.

    With `lengths` (tokens a case), each run of GROUPED_BATCHES batches of `batch` cases is sorted by length and its batches
    shuffled, so that a batch holds cases of like length.
    """
    indices: list[int] = []
    for epoch in range(ceil(num_drawn / num_cases)):
        one_pass = list(range(num_cases))
        random.Random(f"{seed}/{epoch}").shuffle(one_pass)
        indices += one_pass
    indices = indices[:num_drawn]
    return indices if lengths is None else _grouped(indices, lengths, batch, seed)


def _grouped(indices: list[int], lengths: Sequence[int], batch: int, seed: int) -> list[int]:
    chance, window, grouped = random.Random(f"{seed}/groups"), batch * GROUPED_BATCHES, []
    for start in range(0, len(indices), window):
        ordered = sorted(indices[start : start + window], key=lambda index: lengths[index], reverse=True)
        batches = [ordered[first : first + batch] for first in range(0, len(ordered), batch)]
        ragged = batches.pop() if len(batches[-1]) < batch else []
        chance.shuffle(batches)
        grouped += [index for group in [*batches, ragged] for index in group]
    return grouped
