"""Cases from a file (JSON array, JSONL, CSV, Parquet) or from the Hub. Refuses anything it cannot name the broken place of."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from math import isnan
from pathlib import Path
from typing import Any

from medexp.config import dataset_sources as parts
from medexp.config.schema import Dataset, Part, Source
from medexp.data.cases import Case, case_of, digest_of
from medexp.errors import DataError, listing
from medexp.system import hub

Record = dict[str, Any]
Row = tuple[int, Record]
LONGEST_CELL = 2**31 - 1  # characters; csv's own limit is 131,072, and larger than this no C long may be on Windows
_OTHER_SEPARATORS = ";\t|"


@dataclass(frozen=True)
class Cases:
    """All cases of a dataset in file order, where they came from, at which commit (Hub only), and a digest of their texts.

    `by_source` holds them source by source, as `config.parts.sources` lists them."""

    cases: tuple[Case, ...]
    origin: str
    commit: str | None
    digest: str
    by_source: tuple[tuple[Case, ...], ...]


def load(dataset: Dataset) -> Cases:
    """The cases of every source of `dataset`: from its `path` where that is set, else from the Hub.

    Raises: DataError naming the file and, where one is broken, the row or line.
    """
    loaded = [_load(source, dataset.held_out + 1) for source in parts.sources(dataset)]
    if len(loaded) == 1:
        return loaded[0]
    commits = [each.commit for each in loaded if each.commit]
    return Cases(
        cases=tuple(case for each in loaded for case in each.cases),
        origin=" + ".join(each.origin for each in loaded),
        commit=" + ".join(commits) or None,
        digest=digest_of(case for each in loaded for case in each.cases),
        by_source=tuple(each.cases for each in loaded),
    )


def _load(source: Part, needed: int) -> Cases:
    if source.path is not None:
        origin, commit, rows = source.path, None, _rows(Path(source.path), "dataset.path")
    else:
        origin, commit, records = _from_hub(source)
        rows = list(enumerate(records, 1))
    if not rows:
        raise DataError(f"{origin} holds no records; dataset={source.name} needs at least {needed}")
    cases = tuple(_cases(rows, source, Path(origin).name))
    return Cases(cases, origin, commit, digest_of(cases), (cases,))


def _cases(rows: Sequence[Row], source: Part, name: str) -> Iterator[Case]:
    is_grouped = any(source.group_by in record for _, record in rows)  # where no record has the column, the split says so
    for number, record in rows:
        place = f"row {number} of {name}"
        yield case_of(record, source.columns, place)
        if is_grouped and source.group_by is not None and _is_blank(record.get(source.group_by)):
            raise DataError(
                f"{place}: {source.group_by!r} is empty, and dataset.group_by={source.group_by} would make one group of all "
                "such records; fill it, or set dataset.group_by=null to split case by case"
            )


def _is_blank(value: object) -> bool:
    """Is there nothing in a cell: null, NaN, or white space alone?"""
    return value is None or (isinstance(value, float) and isnan(value)) or not str(value).strip()


def read_file(path: Path, key: str = "dataset.path") -> list[Record]:
    """The records of `path`, by its ending; `key` is where it was set, for errors.

    Raises: DataError if it is missing, of an unknown kind, or broken (with the line, where the format has lines).
    """
    return [record for _, record in _rows(path, key)]


def _rows(path: Path, key: str) -> list[Row]:
    """The records of `path`, each with the number of its row: of a JSON array or Parquet file its place, of JSONL its line, of CSV
    what a spreadsheet calls it, where the header is row 1 and empty rows count."""
    readers = {".json": _read_json, ".jsonl": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet}
    if not path.is_file():
        raise DataError(f"{key}={path} does not exist; give a JSON, JSONL, CSV or Parquet file")
    if path.suffix.lower() not in readers:
        raise DataError(f"{key}={path} ends in {path.suffix or 'nothing'}; allowed are {listing(readers)}")
    try:
        return readers[path.suffix.lower()](path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error


def _read_json(path: Path) -> list[Row]:
    try:
        records = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not valid JSON: {error.msg} in line {error.lineno}; fix it") from error
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise DataError(f"{path} is JSON but not a dataset: it must hold one array of objects")
    return list(enumerate(records, 1))


def _read_jsonl(path: Path) -> list[Row]:
    rows: list[Row] = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path} line {number} is not valid JSON: {error.msg}; fix or remove the line") from error
        if not isinstance(record, dict):
            raise DataError(f"{path} line {number} is {type(record).__name__}, not an object; fix or remove the line")
        rows.append((number, record))
    return rows


def _read_csv(path: Path) -> list[Row]:
    csv.field_size_limit(LONGEST_CELL)
    text = io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")
    try:
        filled = [(number, cells) for number, cells in enumerate(csv.reader(text, strict=True), 1) if cells]
    except csv.Error as error:
        raise DataError(f"{path} is not valid CSV: {error}; fix it") from error
    if not filled:
        return []
    header = filled[0][1]
    _check_header(header, path)
    return [(number, _record(header, cells, f"row {number} of {path}")) for number, cells in filled[1:]]


def _check_header(header: Sequence[str], path: Path) -> None:
    """Raises: DataError if two columns have one name, or all names are in one column."""
    if twice := [name for name, count in Counter(header).items() if count > 1 and name.strip()]:
        raise DataError(f"{path} has more than one column {twice[0]!r}; rename or remove all but one")
    separator = next((each for each in _OTHER_SEPARATORS if each in header[0]), None)
    if len(header) == 1 and separator is not None:
        raise DataError(f"{path} has cells parted by {separator!r}, as it seems, and not by commas; save it with commas")


def _record(header: Sequence[str], cells: Sequence[str], place: str) -> Record:
    if any(cells[len(header) :]):
        raise DataError(f"{place} has more cells than the header has columns; quote a cell that holds a comma")
    return dict(zip_longest(header, cells[: len(header)]))


def _read_parquet(path: Path) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        return list(enumerate(pyarrow.parquet.read_table(path).to_pylist(), 1))
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is not a Parquet file: {error}") from error


def _from_hub(dataset: Source) -> tuple[str, str | None, list[Record]]:
    assert dataset.hub_id is not None
    try:
        commit = hub.commit_of("dataset", dataset.hub_id, dataset.revision)
        table = hub.load_table(dataset.hub_id, dataset.config, commit)
    except hub.HubError as error:
        raise DataError(
            f"dataset {dataset.hub_id} ({dataset.config}, revision {dataset.revision or 'main'}) could not be downloaded from the "
            f"Hub: {error}. Set dataset.path=FILE to a local copy, or HF_TOKEN in .env where it is gated"
        ) from error
    return f"hf://datasets/{dataset.hub_id}/{dataset.config}", commit, table
