"""Questions as they come in: on the command line, where Hydra would read commas and quotes as its
own syntax, and on standard input.
"""

import json
from collections.abc import Mapping, Sequence

from medexp.config import command_line
from medexp.errors import DataError, first_line, listing

_KEY = "question="


def quote_question(words: Sequence[str]) -> list[str]:
    """Return the `words` of a command line with the value of question= in quotes.

    Hydra then reads it back letter by letter. A value that is in quotes already stays, as does
    null.
    """
    return [_quote_word(word) if word.startswith(_KEY) else word for word in words]


def _quote_word(word: str) -> str:
    value = word.removeprefix(_KEY)
    is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    if is_quoted or value in ("", "null"):
        return word
    return f"{_KEY}{command_line.quote(value)}"


def decode_input(piped: bytes) -> str:
    """Return the text that came through a pipe, without a byte order mark.

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
    """Return the questions in `text`, which came through a pipe.

    Plain text is one question. A JSON array holds a question in each item; a text that begins with
    `{` holds one in each line. An object has it under "question".

    Raises: DataError naming the line or the item that is no question.
    """
    text = text.removeprefix("\ufeff")
    if (items := _parse_array(text)) is not None:
        return [_extract_question(item, f"item {number}") for number, item in enumerate(items, 1)]
    if not text.lstrip().startswith("{"):
        return [text.strip()]
    # `splitlines` would also split at separators that JSON allows inside a text.
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    return [
        _extract_question(_parse_object(line, f"line {number}"), f"line {number}")
        for number, line in lines
    ]


def _parse_array(text: str) -> list[object] | None:
    """Return the items of the JSON array that `text` is, None where it is no array.

    A question in plain text may begin with a bracket, so text that is no valid JSON is no error.

    Raises: DataError if the array is empty.
    """
    if not text.lstrip().startswith("["):
        return None
    try:
        items: list[object] = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not items:
        raise DataError("standard input is an empty JSON array; give at least one question")
    return items


def _parse_object(line: str, place: str) -> object:
    try:
        return json.loads(line)
    except RecursionError as error:
        raise _make_input_error(place, "it is nested too deeply") from error
    # Not only JSONDecodeError: an integer of thousands of digits is a ValueError.
    except ValueError as error:
        raise _make_input_error(place, first_line(error)) from error


def _extract_question(item: object, place: str) -> str:
    if isinstance(item, Mapping) and "question" not in item:
        raise _make_input_error(place, f"it has {listing(map(str, item))}")
    question = item["question"] if isinstance(item, Mapping) else item
    if not isinstance(question, str):
        raise DataError(
            f'{place} of standard input: "question" is {type(question).__name__}, and must be text'
        )
    if any("\ud800" <= character <= "\udfff" for character in question):
        raise DataError(
            f"{place} of standard input holds half a character (a lone UTF-16 surrogate); fix or"
            " remove it"
        )
    return question.strip()


def _make_input_error(place: str, why: str) -> DataError:
    return DataError(
        f'{place} of standard input is no JSON object with "question" ({why}); '
        "write one on each line, or an array of them, or one question in plain text"
    )
