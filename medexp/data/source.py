"""Cases from a file (JSON array, JSONL, CSV, Parquet) or from the Hub. Refuses anything it cannot name the broken place of."""

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medexp import hub
from medexp.config import parts
from medexp.config.schema import Dataset, Source
from medexp.data.records import Case, case_of, digest_of
from medexp.errors import DataError, listing

Record = dict[str, Any]
_BEYOND_THE_HEADER = "\0"  # where csv puts the cells that have no column


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


def _load(source: Source, needed: int) -> Cases:
    if source.path is not None:
        origin, commit, records = source.path, None, read_file(Path(source.path))
    else:
        origin, commit, records = _from_hub(source)
    if not records:
        raise DataError(f"{origin} holds no records; dataset={source.name} needs at least {needed}")
    name = Path(origin).name
    cases = tuple(case_of(record, source.columns, f"row {row} of {name}") for row, record in enumerate(records, 1))
    return Cases(cases, origin, commit, digest_of(cases), (cases,))


def read_file(path: Path, key: str = "dataset.path") -> list[Record]:
    """The records of `path`, by its ending; `key` is where it was set, for errors.

    Raises: DataError if it is missing, of an unknown kind, or broken (with the line, where the format has lines).
    """
    readers = {".json": _read_json, ".jsonl": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet}
    if not path.is_file():
        raise DataError(f"{key}={path} does not exist; give a JSON, JSONL, CSV or Parquet file")
    if path.suffix.lower() not in readers:
        raise DataError(f"{key}={path} ends in {path.suffix or 'nothing'}; allowed are {listing(readers)}")
    try:
        return readers[path.suffix.lower()](path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error


def _read_json(path: Path) -> list[Record]:
    try:
        records = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not valid JSON: {error.msg} in line {error.lineno}; fix it") from error
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise DataError(f"{path} is JSON but not a dataset: it must hold one array of objects")
    return records


def _read_jsonl(path: Path) -> list[Record]:
    records: list[Record] = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path} line {number} is not valid JSON: {error.msg}; fix or remove the line") from error
        if not isinstance(record, dict):
            raise DataError(f"{path} line {number} is {type(record).__name__}, not an object; fix or remove the line")
        records.append(record)
    return records


def _read_csv(path: Path) -> list[Record]:
    text = io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")
    rows: Iterable[Record] = csv.DictReader(text, restkey=_BEYOND_THE_HEADER, strict=True)
    try:
        return [_as_wide_as_the_header(row, f"row {number} of {path}") for number, row in enumerate(rows, 1)]
    except csv.Error as error:
        raise DataError(f"{path} is not valid CSV: {error}; fix it") from error


def _as_wide_as_the_header(row: Record, place: str) -> Record:
    if any(row.pop(_BEYOND_THE_HEADER, ())):
        raise DataError(f"{place} has more cells than the header has columns; quote a cell that holds a comma")
    return row


def _read_parquet(path: Path) -> list[Record]:
    import pyarrow
    import pyarrow.parquet

    try:
        return list(pyarrow.parquet.read_table(path).to_pylist())
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
