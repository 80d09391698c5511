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
from medexp.data.split import (
    CONDITION,
    DividedCases,
    Share,
    Sides,
    Split,
    divide_cases,
    refuse_small_parts,
    split_cases,
    too_few_cases_error,
)
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
    wanted = _share_out_held_out(dataset, dataset.held_out, len(sources))
    wanted_validation = _share_out_held_out(dataset, dataset.validation, len(sources))
    divided = [
        divide_cases(
            cases,
            source.group_by,
            count,
            dataset.split_seed,
            validation,
            dataset.stratify_by,
            # A part that nothing is held out from is trained on as a whole.
            Sides.of(source) if count or validation else None,
        )
        for cases, source, count, validation in zip(
            read, sources, wanted, wanted_validation, strict=True
        )
    ]
    _refuse_small(divided, sources, wanted, wanted_validation)
    columns = [source.group_by for source in sources]
    tested = _HeldOutKeys.by(list(zip([parts.test for parts in divided], columns, strict=True)))
    validation = [
        [case for case in parts.validation if not tested.holds(case)] for parts in divided
    ]
    held = [parts.test + parts.validation + parts.reserved for parts in divided]
    different = _remove_repeats([parts.train for parts in divided[: len(trained)]])
    barred = _HeldOutKeys.by(list(zip(held, columns, strict=True)))
    kept = [[case for case in pool if not barred.holds(case)] for pool in different]
    chosen = _limit_pools(kept, trained, dataset, _count_cases(held))
    # of a source that is only measured on
    unread = _count_cases(read[len(trained) :]) - _count_cases(held[len(trained) :])
    return Split(
        train=tuple(case for pool in chosen for case in pool),
        held_out=_join_unique([parts.test for parts in divided]),
        records=_count_cases(read) - unread,
        duplicates=_count_cases(read) - unread - _count_cases(different) - _count_cases(held),
        shares=tuple(
            Share(part.name, part.weight, len(pool))
            for part, pool in zip(trained, chosen, strict=True)
        ),
        withheld=_count_cases(different) - _count_cases(kept),
        wanted=dataset.held_out,
        reading=reading,
        validation=_join_unique(validation),
        reserved=sum(len(parts.reserved) for parts in divided),
    )


def _join_unique(parts: Sequence[Sequence[Case]]) -> tuple[Case, ...]:
    return tuple({case.key: case for cases in parts for case in cases}.values())


def _count_cases(cases: Sequence[Sequence[Case]]) -> int:
    return sum(map(len, cases))


def _share_out_held_out(dataset: Dataset, count: int, num_sources: int) -> list[int]:
    """Return how many of `count` cases are held out from every source."""
    trained = dataset_sources.list_trained_sources(dataset)
    if dataset.held_out_from is None:
        return share_out(count, [part.weight for part in trained]) if count else [0] * num_sources
    place = dataset_sources.find_measured_place(trained, dataset.held_out_from)
    measured = num_sources - 1 if place is None else place
    return [count if source == measured else 0 for source in range(num_sources)]


def _refuse_small(
    divided: Sequence[DividedCases],
    sources: Sequence[MixtureSource],
    wanted: Sequence[int],
    wanted_validation: Sequence[int],
) -> None:
    for parts, source, count, validation in zip(
        divided, sources, wanted, wanted_validation, strict=True
    ):
        held = len(parts.test) + len(parts.validation)
        if source.weight and not parts.train:
            raise too_few_cases_error(source.name, held, count, validation)
        refuse_small_parts(parts, source, count, validation)


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
            (column, case.extra[column])
            for cases, grouped_by in held
            for case in cases
            for column in ((grouped_by, CONDITION) if grouped_by else ())
            if column in case.extra
        )
        return cls(questions, groups)

    def holds(self, case: Case) -> bool:
        return case.key in self.questions or any(
            case.extra.get(column) == value for column, value in self.groups
        )
