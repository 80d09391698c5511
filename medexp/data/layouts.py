"""Files laid out for other tools, read as they stand: chats (OpenAI's messages, ShareGPT) and
Alpaca's instructions.

A conversation becomes cases: an answer of the assistant and, as its question, all that was said
before it. `dataset.turns` says whether the last answer of each is a case, or every one. What is
asked at once stands alone; of a longer conversation every turn is written with its speaker. The
reasoning of earlier answers is left out, as reasoning models are asked without it. A system text
stands first. The turns are kept beside that text, for a prompt whose template writes conversations.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from medexp.config.schema import Columns, Format, Turns
from medexp.data.cases import CONVERSATION, TURNS, Turn, is_blank
from medexp.data.tables import Table
from medexp.data.think_marks import THINK_END, split_reasoning
from medexp.errors import DataError

Record = Mapping[str, Any]
_CONVERSATIONS = ("messages", "conversations", "conversation")
# The keys of a turn's speaker and of its text, and what the layout is called.
_CHATS = {
    "role": ("content", "a chat of role and content, as OpenAI's API has it"),
    "from": ("value", "a chat of from and value, as ShareGPT has it"),
}
_SPEAKERS = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
}
_WRITTEN = {"user": "User", "assistant": "Assistant"}
# For answers without a chain of thought.
_DIRECT = " prompt=direct dataset.overlong=drop"


@dataclass(frozen=True)
class Layout:
    """What a file is laid out as, and how a record of it is read: as records with the columns of
    a case, as many as it holds.
    """

    what: str
    convert: Callable[[Record], Iterator[dict[str, Any]]]


def find_layout(
    records: Sequence[Record], columns: Columns, wanted: Format, turns: Turns
) -> Layout | None:
    """Return how `records` are laid out for another tool; None where they are cases already, or
    nothing that is known.

    What is `wanted` is taken at its word; Format.auto looks for it.
    """
    if wanted is Format.cases or not records:
        return None
    has_columns = any(columns.question in record and columns.answer in record for record in records)
    if wanted is Format.auto and has_columns:
        return None
    if wanted in (Format.auto, Format.chat) and (chat := _find_chat(records, columns, turns)):
        return chat
    is_alpaca = {"instruction", "output"} <= set(records[0])
    if wanted in (Format.auto, Format.alpaca) and is_alpaca:
        return _describe_alpaca(records, columns)
    return None


def convert_table(table: Table, layout: Layout, name: str) -> Table:
    """Return the cases of `table`, which is laid out as `layout` says, each with the number of the
    row that it comes from; a row without any is a fault.
    """
    rows, faults = [], list(table.faults)
    conversations = 0
    for number, record in table.rows:
        try:
            made = list(layout.convert(record))
        except DataError as error:
            faults.append((number, f"row {number} of {name} {error}"))
            continue
        conversations += 1
        rows += [(number, case | {CONVERSATION: str(number)}) for case in made]
    note = f"{name} is {layout.what}: {len(rows)} answers of {conversations} records"
    return replace(table, rows=rows, faults=faults, notes=(*table.notes, note))


def _find_chat(records: Sequence[Record], columns: Columns, turns: Turns) -> Layout | None:
    key = next((name for name in _CONVERSATIONS if name in records[0]), None)
    said = records[0][key] if key is not None else None
    if key is None or not isinstance(said, list) or not said or not isinstance(said[0], Mapping):
        return None
    speaker = next((name for name in _CHATS if name in said[0]), None)
    if speaker is None:
        return None
    text, what = _CHATS[speaker]

    def convert(record: Record) -> Iterator[dict[str, Any]]:
        spoken = _read_turns(record.get(key), speaker, text)
        answered = [place for place, (who, _) in enumerate(spoken) if who == "assistant"]
        answered = [place for place in answered if _is_asked(spoken[:place])]
        if not answered:
            raise DataError("holds no answer of an assistant to a user")
        further = {name: value for name, value in record.items() if name != key}
        for place in answered if turns is Turns.all else answered[-1:]:
            yield further | {
                columns.question: _write_history(spoken[:place]),
                TURNS: _take_turns(spoken[:place]),
                columns.answer: spoken[place][1],
            }

    return Layout(what, convert)


def _read_turns(said: Any, speaker: str, text: str) -> list[tuple[str, str]]:
    """Return who says what, turn by turn; empty ones are left out.

    Raises: DataError where a turn is none.
    """
    if not isinstance(said, list):
        raise DataError("holds no list of turns")
    spoken = []
    for turn in said:
        if not isinstance(turn, Mapping) or speaker not in turn or text not in turn:
            raise DataError(f"holds a turn without {speaker} or {text}")
        who = _SPEAKERS.get(str(turn[speaker]).strip().casefold())
        if who is None:
            raise DataError(
                f"holds a turn of {turn[speaker]!r}; known are {', '.join(sorted(_SPEAKERS))}"
            )
        words = _join_content(turn[text])
        if words:
            spoken.append((who, words))
    return spoken


def _join_content(content: Any) -> str:
    """Return the text of a turn; OpenAI's list of parts is joined, and may hold text alone."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content.strip()
    if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        if other := next((part for part in content if part.get("type") != "text"), None):
            raise DataError(f"holds a part that is no text ({other.get('type')})")
        return "\n".join(str(part.get("text", "")).strip() for part in content)
    raise DataError(f"holds a turn that is {type(content).__name__}, not text")


def _is_asked(before: Sequence[tuple[str, str]]) -> bool:
    return any(who == "user" for who, _ in before)


def _write_history(before: Sequence[tuple[str, str]]) -> str:
    """Return what was said before an answer as the question of a case."""
    system = [words for who, words in before if who == "system"]
    talk = [(who, words) for who, words in before if who != "system"]
    if len(talk) == 1:
        return "\n\n".join([*system, talk[0][1]])
    written = [f"{_WRITTEN[who]}: {_leave_reasoning_out(words)}" for who, words in talk]
    return "\n\n".join([*system, *written])


def _take_turns(before: Sequence[tuple[str, str]]) -> tuple[Turn, ...]:
    """Return what was said before an answer as templates take it: all system text first, then user
    and assistant by turns. What one of them says twice in a row is one turn.
    """
    system = [words for who, words in before if who == "system"]
    turns = [Turn("system", "\n\n".join(system))] if system else []
    for who, words in before:
        if who == "system":
            continue
        said = _leave_reasoning_out(words)
        if turns and turns[-1].role == who:
            said = f"{turns.pop().text}\n\n{said}"
        turns.append(Turn(who, said))
    return tuple(turns)


def _leave_reasoning_out(words: str) -> str:
    parts = split_reasoning(words)
    return parts[1] if parts is not None else words


def _describe_alpaca(records: Sequence[Record], columns: Columns) -> Layout:
    instructions = {str(record.get("instruction")) for record in records}
    # The same in every record, it says what the prompt says, and what is asked is the input. A chat
    # template says nothing of the kind, and has it as the system text.
    is_left_out = len(instructions) == 1 and not any(
        is_blank(record.get("input")) for record in records
    )

    def convert(record: Record) -> Iterator[dict[str, Any]]:
        said = {
            name: str(record[name]).strip()
            for name in ("system", "instruction", "input")
            if not is_blank(record.get(name))
        }
        instruction = "instruction" if is_left_out else ""
        of_system = ("system", instruction)
        spoken = [("system" if name in of_system else "user", text) for name, text in said.items()]
        question = [text for name, text in said.items() if name != instruction]
        further = {
            name: value
            for name, value in record.items()
            if name not in ("system", "instruction", "input", "output")
        }
        yield further | {
            columns.question: "\n\n".join(question),
            TURNS: _take_turns(spoken),
            columns.answer: record["output"],
        }

    left_out = "; the instruction, the same in every record, is left out, save by prompt=chat"
    note = left_out if is_left_out else ""
    return Layout(f"in the Alpaca layout (instruction, input, output{note})", convert)


_NAMES = {  # of columns in files made by others
    "question": ("question", "query", "input", "instruction", "prompt", "vignette", "case"),
    "reasoning": (
        "complex_cot",
        "reasoning",
        "cot",
        "rationale",
        "explanation",
        "thinking",
        "thought",
    ),
    "answer": ("response", "answer", "output", "completion", "target"),
}


def guess_column_overrides(record: Record) -> str | None:
    """Return what names the columns of `record` by words that are often used for them; None where
    question or answer have none.
    """
    known = {str(name).strip().casefold(): str(name) for name in record}
    found = {
        part: next((known[name] for name in names if name in known), None)
        for part, names in _NAMES.items()
    }
    if found["question"] is None or found["answer"] is None:
        return None
    has_reasoning = found["reasoning"] is not None or THINK_END in str(record[found["answer"]])
    words = [f"dataset.columns.{part}={name or 'null'}" for part, name in found.items()]
    quoted = [f"'{word}'" if " " in word else word for word in words]
    return " ".join(quoted) + ("" if has_reasoning else _DIRECT)
