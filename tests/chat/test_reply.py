"""A growing answer in parts: what is shown as done changes no more, and nothing is lost."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medexp.chat.reply import (
    Reply,
    describe_end,
    format_document,
    format_markdown,
    format_plain_text,
    make_json_object,
    make_turns,
    split_sections,
)

TEXT = """The eye is red.
It may be viral.
</think>

## Symptoms
- Red, gritty eyes
- No pain
**Causes:**
- A virus
3. Precautions
- Wash hands
Red Flags
- Pain"""
PIECES = [
    "<think>",
    "</think>",
    "\n",
    "## Symptoms",
    "Red Flags",
    "- a",
    "word ",
    "</th",
    "\ufffd",
    "é",
    " ",
]


def reply(text: str, **changes: object) -> Reply:
    fields = {"expects_reasoning": True, "is_complete": True, "ended_by_model": True} | changes
    return Reply("Why red?", False, text, 7, 1.25, **fields)  # type: ignore[arg-type]


def test_the_parts_of_a_whole_answer() -> None:
    found = split_sections(reply(TEXT))
    assert [(section.is_reasoning, section.heading) for section in found] == [
        (True, ""), (True, ""), (False, "Symptoms"), (False, "Causes"), (False, "Precautions"),
        (False, "Red Flags"),
    ]  # fmt: skip
    assert found[2].markdown == "## Symptoms\n\n- Red, gritty eyes\n- No pain"
    assert reply(TEXT).reasoning == "The eye is red.\nIt may be viral."
    assert reply(TEXT).answer.startswith("## Symptoms")
    assert "</think>" not in format_markdown(reply(TEXT)) + format_plain_text(
        reply(TEXT), with_reasoning=True
    )


@pytest.mark.parametrize("cut", range(1, len(TEXT)))
def test_while_it_grows_only_the_last_part_changes(cut: int) -> None:
    before, after = (split_sections(reply(TEXT[:end], is_complete=False)) for end in (cut, cut + 1))
    assert after[: len(before) - 1] == before[:-1]
    final = split_sections(reply(TEXT))
    assert final[: len(before) - 1] == before[:-1]


@given(st.lists(st.sampled_from(PIECES), max_size=12))
def test_plain_text_only_grows_at_its_end(pieces: list[str]) -> None:
    # one end of the reasoning at most
    text = "".join(pieces).replace("</think>", "", "".join(pieces).count("</think>") - 1)
    shown = [
        format_plain_text(reply(text[:end].strip(), is_complete=False), with_reasoning=True)
        for end in range(len(text) + 1)
    ]
    for earlier, later in pairwise(shown):
        assert later.startswith(earlier)


def test_half_an_end_of_the_reasoning_is_not_shown() -> None:
    for cut in range(1, len("</think>")):
        assert reply("so" + "</think>"[:cut], is_complete=False).reasoning == "so"
    assert reply("caf\ufffd", is_complete=False, expects_reasoning=False).answer == "caf"


def test_reasoning_without_an_end_is_the_answer_once_nothing_more_comes() -> None:
    assert (
        reply("Rest.", is_complete=False).reasoning,
        reply("Rest.", is_complete=False).answer,
    ) == (
        "Rest.",
        "",
    )
    assert (reply("Rest.").reasoning, reply("Rest.").answer) == ("", "Rest.")
    assert "never ended" in describe_end(reply("Rest.", ended_by_model=False), 400)
    assert "cut off by ask.max_new_tokens=400" in describe_end(
        reply("Rest.", ended_by_model=False), 400
    )


def test_without_an_end_of_the_reasoning_the_answer_begins_with_the_first_heading() -> None:
    found = reply("Red eye.\n\n## Symptoms\n- Gritty\n")
    assert (found.reasoning, found.answer.rstrip()) == ("Red eye.", "## Symptoms\n- Gritty")
    assert not found.is_reasoning_closed
    assert reply("Red eye.\n## Symptoms\n- Gritty", is_complete=False).answer == ""
    assert reply("Red eye.\n## Symptoms\n- Gritty", expects_reasoning=False).reasoning == ""


def test_without_reasoning_only_the_answer_is_plain_text() -> None:
    assert format_plain_text(reply(TEXT), with_reasoning=False) == reply(TEXT).answer
    assert format_plain_text(reply(TEXT[:30], is_complete=False), with_reasoning=False) == ""


def test_the_json_of_a_reply() -> None:
    found = make_json_object(reply(TEXT), "id", "tiny")
    assert found["sections"] == {
        "symptoms": ["Red, gritty eyes", "No pain"], "causes": ["A virus"],
        "precautions": ["Wash hands"], "red flags": ["Pain"],
    }  # fmt: skip
    assert (found["run"], found["model"], found["tokens"], found["seconds"], found["ended"]) == (
        "id",
        "tiny",
        7,
        1.25,
        True,
    )
    assert found["reasoning_closed"] is True
    assert str(found["notice"]).startswith("Not for clinical use")


def test_a_document_holds_questions_and_replies() -> None:
    page = format_document("Said", [[reply("Base says."), reply(TEXT)]])
    assert "> Why red?" in page
    assert page.index("Base says.") < page.index("## Symptoms")
    assert "<summary>Reasoning</summary>\n\nThe eye is red." in page
    assert "Not for clinical use" in page


def test_a_model_may_open_its_reasoning_itself() -> None:
    whole = "<think>\nRed eye.\n</think>\n\nRest."
    for end in range(1, len(whole)):
        grown = reply(whole[:end].strip(), is_complete=False, expects_reasoning=False)
        assert "Red eye.".startswith(grown.reasoning), whole[:end]
        assert "Rest.".startswith(grown.answer), whole[:end]
    found = reply(whole, expects_reasoning=False)
    assert (found.reasoning, found.answer) == ("Red eye.", "Rest.")
    assert "never ended" not in describe_end(found, 400)
    assert "never ended" in describe_end(reply("<think>\nRed", expects_reasoning=False), 400)
    assert make_turns(found) == [("user", found.question), ("assistant", "Rest.")]
    assert make_turns(reply("<think>\n</think>", expects_reasoning=False)) == []
