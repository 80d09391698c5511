"""Which cases are trained on and which are held out: seeded, no question twice, no group on both sides."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from medexp.config.schema import Dataset
from medexp.data.records import Case
from medexp.errors import DataError, listing


@dataclass(frozen=True)
class Split:
    """Training and held-out cases, and how many records were read and removed as exact duplicates."""

    train: tuple[Case, ...]
    held_out: tuple[Case, ...]
    records: int
    duplicates: int


def split(cases: Sequence[Case], dataset: Dataset) -> Split:
    """`cases` without repeated questions, shuffled by `dataset.split_seed`; whole groups (`dataset.group_by`) go to the held-out
    side until it has `dataset.held_out` cases, the rest (up to `dataset.max_cases` together) are for training.

    Raises: DataError if fewer cases are there than the split needs, or the column to group by is missing.
    """
    unique = list({case.key: case for case in reversed(cases)}.values())[::-1]
    groups = _groups(unique, dataset.group_by)
    random.Random(dataset.split_seed).shuffle(groups)
    shuffled = [case for group in groups for case in group]
    held_out: list[Case] = []
    while len(held_out) < dataset.held_out and groups:
        held_out += groups.pop(0)
    train = shuffled[len(held_out) : dataset.max_cases]
    if not train:
        raise DataError(
            f"dataset={dataset.name} has {len(unique)} different questions and dataset.held_out={dataset.held_out} "
            "leaves none to train on; lower dataset.held_out or add cases"
        )
    return Split(tuple(train), tuple(held_out), records=len(cases), duplicates=len(cases) - len(unique))


def _groups(cases: Sequence[Case], column: str | None) -> list[list[Case]]:
    if column is None:
        return [[case] for case in cases]
    groups: dict[str, list[Case]] = {}
    for case in cases:
        if column not in case.extra:
            raise DataError(
                f"dataset.group_by={column} is no column of every record; there are {listing(case.extra)}. "
                "Set dataset.group_by=null to split case by case"
            )
        groups.setdefault(case.extra[column], []).append(case)
    return list(groups.values())
