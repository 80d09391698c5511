"""The two sides of a dataset that is a mixture, or that is measured on another's held-out cases.

What is held out from any part is trained on from none: neither a question that stands in two parts,
nor a group (`group_by` of the part it is held out from, where other parts have that column).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from medexp.config import dataset_sources
from medexp.config.schema import Dataset, MixtureSource
from medexp.data.cases import AS_EXPECTED, Case, ReadingReport
from medexp.data.order import share_out
from medexp.data.split import Share, Split, divide_cases, split_cases, too_few_cases_error
from medexp.errors import DataError


def split_mixture(
    read: Sequence[Sequence[Case]], dataset: Dataset, reading: ReadingReport = AS_EXPECTED
) -> Split:
    """Training and held-out cases of `dataset`, whose list_sources hold the cases `read` (in the
    order of `dataset_sources.list_sources`); `reading`, what else was met there, goes with them.

    Held out are `dataset.held_out` cases of `held_out_from`, else of every part by its weight; with
    `max_cases` the different training cases are shared out by weight too, at least one a part.
    Raises: DataError if a part is too small, or the column to group by is missing.
    """
    if not dataset.mixture and dataset.held_out_from is None:
        return replace(split_cases(read[0], dataset), reading=reading)
    sources = dataset_sources.list_sources(dataset)
    trained = dataset_sources.list_trained_sources(dataset)
    wanted = _count_held_out(dataset, len(sources))
    both = [
        divide_cases(cases, source.group_by, count, dataset.split_seed)
        for cases, source, count in zip(read, sources, wanted, strict=True)
    ]
    _refuse_small(both, sources, wanted)
    pools, held = [pool for pool, _ in both[: len(trained)]], [cases for _, cases in both]
    different = _remove_repeats(pools)
    barred = _HeldOutKeys.by(list(zip(held, [source.group_by for source in sources], strict=True)))
    kept = [[case for case in pool if not barred.holds(case)] for pool in different]
    chosen = _limit_pools(kept, trained, dataset, _count_cases(held))
    # of a source that is only measured on
    unread = _count_cases(read[len(trained) :]) - _count_cases(held[len(trained) :])
    return Split(
        train=tuple(case for pool in chosen for case in pool),
        held_out=tuple({case.key: case for cases in held for case in cases}.values()),
        records=_count_cases(read) - unread,
        duplicates=_count_cases(read) - unread - _count_cases(different) - _count_cases(held),
        shares=tuple(
            Share(part.name, part.weight, len(pool))
            for part, pool in zip(trained, chosen, strict=True)
        ),
        withheld=_count_cases(different) - _count_cases(kept),
        wanted=dataset.held_out,
        reading=reading,
    )


def _count_cases(cases: Sequence[Sequence[Case]]) -> int:
    return sum(map(len, cases))


def _count_held_out(dataset: Dataset, num_sources: int) -> list[int]:
    trained = dataset_sources.list_trained_sources(dataset)
    if dataset.held_out_from is None:
        return share_out(dataset.held_out, [part.weight for part in trained])
    place = dataset_sources.find_measured_place(trained, dataset.held_out_from)
    measured = num_sources - 1 if place is None else place
    return [dataset.held_out if source == measured else 0 for source in range(num_sources)]


def _refuse_small(
    both: Sequence[tuple[list[Case], list[Case]]],
    sources: Sequence[MixtureSource],
    wanted: Sequence[int],
) -> None:
    for (pool, held), source, count in zip(both, sources, wanted, strict=True):
        if source.weight and not pool:
            raise too_few_cases_error(source.name, len(held), count)
        if len(held) < count:
            raise DataError(
                f"dataset={source.name} has {len(held)} different questions and"
                f" dataset.held_out={count}; lower it"
            )


def _remove_repeats(pools: Sequence[Sequence[Case]]) -> list[list[Case]]:
    """Return the pools without questions of an earlier pool."""
    seen: set[str] = set()
    unique: list[list[Case]] = []
    for pool in pools:
        unique.append([case for case in pool if case.key not in seen])
        seen |= {case.key for case in pool}
    return unique


def _limit_pools(
    pools: Sequence[list[Case]],
    trained: Sequence[MixtureSource],
    dataset: Dataset,
    num_held_out: int,
) -> list[list[Case]]:
    """Return what `max_cases` leaves of each pool: its quota, at least one case.

    Raises: DataError if a pool is empty.
    """
    for part, pool in zip(trained, pools, strict=True):
        if not pool:
            raise DataError(
                f"nothing of {part.name} is left to train on: all its questions stand in an earlier"
                " part, or they or their groups are held out; give it other cases or take it out"
                " of dataset.mixture"
            )
    if dataset.max_cases is None:
        return list(pools)
    limits = share_out(max(0, dataset.max_cases - num_held_out), [part.weight for part in trained])
    return [pool[: max(1, limit)] for pool, limit in zip(pools, limits, strict=True)]


@dataclass(frozen=True)
class _HeldOutKeys:
    """What must not be trained on: questions, and values of the columns that held-out cases are
    grouped by.
    """

    questions: frozenset[str]
    groups: frozenset[tuple[str, str]]

    @classmethod
    def by(cls, held: Sequence[tuple[Sequence[Case], str | None]]) -> "_HeldOutKeys":
        questions = frozenset(case.key for cases, _ in held for case in cases)
        groups = frozenset(
            (column, case.extra[column]) for cases, column in held if column for case in cases
        )
        return cls(questions, groups)

    def holds(self, case: Case) -> bool:
        return case.key in self.questions or any(
            case.extra.get(column) == value for column, value in self.groups
        )
