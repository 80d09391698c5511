"""Which cases are trained on and which are held out: no question twice, no group on both sides.

By seed and counts, or (`test_share`) by the name of the group alone, so that a case never changes
sides as a set grows.
"""

import hashlib
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from medexp.config.schema import Dataset, Source
from medexp.data.cases import AS_EXPECTED, CONVERSATION, PAIR, Case, ReadingReport
from medexp.errors import DataError, listing

GOLDEN_SECTION = (5**0.5 - 1) / 2
# Beside the name of a group in its digest. Of 59 salts the one that spreads the test side of the
# shipped cases most evenly over specialty and urgency; chosen before any model was measured on it.
# Another salt is another split: never change it.
SALT = "medexp-24"
# A condition that is held out is trained on from no other part, whatever that part is grouped by.
CONDITION = "condition"


@dataclass(frozen=True)
class Share:
    """A part of the training cases: its source, its weight, how many cases it has."""

    name: str
    weight: float
    cases: int


@dataclass(frozen=True)
class Split:
    """Training, validation and test cases, and how many records were read and removed as exact
    duplicates.

    `held_out` is the test part, which judges; `validation` chooses (sweeps, pruning, the best
    checkpoint) and may be empty. `shares` says which training cases, in order, are of which part
    (none: all of one); `withheld` counts cases that are not trained on because their question or
    group is held out from another part; `reserved` those of the test and validation sides that were
    not asked for; `wanted` is how many held-out cases were; `reading` what else was met in the
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
    validation: tuple[Case, ...] = ()
    reserved: int = 0

    def with_test_part_closed(self) -> "Split":
        """Return the split in which validation stands in for the test part, which is not opened.

        What chooses among runs (a trial of a sweep) is measured on it, so that the test part has
        not been looked at when it judges the chosen one. Without validation cases nothing changes.
        """
        if not self.validation:
            return self
        return replace(self, held_out=self.validation, wanted=len(self.validation))


class DividedCases(NamedTuple):
    """The cases of a source: for training, for validation, the test part, and those of the last two
    sides that nobody asked for.
    """

    train: list[Case]
    validation: list[Case]
    test: list[Case]
    reserved: list[Case]


class Sides(NamedTuple):
    """The shares of the test and validation sides; the name of a group decides its side."""

    test: float
    validation: float

    @classmethod
    def of(cls, source: Source) -> "Sides | None":
        """Return the sides of a source; None where seed and counts divide it."""
        if source.test_share is None:
            return None
        return cls(source.test_share, source.validation_share)

    def find(self, name: str) -> str:
        """Return the side of the group `name`: "test", "validation" or "train"."""
        digest = hashlib.sha256(f"{SALT}/{name}".encode()).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64
        if place < self.test:
            return "test"
        return "validation" if place < self.test + self.validation else "train"


def split_cases(cases: Sequence[Case], dataset: Dataset) -> Split:
    """Return `cases` without repeated questions, shuffled by `dataset.split_seed`.

    Whole groups (`dataset.group_by`) go to the test part until it has `dataset.held_out` cases,
    then to validation until it has `dataset.validation`; the rest (up to `dataset.max_cases`
    together) are for training. `dataset.stratify_by` spreads the parts evenly over its columns.
    With `dataset.test_share` the parts are taken from the sides that the groups' names decide.
    Raises: DataError if fewer cases are there than the split needs, or the column to group by is
        missing.
    """
    divided = divide_cases(
        cases,
        dataset.group_by,
        dataset.held_out,
        dataset.split_seed,
        dataset.validation,
        dataset.stratify_by,
        Sides.of(dataset),
    )
    held_out = len(divided.test) + len(divided.validation)
    unique = len(divided.train) + held_out + len(divided.reserved)
    limit = None if dataset.max_cases is None else max(0, dataset.max_cases - held_out)
    train = divided.train[:limit]
    if not train:
        raise too_few_cases_error(dataset.name, unique, dataset.held_out, dataset.validation)
    refuse_small_parts(divided, dataset, dataset.held_out, dataset.validation)
    return Split(
        tuple(train),
        tuple(divided.test),
        records=len(cases),
        duplicates=len(cases) - unique,
        wanted=dataset.held_out,
        validation=tuple(divided.validation),
        reserved=len(divided.reserved),
    )


def refuse_small_parts(
    divided: DividedCases, source: Source, num_held_out: int, num_validation: int
) -> None:
    """Raises DataError where the test or the validation part has fewer cases than asked for."""
    unique = sum(map(len, divided)) - len(divided.reserved)
    for key, share, part, wanted in (
        ("held_out", "test_share", divided.test, num_held_out),
        ("validation", "validation_share", divided.validation, num_validation),
    ):
        if len(part) >= wanted:
            continue
        if source.test_share is None:
            raise DataError(
                f"dataset={source.name} has {unique} different questions and"
                f" dataset.{key}={wanted}; lower it"
            )
        raise DataError(
            f"dataset.{key}={wanted} is more than the {len(part)} cases that"
            f" dataset.{share}={getattr(source, share):g} gives of dataset={source.name};"
            f" set dataset.{key}={len(part)}, or a larger dataset.{share}"
        )


def divide_cases(
    cases: Sequence[Case],
    group_by: str | None,
    num_held_out: int,
    seed: int,
    num_validation: int = 0,
    stratify_by: Sequence[str] = (),
    sides: Sides | None = None,
) -> DividedCases:
    """Return every different question of `cases` in one of its parts, shuffled, groups whole.

    The test part is the same whatever is taken for validation, and a larger one holds a smaller
    one. With few cases a part may be smaller than asked for, or empty. With `sides` a part is taken
    from its own side, from as many groups as it can, and what is left of that is reserved: never
    trained on.
    Raises: DataError if the column to group by is missing.
    """
    unique = list({case.key: case for case in reversed(cases)}.values())[::-1]
    groups = _group_cases(unique, group_by)
    random.Random(seed).shuffle(groups)
    if stratify_by:
        groups = _spread_over_strata(groups, stratify_by)
    if sides is None:
        test, validation = _take_cases(groups, num_held_out), _take_cases(groups, num_validation)
        return DividedCases(_join(groups), validation, test, [])
    by_side: dict[str, list[list[Case]]] = {"test": [], "validation": [], "train": []}
    for group in groups:
        name = group[0].extra[group_by] if group_by else group[0].key
        by_side[sides.find(name)].append(group)
    test, not_tested = _choose_from_side(by_side["test"], num_held_out)
    validation, not_validated = _choose_from_side(by_side["validation"], num_validation)
    return DividedCases(_join(by_side["train"]), validation, test, not_tested + not_validated)


def _choose_from_side(
    groups: Sequence[Sequence[Case]], wanted: int
) -> tuple[list[Case], list[Case]]:
    """Return `wanted` cases of a side in the order of its groups, and the others."""
    everything = _join(groups)
    chosen = {case.key for case in _take_cases(_interleave(groups), wanted)}
    return (
        [case for case in everything if case.key in chosen],
        [case for case in everything if case.key not in chosen],
    )


def _interleave(groups: Sequence[Sequence[Case]]) -> list[list[Case]]:
    """Return the cases of a side, one of every group before the second of any: few cases are then
    of many groups. Contrast pairs stay together, as one, behind the single cases of their group.

    A side is decided already, so that its groups need not be whole.
    """
    rounds: dict[int, list[list[Case]]] = {}
    for group in groups:
        for turn, unit in enumerate(sorted(join_pairs(group), key=len)):
            rounds.setdefault(turn, []).append(unit)
    return [unit for turn in sorted(rounds) for unit in rounds[turn]]


def join_pairs(cases: Iterable[Case]) -> list[list[Case]]:
    """Return every contrast pair of `cases` as one unit and every other case as its own, in the
    order of their first cases.
    """
    units: dict[tuple[str, str], list[Case]] = {}
    for case in cases:
        pair = case.extra.get(PAIR)
        units.setdefault(("pair", pair) if pair else ("question", case.key), []).append(case)
    return list(units.values())


def _join(groups: Iterable[Sequence[Case]]) -> list[Case]:
    return [case for group in groups for case in group]


def _take_cases(groups: list[list[Case]], wanted: int) -> list[Case]:
    """Take whole groups off the front of `groups` until `wanted` cases are there."""
    taken: list[Case] = []
    while len(taken) < wanted and groups:
        taken.extend(groups.pop(0))
    return taken


def name_groups(cases: Sequence[Case], columns: Sequence[str]) -> list[str]:
    """Return the name of every case's group: its value of the first of `columns` that it has, else
    its conversation, else its own digest.
    """
    names = []
    for case in cases:
        known = (*columns, CONVERSATION)
        column = next((column for column in known if column in case.extra), None)
        names.append(f"{column}={case.extra[column]}" if column else case.digest)
    return names


def _spread_over_strata(groups: list[list[Case]], columns: Sequence[str]) -> list[list[Case]]:
    """Return `groups` in an order of which every beginning is spread evenly over the strata.

    The groups are sorted by their strata, the first column first, shuffled within; then they are
    taken in steps of the golden section, whose beginnings lie evenly in any range and keep time
    with no number of strata. A column that a case does not have is no stratum of it.
    Source: systematic sampling (Cochran 1977, 8); Kronecker's sequence of the golden section.
    """
    # sorted() keeps the shuffled order within a stratum.
    by_stratum = sorted(
        groups, key=lambda group: [group[0].extra.get(column, "") for column in columns]
    )
    places: dict[int, None] = {}
    step = 0
    while len(places) < len(groups):
        places.setdefault(int(step * GOLDEN_SECTION % 1 * len(groups)))
        step += 1
    return [by_stratum[place] for place in places]


def too_few_cases_error(
    name: str, unique: int, num_held_out: int, num_validation: int = 0
) -> DataError:
    """Return the error of a source whose `unique` questions leave none to train on."""
    validation = f" with dataset.validation={num_validation}" if num_validation else ""
    return DataError(
        f"dataset={name} has {unique} different questions and dataset.held_out={num_held_out}"
        f"{validation} leaves none to train on; lower dataset.held_out or add cases"
    )


def _group_cases(cases: Sequence[Case], column: str | None) -> list[list[Case]]:
    groups: dict[str, list[Case]] = {}
    if column is None:
        # The answers of one conversation hold each other's questions.
        for case in cases:
            groups.setdefault(case.extra.get(CONVERSATION, case.key), []).append(case)
        return list(groups.values())
    for case in cases:
        if column not in case.extra:
            raise DataError(
                f"dataset.group_by={column} is not a column of every record; there are"
                f" {listing(case.extra)}. Set dataset.group_by=null to split case by case"
            )
        groups.setdefault(case.extra[column], []).append(case)
    return list(groups.values())
