"""Small files of the kinds that other tools write: chats of one and of several turns, Alpaca's
instructions, reasoning in the answer.
"""

import json
from pathlib import Path

SYSTEM = "You are a careful clinician."
OPENAI = {"key": "messages", "speaker": "role", "text": "content"}
SHAREGPT = {"key": "conversations", "speaker": "from", "text": "value"}
_SHAREGPT_NAMES = {"system": "system", "user": "human", "assistant": "gpt"}
RECORDS = 12


def two_turns(number: int, reasons: bool) -> list[tuple[str, str]]:
    """A conversation of two questions under a system text; no two of them are alike."""
    think = "<think>{}</think>" if reasons else ""
    first, second = (think.format(why) for why in (f"Count {number}.", f"Then {number * 7}."))
    return [
        ("system", SYSTEM),
        ("user", f"A gardener of {20 + number} fell on the wrist. What now?"),
        ("assistant", f"{first}Look at the scaphoid {number}, and splint it."),
        ("user", f"And in week {number} of a pregnancy?"),
        ("assistant", f"{second}Image it {number} times, shielded."),
    ]


def write_chat(file: Path, layout: dict[str, str], reasons: bool) -> Path:
    """Write RECORDS conversations to `file`, a JSON array or, by its name, JSON Lines."""
    names = _SHAREGPT_NAMES if layout is SHAREGPT else {}
    records = [
        {
            layout["key"]: [
                {layout["speaker"]: names.get(role, role), layout["text"]: words}
                for role, words in two_turns(number, reasons)
            ]
        }
        for number in range(RECORDS)
    ]
    lines = "\n".join(map(json.dumps, records))
    file.write_text(lines if file.suffix == ".jsonl" else json.dumps(records))
    return file


def write_alpaca(file: Path) -> Path:
    """Write RECORDS instructions with inputs and outputs, the instruction the same in all."""
    records = [
        {
            "instruction": "Answer as a physician.",
            "input": f"A sailor of {40 + number} has had hiccups for {number} days. What now?",
            "output": f"Look for what irritates the phrenic nerve, {number} times.",
        }
        for number in range(RECORDS)
    ]
    file.write_text(json.dumps(records))
    return file


def write_think_in_answer(file: Path) -> Path:
    """Write RECORDS rows whose answers begin with their reasoning."""
    rows = [
        f"A child of {number} has a rash and a fever. What now?,"
        f'"<think>Look {number} times.</think>See whether spots {number} fade."'
        for number in range(RECORDS)
    ]
    file.write_text("\n".join(["question,answer", *rows]))
    return file
