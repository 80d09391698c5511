"""Files laid out for other tools (chats, Alpaca): what such a file is, and how its cases are read
all the same.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medexp.config.schema import Columns
from medexp.data.cases import is_blank
from medexp.data.think_marks import THINK_END

Record = Mapping[str, Any]
_TURNS = ("messages", "conversations", "conversation")
# key of a turn's speaker: its text, the words for who asks and who answers, and what the layout is
# called
_CHATS = {
    "role": (
        "content",
        ("user",),
        ("assistant",),
        "a chat of role and content, as OpenAI's API has it",
    ),
    "from": (
        "value",
        ("human", "user"),
        ("gpt", "assistant"),
        "a chat of from and value, as ShareGPT has it",
    ),
}
# For answers without a chain of thought.
_DIRECT = " prompt=direct dataset.overlong=drop"


def suggest_layout(
    records: Sequence[Record], columns: Columns, name: str, file: Path | None
) -> str | None:
    """Return what `name` is and what to type to have its `records` read; None where its layout is
    not known, or where only lines of Python over a local `file` would do and there is none."""
    return _chat(records, columns, name, file) or _alpaca(records, columns, name, file)


def _chat(records: Sequence[Record], columns: Columns, name: str, file: Path | None) -> str | None:
    key = next((column for column in _TURNS if column in records[0]), None)
    turns = records[0][key] if key is not None else None
    if file is None or not isinstance(turns, list) or not turns or not isinstance(turns[0], dict):
        return None
    speaker = next((field for field in _CHATS if field in turns[0]), None)
    if speaker is None:
        return None
    text, asking, answering, what = _CHATS[speaker]
    reasons = any(THINK_END in str(turn.get(text)) for turn in turns if isinstance(turn, dict))
    first = (
        f'first = lambda turns, who: next((turn["{text}"] for turn in turns if turn["{speaker}"] in'
        ' who), "")'
    )
    made = (
        f'{{"{columns.question}": first(r["{key}"], {asking}), "{columns.answer}":'
        f' first(r["{key}"], {answering})}}'
    )
    return (
        f"{name} is {what}, which is not read as it stands. The first question and answer of each"
        " record are read once these three lines are saved as convert.py and run (python"
        f" convert.py), with {_words('cases.json', reasons)}:\n{_script(file, first, made)}"
    )


def _alpaca(
    records: Sequence[Record], columns: Columns, name: str, file: Path | None
) -> str | None:
    if not {"instruction", "output"} <= set(records[0]):
        return None
    reasons = THINK_END in str(records[0]["output"])
    with_input = sum(not is_blank(record.get("input")) for record in records)
    is_one = len({str(record.get("instruction")) for record in records}) == 1
    what = f"{name} is in the Alpaca layout (instruction, input, output)"
    if with_input == 0 or (with_input == len(records) and is_one):
        question = "input" if with_input else "instruction"
        left_out = (
            "; the instruction, the same in every record, is left out: the prompt says what to do"
            if with_input
            else ""
        )
        end = "" if reasons else _DIRECT
        return (
            f"{what}: it is read with dataset.columns.question={question}"
            f" dataset.columns.answer=output dataset.columns.reasoning=null{end}{left_out}"
        )
    if file is None:
        return None
    joined = 'both = lambda r: "\\n\\n".join(filter(None, [r["instruction"], r.get("input")]))'
    made = f'{{"{columns.question}": both(r), "{columns.answer}": r["output"]}}'
    return (
        f"{what}. Instruction and input are read as one question once these three lines are saved"
        " as convert.py and run (python convert.py), with"
        f" {_words('cases.json', reasons)}:\n{_script(file, joined, made)}"
    )


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


def _words(file: str, reasons: bool) -> str:
    return f"dataset.path={file} dataset.columns.reasoning=null" + ("" if reasons else _DIRECT)


def _script(file: Path, helper: str, made: str) -> str:
    return (
        "import json, pathlib; from medexp.data.loading import read_records\n"
        f"{helper}\n"
        f'pathlib.Path("cases.json").write_text(json.dumps([{made} for r in'
        f" read_records(pathlib.Path({str(file)!r}))]))"
    )
