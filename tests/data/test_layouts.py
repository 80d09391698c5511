"""Files laid out for other tools: chats and instructions are read as they stand."""

import json
from pathlib import Path

import pytest

from medexp.config.schema import Format, Turns
from medexp.data import loading as data_loading
from medexp.data.split import name_groups, split_cases
from medexp.errors import DataError

SYSTEM, ASKED, MORE = "You are careful.", "Ankle twisted, what now?", "And on apixaban?"
SAID, LATER = "<think>Ottawa.</think>X-ray.", "<think>Blood.</think>Review tomorrow."
OPENAI, SHAREGPT = ("role", "content"), ("from", "value")


def conversation(keys: tuple[str, str], roles: tuple[str, str, str]) -> list[dict[str, str]]:
    speaker, text = keys
    system, asks, answers = roles
    said = [(system, SYSTEM), (asks, ASKED), (answers, SAID), (asks, MORE), (answers, LATER)]
    return [{speaker: role, text: words} for role, words in said]


CHATS = {
    "sharegpt.json": [
        {"id": 1, "conversations": conversation(SHAREGPT, ("system", "human", "gpt"))}
    ],
    "messages.jsonl": [{"messages": conversation(OPENAI, ("system", "user", "assistant"))}],
    "conversation.json": [{"conversation": conversation(OPENAI, ("developer", "user", "model"))}],
    "parts.json": [
        {
            "messages": [
                {"role": turn["role"], "content": [{"type": "text", "text": turn["content"]}]}
                for turn in conversation(OPENAI, ("system", "user", "assistant"))
            ]
        }
    ],
}


def write(folder: Path, name: str, records: list[dict]) -> Path:
    path = folder / name
    lines = [json.dumps(record) for record in records]
    path.write_text("\n".join(lines) if name.endswith("l") else json.dumps(records))
    return path


def load(dataset, path: Path, **settings) -> data_loading.Cases:
    return data_loading.load_cases(dataset(path=str(path), **settings))


@pytest.mark.parametrize("name", CHATS)
def test_the_last_answer_of_a_chat_is_a_case_with_all_that_was_said_before(dataset, tmp_path, name):
    read = load(dataset, write(tmp_path, name, CHATS[name]))
    (case,) = read.cases
    assert case.question == f"{SYSTEM}\n\nUser: {ASKED}\n\nAssistant: X-ray.\n\nUser: {MORE}"
    assert (case.reasoning, case.answer) == ("Blood.", "Review tomorrow.")
    assert read.reading.notes[0].startswith(f"{name} is a chat of ")
    assert read.reading.notes[0].endswith("1 answers of 1 records")


@pytest.mark.parametrize("name", CHATS)
def test_every_answer_of_a_chat_is_a_case_where_all_turns_are_learnt(dataset, tmp_path, name):
    first, second = load(dataset, write(tmp_path, name, CHATS[name]), turns=Turns.all).cases
    assert first.question == f"{SYSTEM}\n\n{ASKED}"
    assert (first.reasoning, first.answer) == ("Ottawa.", "X-ray.")
    assert second.answer == "Review tomorrow."


def test_a_case_of_a_chat_keeps_its_turns(dataset, tmp_path):
    for name, records in CHATS.items():
        first, second = load(dataset, write(tmp_path, name, records), turns=Turns.all).cases
        assert first.turns == (("system", SYSTEM), ("user", ASKED))
        assert second.turns == (*first.turns, ("assistant", "X-ray."), ("user", MORE))
        assert second.asked == second.turns
        assert "turns_of_conversation" not in second.extra


def test_turns_are_merged_as_templates_take_them(dataset, tmp_path):
    said = [("user", "a"), ("system", "s"), ("user", "b"), ("assistant", "c"), ("assistant", "d")]
    said += [("system", "t"), ("user", "e"), ("assistant", "f")]
    record = {"messages": [{"role": role, "content": words} for role, words in said]}
    (case,) = load(dataset, write(tmp_path, "chat.json", [record])).cases
    assert case.turns == (
        *(("system", "s\n\nt"), ("user", "a\n\nb"), ("assistant", "c\n\nd"), ("user", "e")),
    )


def test_an_instruction_that_all_records_share_is_the_system_text(dataset, tmp_path):
    records = [
        {"instruction": "Be a physician.", "input": f"Case {number}?", "output": "Rest."}
        for number in range(2)
    ]
    cases = load(dataset, write(tmp_path, "alpaca.json", records)).cases
    assert cases[0].question == "Case 0?"
    assert cases[0].turns == (("system", "Be a physician."), ("user", "Case 0?"))
    records[1]["instruction"] = "Be a nurse."
    cases = load(dataset, write(tmp_path, "alpaca.json", records)).cases
    assert cases[1].turns == (("user", "Be a nurse.\n\nCase 1?"),)
    assert cases[1].question == "Be a nurse.\n\nCase 1?"


def test_a_question_alone_is_one_turn_of_the_user(dataset, tmp_path):
    record = {"Question": "Why?", "Complex_CoT": "Hm.", "Response": "So."}
    (case,) = load(dataset, write(tmp_path, "plain.json", [record])).cases
    assert (case.turns, case.asked) == ((), (("user", "Why?"),))


def test_a_conversation_is_never_parted(dataset, tmp_path):
    said = [
        {"messages": [{"role": role, "content": f"{role} {number} {turn}"}
                      for turn in "ab" for role in ("user", "assistant")]}
        for number in range(10)
    ]  # fmt: skip
    settings = {"turns": Turns.all, "held_out": 3}
    made = dataset(path=str(write(tmp_path, "chat.json", said)), **settings)
    cases = data_loading.load_cases(made).cases
    split = split_cases(cases, made)
    assert len(cases) == 20
    assert len(split.held_out) == 4
    assert len(set(name_groups(split.held_out, []))) == 2
    assert not {name_groups([case], [])[0] for case in split.train} & set(
        name_groups(split.held_out, [])
    )


def test_columns_of_a_chat_are_kept(dataset, tmp_path):
    record = CHATS["messages.jsonl"][0] | {"patient": "p1", "must_say": ["X-ray"]}
    (case,) = load(dataset, write(tmp_path, "chat.json", [record]), group_by="patient").cases
    assert (case.extra["patient"], case.extra["must_say"]) == ("p1", "X-ray")


@pytest.mark.parametrize(
    ("turns", "said"),
    [
        ([{"role": "user", "content": "q"}], "holds no answer of an assistant to a user"),
        ([{"role": "assistant", "content": "a"}], "holds no answer of an assistant to a user"),
        (
            [{"role": "user", "content": "q"}, {"role": "doctor", "content": "a"}],
            "a turn of 'doctor'",
        ),
        ([{"role": "user"}], "holds a turn without role or content"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "no text (image_url)"),
        ("no turns", "holds no list of turns"),
    ],
)
def test_a_conversation_that_cannot_be_read_is_named_by_its_row(dataset, tmp_path, turns, said):
    records = [*CHATS["messages.jsonl"], {"messages": turns}]
    with pytest.raises(DataError) as refused:
        load(dataset, write(tmp_path, "chat.json", records))
    assert refused.value.problems[0].startswith("row 2 of chat.json ")
    assert said in refused.value.problems[0]


def alpaca(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"instruction": asked, "input": given, "output": "a"} for asked, given in pairs]


@pytest.mark.parametrize(
    ("records", "questions"),
    [
        (alpaca(("Answer.", "q0"), ("Answer.", "q1")), ["q0", "q1"]),
        (alpaca(("q0", ""), ("q1", "")), ["q0", "q1"]),
        (alpaca(("Why?", "q"), ("How?", "")), ["Why?\n\nq", "How?"]),
        ([{"instruction": "q0", "output": "a", "system": "Be brief."}], ["Be brief.\n\nq0"]),
    ],
)
def test_an_alpaca_file_is_read(dataset, tmp_path, records, questions):
    read = load(dataset, write(tmp_path, "alpaca.json", records))
    assert [case.question for case in read.cases] == questions
    assert all(case.answer == "a" for case in read.cases)
    assert "Alpaca layout" in read.reading.notes[0]


def test_a_layout_may_be_said_by_hand_and_must_then_be_there(dataset, tmp_path):
    path = write(tmp_path, "cases.json", [{"Question": "q", "Complex_CoT": "r", "Response": "a"}])
    assert load(dataset, path, format=Format.cases).cases[0].question == "q"
    with pytest.raises(DataError, match="not laid out as dataset"):
        load(dataset, path, format=Format.chat)
    both = [{"Question": "q", "Response": "a", "messages": CHATS["messages.jsonl"][0]["messages"]}]
    path = write(tmp_path, "both.json", both)
    assert load(dataset, path, format=Format.chat).cases[0].answer == "Review tomorrow."


def test_the_files_of_a_folder_are_read_one_after_the_other(dataset, tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    row = {"Question": "q", "Complex_CoT": "r", "Response": "a"}
    write(folder, "2.jsonl", [row | {"Question": "third"}])
    write(folder, "1.json", [row | {"Question": "first"}, row | {"Question": "second"}])
    (folder / "README.md").write_text("no cases")
    read = load(dataset, folder)
    assert [case.question for case in read.cases] == ["first", "second", "third"]
    assert [case.place for case in read.cases] == [f"row {at} of shards" for at in (1, 2, 3)]
    write(folder, "3.json", [row, {"Question": "q4"}])
    with pytest.raises(DataError, match="row 5 of shards"):
        load(dataset, folder)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="a folder without a file that ends in"):
        load(dataset, empty)
