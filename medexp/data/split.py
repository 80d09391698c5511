"""Which cases are trained on and which are held out: seeded, no question twice, no group on both
sides.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from medexp.config.schema import Dataset
from medexp.data.cases import AS_EXPECTED, Case, ReadingReport
from medexp.errors import DataError, listing


@dataclass(frozen=True)
class Share:
    """A part of the training cases: its source, its weight, how many cases it has."""

    name: str
    weight: float
    cases: int


@dataclass(frozen=True)
class Split:
    """Training and held-out cases, and how many records were read and removed as exact duplicates.

    `shares` says which training cases, in order, are of which part (none: all of one); `withheld`
    counts cases that are not trained on because their question or group is held out from another
    part; `wanted` is how many held-out cases were asked for; `reading` what else was met in the
    files.
    """

    train: tuple[Case, ...]
    held_out: tuple[Case, ...]
    records: int
    duplicates: int
    shares: tuple[Share, ...] = ()
    withheld: int = 0
    wanted: int = 0
    reading: ReadingReport = AS_EXPECTED


def split_cases(cases: Sequence[Case], dataset: Dataset) -> Split:
    """Return `cases` without repeated questions, shuffled by `dataset.split_seed`; whole groups
    (`dataset.group_by`) go to the held-out side until it has `dataset.held_out` cases, the rest (up
    to `dataset.max_cases` together) are for training.

    Raises: DataError if fewer cases are there than the split needs, or the column to group by is
        missing.
    """
    train, held_out = divide_cases(cases, dataset.group_by, dataset.held_out, dataset.split_seed)
    unique = len(train) + len(held_out)
    limit = None if dataset.max_cases is None else max(0, dataset.max_cases - len(held_out))
    train = train[:limit]
    if not train:
        raise too_few_cases_error(dataset.name, unique, dataset.held_out)
    duplicates = len(cases) - unique
    return Split(
        tuple(train),
        tuple(held_out),
        records=len(cases),
        duplicates=duplicates,
        wanted=dataset.held_out,
    )


def divide_cases(
    cases: Sequence[Case], group_by: str | None, num_held_out: int, seed: int
) -> tuple[list[Case], list[Case]]:
    """Return the cases to train on and those held out: every different question of `cases` on one
    of two sides, shuffled, groups kept whole. With few cases there may be none for training, or
    fewer held out than `num_held_out`.

    Raises: DataError if the column to group by is missing.
    """
    unique = list({case.key: case for case in reversed(cases)}.values())[::-1]
    groups = _group_cases(unique, group_by)
    random.Random(seed).shuffle(groups)
    held_out: list[Case] = []
    while len(held_out) < num_held_out and groups:
        held_out += groups.pop(0)
    return [case for group in groups for case in group], held_out


def too_few_cases_error(name: str, unique: int, num_held_out: int) -> DataError:
    """Return the error of a source whose `unique` questions leave none to train on."""
    return DataError(
        f"dataset={name} has {unique} different questions and dataset.held_out={num_held_out} "
        "leaves none to train on; lower dataset.held_out or add cases"
    )


def _group_cases(cases: Sequence[Case], column: str | None) -> list[list[Case]]:
    if column is None:
        return [[case] for case in cases]
    groups: dict[str, list[Case]] = {}
    for case in cases:
        if column not in case.extra:
            raise DataError(
                f"dataset.group_by={column} is not a column of every record; there are"
                f" {listing(case.extra)}. Set dataset.group_by=null to split case by case"
            )
        groups.setdefault(case.extra[column], []).append(case)
    return list(groups.values())
