"""How cases are put into batches: fewer and fuller ones, where cases are shorter than the limit
that memory was planned for.

An optimizer step's loss is the sum over all of its tokens, so it is the same however its cases are
put together.
"""

from collections.abc import Callable, Sequence


def batch_in_order(num_cases: int, micro_batch: int) -> list[list[int]]:
    """Return batches of `micro_batch` cases, in the order given."""
    return [
        list(range(start, min(start + micro_batch, num_cases)))
        for start in range(0, num_cases, micro_batch)
    ]


def batch_for_least_time(
    lengths: Sequence[int], may: Callable[[int, int], bool], seconds: Callable[[int], float]
) -> list[list[int]]:
    """Return indices of `lengths` (tokens a case) in micro-batches, those of the longest cases
    first, that together take the least time: `may(cases, longest)` says how many cases may go
    together, `seconds(tokens)` how long they take, padding counted.

    Cases are sorted by length and cut, exactly: no cut of the sorted cases is faster. One case
    alone always may.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    # of the first n cases: the least time, and where the last micro-batch begins
    best: list[tuple[float, int]] = [(0.0, 0)]
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


def batch_into_fewest(lengths: Sequence[int], may: Callable[[int, int], bool]) -> list[list[int]]:
    """Return indices of `lengths` (tokens of each case) in as few groups as may be, those of the
    longest first: `may(count, longest)` says what may go together, and what it says of many and
    long ones it says of fewer and shorter ones. One alone always may."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if groups and may(len(groups[-1]) + 1, lengths[groups[-1][0]]):
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups
