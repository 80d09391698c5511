"""How the cases of one optimizer step are put into micro-batches: fewer and fuller ones, where cases are shorter than the limit.

A step's loss is the sum over all of its tokens, so it is the same however its cases are put together.
"""

from collections.abc import Callable, Sequence


def in_turn(num_cases: int, micro_batch: int) -> list[list[int]]:
    """`micro_batch` cases each, in the order given."""
    return [list(range(start, min(start + micro_batch, num_cases))) for start in range(0, num_cases, micro_batch)]


def filled(lengths: Sequence[int], may: Callable[[int, int], bool], seconds: Callable[[int], float]) -> list[list[int]]:
    """Indices of `lengths` (tokens a case) in micro-batches, those of the longest cases first, that together take the least time:
    `may(cases, longest)` says how many cases may go together, `seconds(tokens)` how long they take, padding counted.

    Cases are sorted by length and cut, exactly: no cut of the sorted cases is faster. One case alone always may.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    best: list[tuple[float, int]] = [(0.0, 0)]  # of the first n cases: the least time, and where the last micro-batch begins
    for end in range(1, len(order) + 1):
        cuts = [
            (best[start][0] + seconds((end - start) * lengths[order[start]]), start)
            for start in range(end)
            if end - start == 1 or may(end - start, lengths[order[start]])
        ]
        best.append(min(cuts))
    groups: list[list[int]] = []
    end = len(order)
    while end:
        start = best[end][1]
        groups.insert(0, order[start:end])
        end = start
    return groups
