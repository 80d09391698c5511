"""Files laid out for other tools: what is said leads to cases that are read, word for word."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from medexp.config.schema import Columns
from medexp.data import loading as data_loading
from medexp.errors import DataError

SYSTEM, ASKED, MORE = "You are careful.", "Ankle twisted, what now?", "And on apixaban?"
SAID, LATER = "<think>Ottawa.</think>X-ray.", "Review tomorrow."


def turns(speaker: str, text: str, roles: tuple[str, str, str]) -> list[dict[str, str]]:
    system, asks, answers = roles
    said = [(system, SYSTEM), (asks, ASKED), (answers, SAID), (asks, MORE), (answers, LATER)]
    return [{speaker: role, text: words} for role, words in said]


CHATS = {
    "sharegpt.json": [
        {"id": 1, "conversations": turns("from", "value", ("system", "human", "gpt"))}
    ],
    "messages.jsonl": [{"messages": turns("role", "content", ("system", "user", "assistant"))}],
    "conversation.json": [
        {"conversation": turns("role", "content", ("system", "user", "assistant"))}
    ],
}


def refusal(dataset, path: Path) -> str:
    with pytest.raises(DataError) as refused:
        data_loading.load_cases(dataset(path=str(path)))
    (said,) = refused.value.problems
    return said


def columns_in(said: str) -> Columns:
    found = dict(re.findall(r"dataset\.columns\.(\w+)=(\S+)", said))
    kept = {"question": "Question", "answer": "Response"} | found
    return Columns(
        kept["question"], None if kept["reasoning"] == "null" else kept["reasoning"], kept["answer"]
    )


def converted(said: str, folder: Path) -> Path:
    """What the three lines of Python in `said` write."""
    script = folder / "convert.py"
    script.write_text("\n".join(said.splitlines()[1:]), encoding="utf-8")
    assert len(script.read_text().splitlines()) == 3
    subprocess.run([sys.executable, str(script)], cwd=folder, check=True)
    return folder / "cases.json"


@pytest.mark.parametrize("name", CHATS)
def test_the_three_lines_make_cases_of_a_chat(dataset, tmp_path, name):
    path = tmp_path / name
    lines = [json.dumps(record) for record in CHATS[name]]
    path.write_text("\n".join(lines) if name.endswith("l") else json.dumps(CHATS[name]))
    said = refusal(dataset, path)
    assert said.startswith(f"{name} is a chat of ")
    assert "prompt=direct" not in said
    made = data_loading.load_cases(
        dataset(path=str(converted(said, tmp_path)), columns=columns_in(said))
    )
    (case,) = made.cases
    assert (case.question, case.reasoning, case.answer) == (ASKED, "Ottawa.", "X-ray.")


@pytest.mark.parametrize(
    ("records", "question"),
    [
        (
            [
                {"instruction": "Answer.", "input": f"q{number}", "output": "a"}
                for number in range(2)
            ],
            "q0",
        ),
        ([{"instruction": f"q{number}", "input": "", "output": "a"} for number in range(2)], "q0"),
        ([{"instruction": f"q{number}", "output": "a"} for number in range(2)], "q0"),
    ],
)
def test_an_alpaca_file_is_read_with_the_columns_that_are_named(
    dataset, tmp_path, records, question
):
    path = tmp_path / "alpaca.json"
    path.write_text(json.dumps(records))
    said = refusal(dataset, path)
    assert "prompt=direct dataset.overlong=drop" in said
    cases = data_loading.load_cases(dataset(path=str(path), columns=columns_in(said))).cases
    assert (len(cases), cases[0].question, cases[0].answer) == (2, question, "a")


def test_alpaca_instructions_that_differ_are_joined_with_their_inputs(dataset, tmp_path):
    path = tmp_path / "alpaca.json"
    path.write_text(
        json.dumps(
            [
                {"instruction": "Why?", "input": "q", "output": "a"},
                {"instruction": "How?", "input": "", "output": "b"},
            ]
        )
    )
    said = refusal(dataset, path)
    cases = data_loading.load_cases(
        dataset(path=str(converted(said, tmp_path)), columns=columns_in(said))
    ).cases
    assert [case.question for case in cases] == ["Why?\n\nq", "How?"]
