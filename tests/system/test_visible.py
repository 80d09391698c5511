import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.markdown import Markdown
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from medexp.system.console import SafeConsole
from medexp.system.visible import visible

EVIL = {
    "colour": "\x1b[31m",
    "title": "\x1b]0;mine\x07",
    "clipboard": "\x1b]52;c;cm0=\x1b\\",
    "link": "\x1b]8;;http://evil/\x1b\\here\x1b]8;;\x1b\\",
    "C1": "\x9b2J\x9d0;x\x9c",
    "rubbed out": "no\x08\x08yes\r\x7f",
    "override": "\u202etxt.exe\u2066\u2069",
    "half a character": "\udc9b",
}
SENT = {
    *map(chr, range(0x20)),
    *map(chr, range(0x7F, 0xA0)),
    *"\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",
} - {
    "\n",
    "\t",
}


def printed(thing: object, is_terminal: bool) -> str:
    stream = io.StringIO()
    SafeConsole(file=stream, force_terminal=is_terminal, color_system=None, width=200).print(thing)
    return stream.getvalue()


@pytest.mark.parametrize("text", EVIL.values(), ids=EVIL)
def test_what_steers_a_terminal_is_spelt_out(text):
    assert not SENT & {*visible(text)}
    visible(text).encode()


@given(st.text())
def test_other_text_stays_and_json_says_the_same(text):
    kept = "".join(each for each in text if each not in SENT)
    assert visible(kept) == kept
    assert json.loads(visible(json.dumps(text, ensure_ascii=False))) == text


def test_characters_are_named():
    assert visible("a\x1b[1m\x9b\u202eb\n\tü 病") == "a\\u001b[1m\\u009b\\u202eb\n\tü 病"


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize("text", EVIL.values(), ids=EVIL)
def test_no_renderable_sends_what_others_wrote(text, is_terminal):
    table = Table(title=Text(text))
    table.add_column(Text(text))
    table.add_row(Text(text), Panel(text))
    for thing in (
        text,
        Text(text, style="bold"),
        Markdown(f"# {text}\n`{text}`\n\n    {text}"),
        table,
    ):
        assert not SENT & {*printed(thing, is_terminal)}, thing


def test_a_consoles_own_styles_are_sent():
    stream = io.StringIO()
    SafeConsole(file=stream, force_terminal=True, color_system="standard").print(
        Text("a\x1b[2Jb", style="bold")
    )
    assert stream.getvalue() == "\x1b[1ma\\u001b[2Jb\x1b[0m\n"
