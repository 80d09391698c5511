"""The rows of a file (JSON array, JSON Lines, CSV, Parquet), read by what it holds: encoding,
separator, one array or many lines.

What is guessed is noted; what cannot be read is named by its row or line, all such rows at once.
"""

import codecs
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from medexp.data.cases import is_blank
from medexp.errors import DataError, listing

Record = dict[str, Any]
Row = tuple[int, Record]
# characters; csv's own limit is 131,072, and larger than this no C long may be on Windows
LONGEST_CELL = 2**31 - 1
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
# Rows that must agree with a separator.
LOOKED_AT = 100
# Faulty rows that are named one by one.
NAMED = 10
# Excel's own first line.
_SEP_LINE = re.compile(r"sep=(.)\r?\n")
_LONG_INTEGER = re.compile(r"\d{4301,}")
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Windows-1252 has a character for nearly every byte, so that Chinese, Russian or Polish read as it
# is text, too, but not such as a western language has: accented letters in a row, capitals after
# small letters, signs within a word.
_NOT_WESTERN = re.compile(
    "[À-ÖØ-öø-ÿŒœŠšŽžŸ]{3}|[a-zß-öø-ÿ][À-ÖØ-ÞŒŠŽŸ]|[ÐðÞþ]|"
    r"[^\W\d_][¡¢£¤¥¦§¨©«»¬®¯²³¶¸¹¼½¾¿†‡‰‹›•™€ƒˆ˜‚„“”]+[^\W\d_]"
)


@dataclass
class Table:
    """`rows` of a file with their numbers, `faults` (number, what is wrong there) of those that are
    none, how many were `blank`, and `notes` on how the file was read where its ending does not say
    so."""

    rows: list[Row]
    faults: list[tuple[int, str]] = field(default_factory=list)
    blank: int = 0
    notes: tuple[str, ...] = ()


def read_table(path: Path, key: str) -> Table:
    """Return the rows of `path`, which `key` names, by its ending and content.

    A row's number is that of a JSON array or Parquet file its place, of JSON Lines its line, of CSV
    what a spreadsheet calls it, where the header is row 1 and empty rows count. Rows in which
    nothing stands are counted and left out. The files of a folder are read in the order of their
    names, and their rows numbered through.
    Raises: DataError if the file is missing, of an unknown kind, or broken as a whole.
    """
    readers = {
        ".json": _read_json,
        ".jsonl": _read_json,
        ".csv": _read_csv,
        ".tsv": _read_csv,
        ".parquet": _read_parquet,
    }
    if path.is_dir():
        return _read_shards(path, key, sorted(readers))
    if not path.is_file():
        raise DataError(
            f"{key}={path} does not exist; give a JSON, JSONL, CSV, TSV or Parquet file, or a"
            " folder of them"
        )
    if path.suffix.lower() not in readers:
        remedy = "; save the sheet as CSV" if path.suffix.lower() in _SPREADSHEETS else ""
        raise DataError(
            f"{key}={path} ends in {path.suffix or 'nothing'}; allowed are"
            f" {listing(readers)}{remedy}"
        )
    table = readers[path.suffix.lower()](path)
    filled = [row for row in table.rows if not all(map(is_blank, row[1].values()))]
    table.blank += len(table.rows) - len(filled)
    table.rows = filled
    return table


def _read_shards(folder: Path, key: str, endings: Sequence[str]) -> Table:
    """Return the rows of all files of `folder` that can be read, one after the other.

    Raises: DataError if there is none.
    """
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in endings)
    if not files:
        raise DataError(
            f"{key}={folder} is a folder without a file that ends in {listing(endings)}"
        )
    whole = Table([])
    for file in files:
        shard = read_table(file, key)
        before = len(whole.rows) + len(whole.faults) + whole.blank
        whole.rows += [(before + place, row) for place, (_, row) in enumerate(shard.rows, 1)]
        whole.faults += [(before + number, f"{file.name}: {what}") for number, what in shard.faults]
        whole.blank += shard.blank
        whole.notes += tuple(note for note in shard.notes if note not in whole.notes)
    whole.notes += (f"{folder.name}: {len(files)} files, rows numbered through",)
    return whole


_SPREADSHEETS = (".xlsx", ".xls", ".ods", ".numbers")


def faulty_rows_error(
    faults: Sequence[tuple[int, str]], total: int, name: str, remedy: str
) -> DataError:
    """Return the error that names the first NAMED of `faults`, says how many of `total` rows there
    are, and then `remedy`.
    """
    first = [what for _, what in sorted(faults)[:NAMED]]
    which = f"; the first {NAMED} are named above" if len(faults) > NAMED else ""
    return DataError(
        [*first, f"{len(faults)} of {total} rows of {name} cannot be used{which}: {remedy}"]
    )


def _decode_file(path: Path, or_western: bool = False) -> tuple[str, list[str]]:
    """Return the text of `path` and a note where it is not UTF-8.

    Raises: DataError if no encoding that is tried fits.
    """
    raw = path.read_bytes()
    encoding = _detect_encoding(raw)
    try:
        text = raw.decode(encoding)
        return text, [] if encoding.startswith("utf-8") else [f"{path.name} is {encoding.upper()}"]
    except UnicodeDecodeError as error:
        western = _decode_western(raw) if or_western and encoding == "utf-8" else None
        if western is not None:
            return western, [f"{path.name} is Windows-1252"]
        named = "UTF-8" if encoding.startswith("utf-8") else encoding.upper()
        raise DataError(
            f"{path} is not {named} text (byte {error.start}); save it as UTF-8"
        ) from error


def _detect_encoding(raw: bytes) -> str:
    """Return the encoding that the byte order mark names; without one, UTF-16 where every other
    byte of the beginning is 0, else UTF-8."""
    for mark, encoding in _BOMS:
        if raw.startswith(mark):
            return encoding
    begin = raw[:4]
    if len(begin) == 4 and begin[1] == begin[3] == 0 != begin[0]:
        return "utf-16-le"
    return "utf-16-be" if len(begin) == 4 and begin[0] == begin[2] == 0 != begin[1] else "utf-8"


def _decode_western(raw: bytes) -> str | None:
    """Return `raw` as Windows-1252 where that reads as a western language."""
    try:
        text = raw.decode("cp1252")
    except UnicodeDecodeError:
        return None
    return None if _NOT_WESTERN.search(text) else text


def _parse_json(text: str) -> Any:
    """Return what the JSON `text` holds.

    Raises: json.JSONDecodeError, also for what is valid and still cannot be read.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise json.JSONDecodeError("it is nested too deeply", text, 0) from None
    # Python converts no integer of more than 4,300 digits (sys.set_int_max_str_digits).
    except ValueError as error:
        integer = _LONG_INTEGER.search(text)
        raise json.JSONDecodeError(
            "an integer of over 4,300 digits", text, integer.start() if integer else 0
        ) from error


def _read_json(path: Path) -> Table:
    """Read one array of objects, or one object on each line: what the file holds tells, not its
    ending."""
    text, notes = _decode_file(path)
    is_named_lines = path.suffix.lower() == ".jsonl"
    if is_named_lines and not text.lstrip().startswith("["):
        return _read_json_lines(path, text, notes)
    try:
        found = _parse_json(text)
    except json.JSONDecodeError as error:
        if is_named_lines:
            return _read_json_lines(path, text, notes)
        if _has_object_per_line(text):
            return _read_json_lines(path, text, [*notes, f"{path.name} holds JSON Lines"])
        raise DataError(
            f"{path} is not valid JSON: {error.msg} in line {error.lineno}; fix it"
        ) from error
    if isinstance(found, list) and all(isinstance(record, dict) for record in found):
        said = [f"{path.name} holds one JSON array"] if is_named_lines else []
        return Table(list(enumerate(found, 1)), notes=(*notes, *said))
    if is_named_lines:
        return _read_json_lines(path, text, notes)
    raise DataError(f"{path} is JSON but not a dataset: it must hold one array of objects")


def _has_object_per_line(text: str) -> bool:
    """Return whether the first line is an object of its own."""
    try:
        return isinstance(_parse_json(text.lstrip().partition("\n")[0]), dict)
    except json.JSONDecodeError:
        return False


def _read_json_lines(path: Path, text: str, notes: Sequence[str]) -> Table:
    table = Table([], notes=tuple(notes))
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = _parse_json(line)
        except json.JSONDecodeError as error:
            table.faults.append(
                (number, f"line {number} of {path.name} is not valid JSON: {error.msg}")
            )
            continue
        if isinstance(record, dict):
            table.rows.append((number, record))
        else:
            table.faults.append(
                (number, f"line {number} of {path.name} is {type(record).__name__}, not an object")
            )
    return table


def _read_csv(path: Path) -> Table:
    csv.field_size_limit(LONGEST_CELL)
    text, notes = _decode_file(path, or_western=True)
    named = _SEP_LINE.match(text)
    separator = named[1] if named else _detect_separator(text)
    if separator != ",":
        notes.append(
            f"{path.name} has cells parted by {SEPARATORS.get(separator, repr(separator))}"
        )
    reader = _split_cells(text, separator)
    try:
        filled = [
            (number, cells)
            for number, cells in enumerate(reader, 1)
            if cells and not (named and number == 1)
        ]
    except csv.Error as error:
        raise DataError(
            f"{path} is not valid CSV: {error} in line {reader.line_num}; fix it"
        ) from error
    if not filled:
        return Table([])
    header = filled[0][1]
    if twice := [name for name, count in Counter(header).items() if count > 1 and name.strip()]:
        raise DataError(
            f"{path} has more than one column {twice[0]!r}; rename or remove all but one"
        )
    table, columns = Table([], notes=tuple(notes)), len(header)
    for number, cells in filled[1:]:
        if len(cells) > columns and any(cells[columns:]):
            said = (
                f"row {number} of {path.name} has more cells than the header has columns; quote a"
                " cell that holds a separator"
            )
            table.faults.append((number, said))
        else:
            table.rows.append((number, dict(zip_longest(header, cells[:columns]))))
    return table


def _split_cells(text: str, separator: str) -> Any:
    return csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)


def _detect_separator(text: str) -> str:
    """Return what parts the cells of `text`: of the separators that part its header, the one that
    makes most of it and that the first rows agree with; a comma where none does."""
    header = text.lstrip().partition("\n")[0]
    parts = {
        separator: _parse_header(header, separator)
        for separator in SEPARATORS
        if separator in header
    }
    likely = sorted(
        (separator for separator, count in parts.items() if count > 1),
        key=lambda separator: -parts[separator],
    )
    return next((separator for separator in likely if _fits_header(text, separator)), ",")


def _parse_header(header: str, separator: str) -> int:
    try:
        return len(next(_split_cells(header, separator), ()))
    except csv.Error:
        return 0


def _fits_header(text: str, separator: str) -> bool:
    """Return whether none of the first rows has more cells than the header."""
    try:
        filled = [cells for cells in islice(_split_cells(text, separator), LOOKED_AT) if cells]
    except csv.Error:
        return False
    return not any(any(cells[len(filled[0]) :]) for cells in filled)


def _read_parquet(path: Path) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        return Table(list(enumerate(pyarrow.parquet.read_table(path).to_pylist(), 1)))
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is not a Parquet file: {error}") from error
