"""What a terminal and a pipe are sent, read back through a real console."""

import io
import re
from contextlib import nullcontext
from dataclasses import replace

import pytest
from rich.console import Console
from rich.text import Text

from medexp.chat.rendering import LiveRenderer, PlainRenderer, Tail, make_comparison_table
from medexp.chat.reply import Reply
from medexp.reports.summary import NOT_FOR_CLINICAL_USE
from medexp.system.console import SafeConsole

TEXT = (
    "It is red.\nPerhaps viral.\n</think>\n\n## Symptoms\n- Gritty eyes\n- No pain\n## Red Flags\n-"
    " Pain"
)
CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def grown(text: str, is_complete: bool = False, expects_reasoning: bool = True) -> Reply:
    return Reply(
        "Why?",
        False,
        text,
        len(text),
        1.0,
        expects_reasoning=expects_reasoning,
        is_complete=is_complete,
        ended_by_model=is_complete,
    )


def on_a_terminal(text: str, with_reasoning: bool = True, expects_reasoning: bool = True) -> str:
    """Return what stays on a terminal of 60 x 12 once `text` has come, a character at a time."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=60, height=12, legacy_windows=False)
    with LiveRenderer(console, with_reasoning) as renderer:
        for end in range(1, len(text)):
            renderer.update(grown(text[:end], expects_reasoning=expects_reasoning))
        renderer.finish(grown(text, is_complete=True, expects_reasoning=expects_reasoning), 400)
    return stream.getvalue()


def lasting(output: str) -> list[str]:
    """The lines left once every erasure and cursor movement is carried out: what a person sees in
    the end.
    """
    lines, row, column = [""], 0, 0
    for code, text in re.findall(r"(\x1b\[[0-9;?]*[A-Za-z])|([^\x1b])", output):
        if code:
            count = int(re.sub(r"\D", "", code) or 1)
            if code.endswith("A"):
                row = max(0, row - count)
            elif code.endswith("K"):
                lines[row], column = "", 0
            continue
        if text == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif text == "\r":
            column = 0
        else:
            lines[row] = lines[row][:column].ljust(column) + text + lines[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]


def test_sections_are_headed_and_reasoning_is_dimmed() -> None:
    output = on_a_terminal(TEXT)
    assert "\x1b[2mIt is red.\x1b[0m" in output
    seen = [line for line in lasting(output) if line]
    assert seen == [
        "It is red.", "Perhaps viral.", "Symptoms", " • Gritty eyes", " • No pain", "Red Flags",
        " • Pain", f"{len(TEXT)} tokens in 1.0 s, ended by itself", *_wrapped(NOT_FOR_CLINICAL_USE),
    ]  # fmt: skip


def _wrapped(text: str) -> list[str]:
    return [line.plain.rstrip() for line in Text(text).wrap(Console(width=60), 60)]


def test_hidden_reasoning_is_not_on_the_screen() -> None:
    seen = lasting(on_a_terminal(TEXT, with_reasoning=False))
    assert not any("viral" in line for line in seen)
    assert "Symptoms" in seen


def test_reasoning_without_an_end_stands_there_once() -> None:
    shown = lasting(on_a_terminal("It is red.\nPerhaps viral."))
    hidden = lasting(on_a_terminal("It is red.\nPerhaps viral.", with_reasoning=False))
    assert [shown.count("It is red."), shown.count("Perhaps viral.")] == [1, 1]
    assert "".join(hidden).count("It is red.") == 1
    assert "never ended" in " ".join(shown)


def test_sections_without_an_end_of_the_reasoning_are_headed_in_the_end() -> None:
    text = "It is red.\n\n## Symptoms\n- Gritty eyes\n## Causes\n- A virus"
    shown, hidden = lasting(on_a_terminal(text)), lasting(on_a_terminal(text, with_reasoning=False))
    assert shown.count("It is red.") == shown.count("Symptoms") == shown.count(" • A virus") == 1
    assert "It is red." not in hidden
    assert hidden.count("Causes") == 1
    stream = io.StringIO()
    renderer = PlainRenderer(stream, with_reasoning=True)
    renderer.update(grown(text[:20]))
    renderer.finish(grown(text, is_complete=True), 400)
    assert stream.getvalue().startswith(
        f"Reasoning:\n{text}\n\nAnswer:\n## Symptoms\n- Gritty eyes\n## Causes\n- A virus\n\n["
    )


def test_a_second_end_of_the_reasoning_loses_nothing() -> None:
    seen = lasting(on_a_terminal("One.\n</think>\nTwo.\n</think>\nThree."))
    assert {"One.", "Two.", "Three."} <= set(seen)


def test_no_more_is_drawn_than_the_terminal_is_high() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=40, height=10)
    console.print(Tail(Text("\n".join(f"line {number}" for number in range(50)))))
    assert CODES.sub("", stream.getvalue()).split("\n")[:-1] == [
        f"line {number}" for number in range(42, 50)
    ]


@pytest.mark.parametrize("with_reasoning", [True, False])
def test_a_pipe_gets_the_text_alone_as_it_comes(with_reasoning: bool) -> None:
    stream = io.StringIO()
    renderer = PlainRenderer(stream, with_reasoning)
    seen = []
    for end in range(1, len(TEXT)):
        renderer.update(grown(TEXT[:end]))
        seen.append(stream.getvalue())
    renderer.finish(grown(TEXT, is_complete=True), 400)
    answer = "## Symptoms\n- Gritty eyes\n- No pain\n## Red Flags\n- Pain"
    end = f"\n\n[{len(TEXT)} tokens in 1.0 s, ended by itself]\n{NOT_FOR_CLINICAL_USE}\n"
    reasoning = "Reasoning:\nIt is red.\nPerhaps viral.\n\nAnswer:\n" if with_reasoning else ""
    assert stream.getvalue() == reasoning + answer + end
    assert len(set(seen)) > 20
    assert "\x1b" not in stream.getvalue()


def test_a_pipe_gets_reasoning_without_an_end_once() -> None:
    for with_reasoning in (True, False):
        stream = io.StringIO()
        renderer = PlainRenderer(stream, with_reasoning)
        renderer.update(grown("It is"))
        renderer.finish(grown("It is red.", is_complete=True), 400)
        assert stream.getvalue().count("It is red.") == 1


def test_base_and_tuned_stand_side_by_side() -> None:
    console = Console(file=io.StringIO(), width=80, record=True)
    console.print(
        make_comparison_table(
            grown("Base says.", is_complete=True),
            grown(TEXT, is_complete=True),
            with_reasoning=False,
        )
    )
    text = console.export_text()
    assert "viral" not in text
    said = next(line for line in text.splitlines() if "Base says." in line)
    assert said.index("Base says.") < 40
    assert next(line for line in text.splitlines() if "Gritty" in line).index("Gritty") > 40


@pytest.mark.parametrize("is_terminal", [True, False])
def test_an_answer_sends_no_escape_sequences(is_terminal):
    evil = (
        "Think \x1b[2J\x9b31m.</think>\n## Symptoms\n- \x1b]0;mine\x07pain"
        " \u202e[here](http://evil/)"
    )
    stream = io.StringIO()
    renderer = (
        LiveRenderer(
            SafeConsole(file=stream, force_terminal=True, color_system=None, width=80), True
        )
        if is_terminal
        else PlainRenderer(stream, True)
    )
    reply = Reply(
        "q", False, evil, 9, 1.0, expects_reasoning=True, is_complete=True, ended_by_model=True
    )
    with renderer if isinstance(renderer, LiveRenderer) else nullcontext():
        for end in range(0, len(evil), 7):
            renderer.update(replace(reply, text=evil[:end], is_complete=False))
        renderer.finish(reply, 99)
    text = stream.getvalue()
    assert not {"\x07", "\x9b", "\u202e"} & {*text}
    assert "\x1b[2J" not in text
    assert "\x1b]" not in text
    assert "\\u001b[2J\\u009b31m" in text
    assert "http://evil/" in text
