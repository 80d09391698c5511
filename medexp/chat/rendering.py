"""Replies on the screen as they come: on a terminal as headed sections with dimmed reasoning, in a
pipe as plain text.

A section that can no longer change is printed once. Only the one that grows is redrawn, and never
more of it than the terminal is high.
"""

from collections.abc import Callable, Iterator, Sequence
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
from medexp.data.cases import Turn
from medexp.data.prompts import THINK_END
from medexp.reports.summary import NOT_FOR_CLINICAL_USE
from medexp.system.visible import visible

HINT = "Ctrl-C stops"
# Lines of the terminal that a growing section leaves free.
RESERVED_LINES = 2


class ReplyRenderer(Protocol):
    """Shows one reply while it grows and once it is complete."""

    def update(self, reply: Reply) -> None:
        """Show `reply`, which has grown by a token."""

    def finish(self, reply: Reply, max_new_tokens: int) -> None:
        """Show `reply`, which is complete."""


def render_reply(
    responder: Responder,
    question: str,
    renderer: ReplyRenderer,
    stop: StopRequest,
    before: Sequence[Turn] = (),
) -> Reply:
    """Return the reply to `question`, asked after what was said `before` and shown by `renderer`
    while it grows; `stop` ends it.
    """

    def show_token(reply: Reply) -> bool:
        renderer.update(reply)
        return stop.is_requested

    reply = responder.reply(question, show_token, before=before)
    renderer.finish(reply, responder.sampling.max_new_tokens)
    return reply


class PlainRenderer:
    """Text alone, written as it comes, without control codes of ours or of the model's."""

    def __init__(self, stream: TextIO, with_reasoning: bool):
        self._stream = stream
        self._with_reasoning = with_reasoning
        self._written = ""

    def update(self, reply: Reply) -> None:
        """Write what has been added."""
        text = format_plain_text(reply, self._with_reasoning)
        if text.startswith(self._written):
            self._write(text[len(self._written) :])
            self._written = text

    def finish(self, reply: Reply, max_new_tokens: int) -> None:
        """Write the rest, and how the reply ended.

        An answer that was written as reasoning, because its end mark came late or never, is written
        again as the answer.
        """
        text = format_plain_text(reply, self._with_reasoning)
        if text.startswith(self._written):
            self._write(text[len(self._written) :])
        elif reply.is_reasoning_closed:
            self._write(f"\n\n{text}")
        # Without an end mark all of it was written as reasoning.
        else:
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
        self._console = console
        self._with_reasoning = with_reasoning
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
        """Print the sections that are complete, and redraw the last one."""
        sections = self._select_sections(reply)
        self._print(sections[:-1])
        growing = [render_section(section) for section in sections[len(self._printed) :]]
        thinking = "thinking, " if reply.is_reasoning and not self._with_reasoning else ""
        status = Text(f"{thinking}{reply.tokens} tokens · {HINT}", style="dim")
        self._live.update(Tail(Group(*growing, status)))

    def finish(self, reply: Reply, max_new_tokens: int) -> None:
        """Print the rest, how the reply ended, and that it is not for clinical use."""
        self._live.stop()
        sections = self._select_sections(reply)
        # Where the reasoning ended late or never, what was printed is not what the sections are
        # now.
        if self._printed != sections[: len(self._printed)]:
            self._finish_reasoning(reply)
            answer = [section for section in sections if not section.is_reasoning]
            sections = answer if reply.reasoning else []
        self._print(sections)
        self._console.print(Text(f"\n{describe_end(reply, max_new_tokens)}", style="dim"))
        self._console.print(Text(NOT_FOR_CLINICAL_USE, style="italic"))

    def _select_sections(self, reply: Reply) -> list[ReplySection]:
        return [
            section
            for section in split_sections(reply)
            if self._with_reasoning or not section.is_reasoning
        ]

    def _print(self, sections: list[ReplySection]) -> None:
        for section in sections[len(self._printed) :]:
            self._console.print(render_section(section))
            self._printed.append(section)

    def _finish_reasoning(self, reply: Reply) -> None:
        """Print what follows the paragraphs that were printed as reasoning, and forget those."""
        before, _, after = reply.text.rpartition(THINK_END)
        reasoning = before if reply.is_reasoning_closed else after
        paragraphs = [line for line in reasoning.split("\n") if line.strip()]
        for paragraph in paragraphs[len(self._printed) :]:
            self._console.print(Text(paragraph, style="dim"))
        self._printed.clear()


class Tail:
    """The last lines of `inner`, as many as the terminal has room for."""

    def __init__(self, inner: RenderableType):
        self._inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._inner, options.update(height=None), pad=False)
        for line in lines[-max(1, console.height - RESERVED_LINES) :]:
            yield from line
            yield Segment.line()


def render_section(section: ReplySection) -> RenderableType:
    """Return a section of a reply for a terminal.

    A link is shown with its address, because a model may write another text over it.
    """
    if section.is_reasoning:
        return Text(section.text, style="dim")
    return Group(
        Text(f"\n{section.heading}" if section.heading else "", style="bold cyan"),
        Markdown(section.text, hyperlinks=False),
    )


def make_comparison_table(base: Reply | None, tuned: Reply | None, with_reasoning: bool) -> Table:
    """Return a table with the replies of the base and of the tuned model side by side."""
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
    """Yield a function that draws something in the place of what it drew before.

    What was drawn is removed at the end.
    """
    with Live(console=console, transient=True) as live:
        yield lambda inner: live.update(Tail(inner))
