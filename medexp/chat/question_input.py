"""Questions as they come in: on the command line, where Hydra would take commas and quotes for its
own, and on standard input.
"""

import json
from collections.abc import Mapping, Sequence

from medexp.config import command_line
from medexp.errors import DataError, first_line, listing

_KEY = "question="


def quote_question(words: Sequence[str]) -> list[str]:
    """`words` of a command line with the value of question= in quotes that Hydra reads back letter
    by letter; one that already is in quotes, and null, stay as they are."""
    return [_quote_word(word) if word.startswith(_KEY) else word for word in words]


def _quote_word(word: str) -> str:
    value = word.removeprefix(_KEY)
    is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    if is_quoted or value in ("", "null"):
        return word
    return f"{_KEY}{command_line.quoted(value)}"


def decode_input(piped: bytes) -> str:
    """The text that came through a pipe, without a byte order mark.

    Raises: DataError if it is not UTF-8.
    """
    try:
        return piped.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"standard input is not UTF-8 text (byte {error.start}); convert it, as with iconv -t"
            " UTF-8"
        ) from error


def parse_questions(text: str) -> list[str]:
    """The questions in `text`, which came through a pipe: all of it is one, unless it is a JSON
    array of questions, or begins with `{`; then each line is a JSON object with `question`.

    Raises: DataError naming the line or the item that is none.
    """
    text = text.removeprefix("\ufeff")
    if (items := _parse_array(text)) is not None:
        return [_extract_question(item, f"item {number}") for number, item in enumerate(items, 1)]
    if not text.lstrip().startswith("{"):
        return [text.strip()]
    # JSON holds other separators
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    return [
        _extract_question(_parse_object(line, f"line {number}"), f"line {number}")
        for number, line in lines
    ]


def _parse_array(text: str) -> list[object] | None:
    """The items of the JSON array that `text` is; None where it is none: a question in plain text
    may begin with a bracket.

    Raises: DataError if it is empty.
    """
    try:
        found = json.loads(text) if text.lstrip().startswith("[") else None
    except (ValueError, RecursionError):
        return None
    if found == []:
        raise DataError("standard input is an empty JSON array; give at least one question")
    return found


def _parse_object(line: str, place: str) -> object:
    try:
        return json.loads(line)
    except RecursionError as error:
        raise _make_input_error(place, "it is nested too deeply") from error
    except ValueError as error:  # an integer of thousands of digits, too
        raise _make_input_error(place, first_line(error)) from error


def _extract_question(item: object, place: str) -> str:
    if isinstance(item, Mapping) and "question" not in item:
        raise _make_input_error(place, f"it has {listing(map(str, item))}")
    found = item["question"] if isinstance(item, Mapping) else item
    if not isinstance(found, str):
        raise DataError(
            f'{place} of standard input: "question" is {type(found).__name__}, and must be text'
        )
    if any("\ud800" <= character <= "\udfff" for character in found):
        raise DataError(
            f"{place} of standard input holds half a character (a lone UTF-16 surrogate); fix or"
            " remove it"
        )
    return found.strip()


def _make_input_error(place: str, why: str) -> DataError:
    return DataError(
        f'{place} of standard input is no JSON object with "question" ({why}); '
        "write one on each line, or an array of them, or one question in plain text"
    )
