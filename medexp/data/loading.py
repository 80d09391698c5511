"""Cases from a file (JSON array, JSONL, CSV, Parquet) or from the Hub. Refuses anything it cannot
name the broken place of.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medexp.config import dataset_sources
from medexp.config.schema import Dataset, Faulty, Format, MixtureSource, Prompt, Source
from medexp.data.cases import (
    AS_EXPECTED,
    Case,
    ReadingReport,
    compute_digest,
    is_blank,
    missing_column_error,
    parse_case,
)
from medexp.data.layouts import convert_table, find_layout, guess_column_overrides
from medexp.data.prompts import closes_reasoning, needs_reasoning, trains_reasoning
from medexp.data.tables import Record, Row, Table, faulty_rows_error, read_table
from medexp.data.think_marks import THINK_END, holds_marks
from medexp.errors import DataError, listing
from medexp.system import hub

# How the fault of a row without reasoning ends.
_ASKED_FOR = "asks for it"


@dataclass(frozen=True)
class Cases:
    """All cases of a dataset in file order, where they came from, at which commit (Hub only),
    and a digest of their texts.

    `by_source` holds them source by source, as `config.dataset_sources.list_sources` lists them;
    `reading` says what else stood there.
    """

    cases: tuple[Case, ...]
    origin: str
    commit: str | None
    digest: str
    by_source: tuple[tuple[Case, ...], ...]
    reading: ReadingReport = AS_EXPECTED


def load_cases(dataset: Dataset, prompt: Prompt | None = None) -> Cases:
    """Return the cases of every source of `dataset`: from its `path` where that is set, else from
    the Hub. With `prompt`, a row that this cannot be trained with is as faulty as one that is no
    case.

    Raises: DataError naming the file and, where some are broken, the first rows or lines.
    """
    loaded = [
        _load_source(source, dataset, prompt) for source in dataset_sources.list_sources(dataset)
    ]
    if len(loaded) == 1:
        return loaded[0]
    commits = [source.commit for source in loaded if source.commit]
    return Cases(
        cases=tuple(case for source in loaded for case in source.cases),
        origin=" + ".join(source.origin for source in loaded),
        commit=" + ".join(commits) or None,
        digest=compute_digest(case for source in loaded for case in source.cases),
        by_source=tuple(source.cases for source in loaded),
        reading=ReadingReport(
            faulty=sum(source.reading.faulty for source in loaded),
            blank=sum(source.reading.blank for source in loaded),
            told_apart=sum(source.reading.told_apart for source in loaded),
            notes=tuple(note for source in loaded for note in source.reading.notes),
        ),
    )


def _load_source(source: MixtureSource, dataset: Dataset, prompt: Prompt | None) -> Cases:
    if source.path is not None:
        origin, commit, table = source.path, None, read_table(Path(source.path), "dataset.path")
    else:
        origin, commit, records = _fetch_from_hub(source)
        table = Table(list(enumerate(records, 1)))
    total = len(table.rows) + len(table.faults)
    if not total:
        raise DataError(
            f"{origin} holds no records; dataset={source.name} needs at least"
            f" {dataset.held_out + 1}"
        )
    name = Path(origin).name
    table, source = _read_layout(table, source, dataset, name)
    _refuse_columns(table.rows, source, name)
    cases = list(_parse_cases(table, source, name, prompt))
    if table.faults and (dataset.faulty is Faulty.error or not cases):
        column = (
            "dataset.columns.reasoning"
            if source.name == dataset.name
            else f"columns.reasoning of {source.name}"
        )
        is_all_without = not cases and all(what.endswith(_ASKED_FOR) for _, what in table.faults)
        if prompt is not None and source.columns.reasoning is None and is_all_without:
            raise _without_reasoning(prompt.name, column, name)
        raise _faulty_rows_error(table, total, name)
    told_apart = sum(
        str(record[source.columns.answer]).strip() != case.answer for record, case in cases
    )
    notes = table.notes
    if told_apart and prompt is not None and not trains_reasoning(prompt):
        notes += (
            f"prompt={prompt.name} trains on the answer alone, without the reasoning told apart",
        )
    reading = ReadingReport(len(table.faults), table.blank, told_apart, notes)
    read = tuple(case for _, case in cases)
    return Cases(read, origin, commit, compute_digest(read), (read,), reading)


def _read_layout(
    table: Table, source: MixtureSource, dataset: Dataset, name: str
) -> tuple[Table, MixtureSource]:
    """Return `table` as cases, and `source` with their columns, where it is laid out for another
    tool.

    Raises: DataError where `dataset.format` names a layout that it has not.
    """
    records = [record for _, record in table.rows]
    layout = find_layout(records, source.columns, dataset.format, dataset.turns)
    if layout is None:
        if records and dataset.format in (Format.chat, Format.alpaca):
            raise DataError(
                f"{name} is not laid out as dataset.format={dataset.format.value} says; its columns"
                f" are {listing(map(str, records[0]))}. Leave dataset.format=auto, or name your"
                " columns with dataset.columns and set dataset.format=cases"
            )
        return table, source
    # Such files have their reasoning, where they have one, at the beginning of the answer.
    columns = replace(source.columns, reasoning=None)
    return convert_table(table, layout, name), replace(source, columns=columns)


def _refuse_columns(rows: Sequence[Row], source: MixtureSource, name: str) -> None:
    """Raises DataError where no record has a column that is asked for, with what to type where the
    columns have names that are often used.
    """
    columns, records = source.columns, [record for _, record in rows]
    has_marks = any(THINK_END in str(record.get(columns.answer)) for record in records)
    wanted = (columns.question, None if has_marks else columns.reasoning, columns.answer)
    missing = [
        column
        for column in wanted
        if column is not None and not any(column in record for record in records)
    ]
    if not rows or not missing:
        return
    typed = guess_column_overrides(records[0])
    said = str(missing_column_error(missing[0], records[0], f"row {rows[0][0]} of {name}"))
    raise DataError(f"{said}, as in {typed}" if typed else said)


def _parse_cases(
    table: Table, source: MixtureSource, name: str, prompt: Prompt | None
) -> Iterator[tuple[Record, Case]]:
    """Yield each row and its case; a row that is none is added to the faults of `table`."""
    # where no record has the column, the split says so
    is_grouped = any(source.group_by in record for _, record in table.rows)
    for number, record in table.rows:
        place = f"row {number} of {name}"
        try:
            case = parse_case(record, source.columns, place)
            _refuse_untrainable(case, prompt)
            if is_grouped and source.group_by is not None and is_blank(record.get(source.group_by)):
                raise DataError(
                    f"{place}: {source.group_by!r} is empty, and dataset.group_by={source.group_by}"
                    " would make one group of all such records; fill it, or set"
                    " dataset.group_by=null to split case by case"
                )
            yield record, case
        except DataError as error:
            table.faults.append((number, str(error)))


def _refuse_untrainable(case: Case, prompt: Prompt | None) -> None:
    """Raises DataError where `case` has nothing to reason with, or marks that would end its
    reasoning too early.
    """
    if prompt is None or not trains_reasoning(prompt):
        return
    if needs_reasoning(prompt) and not case.reasoning:
        raise DataError(f"{case.place} has no reasoning, and prompt={prompt.name} {_ASKED_FOR}")
    if closes_reasoning(prompt):
        for what, text in (
            ("question", case.question),
            ("reasoning", case.reasoning),
            ("answer", case.answer),
        ):
            if holds_marks(text):
                raise DataError(
                    f"{case.place}: the {what} holds a <think> mark, by which prompt={prompt.name}"
                    " ends the reasoning"
                )


def _without_reasoning(prompt: str, column: str, name: str) -> DataError:
    return DataError(
        f"prompt={prompt} needs a chain of thought, {column} is null, and no answer of {name} holds"
        " one between <think> and </think>; use prompt=direct dataset.overlong=drop"
    )


def _faulty_rows_error(table: Table, total: int, name: str) -> DataError:
    remedy = "fix or remove them, or set dataset.faulty=drop to leave them out"
    return faulty_rows_error(table.faults, total, name, remedy)


def read_records(path: Path, key: str = "dataset.path") -> list[Record]:
    """Return the records of `path`, by its ending and content; `key` is where it was set, for
    errors.

    Raises: DataError if it is missing, of an unknown kind, or broken (with the lines, where the
        format has lines).
    """
    table = read_table(path, key)
    if table.faults:
        raise faulty_rows_error(
            table.faults, len(table.rows) + len(table.faults), path.name, "fix or remove them"
        )
    return [record for _, record in table.rows]


def _fetch_from_hub(dataset: Source) -> tuple[str, str | None, list[Record]]:
    assert dataset.hub_id is not None
    try:
        commit = hub.find_commit("dataset", dataset.hub_id, dataset.revision)
        table = hub.load_table(dataset.hub_id, dataset.config, commit)
    except hub.HubError as error:
        raise DataError(
            f"dataset {dataset.hub_id} ({dataset.config}, revision {dataset.revision or 'main'})"
            f" could not be downloaded from the Hub: {error}. Set dataset.path=FILE to a local"
            " copy, or HF_TOKEN in .env where it is gated"
        ) from error
    return f"hf://datasets/{dataset.hub_id}/{dataset.config}", commit, table
