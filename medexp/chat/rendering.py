"""Replies on the screen as they come: on a terminal as headed sections with dimmed reasoning, in a
pipe as plain text.

What can no longer change is printed for good; only the part under way is drawn again and again, and
never more of it than the terminal is high.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from medexp.chat.interrupt import StopRequest
from medexp.chat.reply import (
    ANSWER,
    REASONING,
    Reply,
    ReplySection,
    describe_end,
    format_plain_text,
    split_sections,
)
from medexp.chat.responder import Responder
from medexp.data.prompts import THINK_END
from medexp.reports.summary import NOT_FOR_CLINICAL_USE
from medexp.system.visible import visible

HINT = "Ctrl-C stops"
RESERVED_LINES = 2  # lines of the terminal


class ReplyRenderer(Protocol):
    """Shows one reply while it grows, and then whole."""

    def update(self, reply: Reply) -> None:
        """`reply` has grown by a token."""

    def finish(self, reply: Reply, max_new_tokens: int) -> None:
        """`reply` has come to its end."""


def render_reply(
    responder: Responder, question: str, renderer: ReplyRenderer, stop: StopRequest
) -> Reply:
    """The whole reply to `question`, shown by `renderer` while it grows; `stop` ends it."""

    def heard(reply: Reply) -> bool:
        renderer.update(reply)
        return stop.is_requested

    reply = responder.reply(question, heard)
    renderer.finish(reply, responder.sampling.max_new_tokens)
    return reply


class PlainRenderer:
    """Text alone, written as it comes, without control codes of ours or of the model's."""

    def __init__(self, stream: TextIO, with_reasoning: bool):
        self._stream, self._with_reasoning = stream, with_reasoning
        self._written = ""

    def update(self, reply: Reply) -> None:
        """Write what is new."""
        text = format_plain_text(reply, self._with_reasoning)
        if text.startswith(self._written):
            self._write(text[len(self._written) :])
            self._written = text

    def finish(self, reply: Reply, max_new_tokens: int) -> None:
        """Write the rest, and again what turned out to be the answer only when nothing more came."""
        text = format_plain_text(reply, self._with_reasoning)
        if text.startswith(self._written):
            self._write(text[len(self._written) :])
        elif reply.is_reasoning_closed:
            self._write(f"\n\n{text}")
        else:  # all of it went by as reasoning
            self._write(reply.text[len(self._written.removeprefix(REASONING)) :])
            if reply.reasoning:
                self._write(f"{ANSWER}{reply.answer}")
        self._write(f"\n\n[{describe_end(reply, max_new_tokens)}]\n{NOT_FOR_CLINICAL_USE}\n")

    def _write(self, text: str) -> None:
        self._stream.write(visible(text))
        self._stream.flush()


class LiveRenderer:
    """Sections and dimmed paragraphs on a terminal; use as a context manager around one reply."""

    def __init__(self, console: Console, with_reasoning: bool):
        self._console, self._with_reasoning = console, with_reasoning
        self._printed: list[ReplySection] = []
        self._live = Live(
            Spinner("dots", f"[dim]reading the question · {HINT}[/dim]"),
            console=console,
            transient=True,
        )

    def __enter__(self) -> "LiveRenderer":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def update(self, reply: Reply) -> None:
        """Print the parts that are done, draw the last one."""
        shown = self._shown(reply)
        self._print(shown[:-1])
        under_way = [render_section(section) for section in shown[len(self._printed) :]]
        thinking = (
            "thinking, "
            if reply.expects_reasoning
            and not reply.is_reasoning_closed
            and not self._with_reasoning
            else ""
        )
        status = Text(f"{thinking}{reply.tokens} tokens · {HINT}", style="dim")
        self._live.update(Tail(Group(*under_way, status)))

    def finish(self, reply: Reply, max_new_tokens: int) -> None:
        """Print the rest, how it ended, and that it is not for clinical use."""
        self._live.stop()
        shown = self._shown(reply)
        if self._printed != shown[: len(self._printed)]:  # a late end of the reasoning, or none
            self._finish_reasoning(reply)
            shown = [part for part in shown if not part.is_reasoning] if reply.reasoning else []
        self._print(shown)
        self._console.print(Text(f"\n{describe_end(reply, max_new_tokens)}", style="dim"))
        self._console.print(Text(NOT_FOR_CLINICAL_USE, style="italic"))

    def _shown(self, reply: Reply) -> list[ReplySection]:
        return [
            part for part in split_sections(reply) if self._with_reasoning or not part.is_reasoning
        ]

    def _print(self, shown: list[ReplySection]) -> None:
        for part in shown[len(self._printed) :]:
            self._console.print(render_section(part))
            self._printed.append(part)

    def _finish_reasoning(self, reply: Reply) -> None:
        """Print what follows the paragraphs that went by as reasoning, and forget them."""
        lines = [
            line
            for line in reply.text.rpartition(THINK_END)[
                0 if reply.is_reasoning_closed else 2
            ].split("\n")
            if line.strip()
        ]
        for line in lines[len(self._printed) :]:
            self._console.print(Text(line, style="dim"))
        self._printed.clear()


class Tail:
    """As many of the last lines of something as the terminal has room for."""

    def __init__(self, inner: RenderableType):
        self._inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._inner, options.update(height=None), pad=False)
        for line in lines[-max(1, console.height - RESERVED_LINES) :]:
            yield from line
            yield Segment.line()


def render_section(part: ReplySection) -> RenderableType:
    """A part of a reply for a terminal; a link shows where it leads, as the model may call it
    something else.
    """
    if part.is_reasoning:
        return Text(part.text, style="dim")
    return Group(
        Text(f"\n{part.heading}" if part.heading else "", style="bold cyan"),
        Markdown(part.text, hyperlinks=False),
    )


def make_comparison_table(base: Reply | None, tuned: Reply | None, with_reasoning: bool) -> Table:
    """Base and tuned side by side."""
    table = Table(expand=True, show_lines=False)
    for title in ("base", "tuned"):
        table.add_column(title, ratio=1)
    table.add_row(
        *(Group(*_render_column(reply, with_reasoning)) if reply else "" for reply in (base, tuned))
    )
    return table


def _render_column(reply: Reply, with_reasoning: bool) -> Iterator[RenderableType]:
    yield from (
        render_section(part)
        for part in split_sections(reply)
        if with_reasoning or not part.is_reasoning
    )
    yield Text(f"\n{reply.tokens} tokens", style="dim")


@contextmanager
def open_live_region(console: Console) -> Iterator[Callable[[RenderableType], None]]:
    """Call what it yields with something to draw in the place of what was drawn before; it is gone
    afterwards.
    """
    with Live(console=console, transient=True) as live:
        yield lambda inner: live.update(Tail(inner))
