"""Questions as they come in: on the command line, where Hydra would take commas and quotes for its own, and on standard input."""

import json
import re
from collections.abc import Sequence

from medexp.errors import DataError

_KEY = "question="


def quoted(words: Sequence[str]) -> list[str]:
    """`words` of a command line with the value of question= in quotes that Hydra reads back letter by letter; one that already
    is in quotes, and null, stay as they are."""
    return [_quoted(word) if word.startswith(_KEY) else word for word in words]


def _quoted(word: str) -> str:
    value = word.removeprefix(_KEY)
    is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    if is_quoted or value in ("", "null"):
        return word
    return f"{_KEY}'{_escaped(value)}'"


def _escaped(value: str) -> str:
    """A quote takes a backslash for Hydra, after doubling those before it (and at the end, where our quote follows); so does `${`
    for OmegaConf, which would take it for a reference."""
    value = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    return re.sub(r"(\\*)('|\Z)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), value)


def questions(text: str) -> list[str]:
    """The questions in `text`, which came through a pipe: all of it is one, unless it begins with `{`; then each line is a JSON
    object with `question`.

    Raises: DataError naming the line that is none.
    """
    if not text.lstrip().startswith("{"):
        return [text.strip()]
    return [_question(line, number) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def _question(line: str, number: int) -> str:
    try:
        found = json.loads(line)["question"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise DataError(
            f'line {number} of standard input is not a JSON object with "question" ({type(error).__name__}: {error}); '
            "write one on each line, or one question in plain text"
        ) from error
    if not isinstance(found, str):
        raise DataError(f'line {number} of standard input: "question" is {type(found).__name__}, and must be text')
    return found.strip()
