"""What a person sees: the status of a stage with its time, progress with an ETA, tables. Plain
lines where it is not a terminal.

Progress goes to standard error, results to standard output, so that a pipe gets the results alone.
Text is shown as it is: square brackets in it are never markup, and what would steer a terminal is
spelt out, whoever wrote it. A character that the terminal does not have is replaced by one that it
has, and what is said once nobody reads it any more goes nowhere: neither ends a run.
"""

import codecs
import io
import os
import select
import signal
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from medexp.system import disk_space
from medexp.system.units import format_duration
from medexp.system.visible import visible

# Marks before a line.
DONE, NOTE, WRONG = "✓", "!", "✗"
_COLOURS = {DONE: "green", NOTE: "yellow", WRONG: "red"}
# What the nearest ASCII of a character is, where Unicode's own decomposition does not say.
_IN_ASCII = str.maketrans(
    {
        DONE: "+", WRONG: "x", "•": "-", "█": "#", "▌": "#", "→": "->",
        "·": ".", "−": "-", "–": "-", "—": "-", "‘": "'", "’": "'", "“": '"', "”": '"', "„": '"',
        "×": "x", "⁄": "/", "≤": "<=", "≥": ">=", "±": "+-", "°": " deg", "ß": "ss",
    }
)  # fmt: skip
_LOST_RESULTS = (
    "medexp: the disk that standard output is written to is full, so that what was to be printed is"
    " lost; free some space there. What the run made is kept"
)


def prepare_streams() -> None:
    """Have standard output and error replace what their encoding lacks, and drop what is said on
    standard error once its reader has gone.
    """
    # Registered by name: a stream takes the name of a handler, and no function.
    codecs.register_error("medexp.nearest", _replace_unencodable)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="medexp.nearest")
    # A stream that a test or a notebook has put there is left alone: it may have no descriptor.
    if sys.stderr is sys.__stderr__ and isinstance(sys.stderr, io.TextIOWrapper):
        raw = io.BufferedWriter(_LogStream(sys.stderr.fileno(), "w", closefd=False))
        sys.stderr = io.TextIOWrapper(
            raw, sys.stderr.encoding, sys.stderr.errors, line_buffering=True
        )


def _replace_unencodable(error: UnicodeError) -> tuple[str, int]:
    """Return ASCII for the characters that an encoding lacks: letters without their marks, else a
    question mark; and where to go on.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    unencodable = error.object[error.start : error.end].translate(_IN_ASCII)
    # Twice: decomposing makes characters of the table, as ½ becomes 1, ⁄ and 2.
    plain = unicodedata.normalize("NFKD", unencodable).translate(_IN_ASCII)
    ascii_letters = (
        letter if letter.isascii() else "?" for letter in plain if not unicodedata.combining(letter)
    )
    return "".join(ascii_letters), error.end


class _LogStream(io.FileIO):
    """A file that drops what is written once its reader has gone, and while its disk is full."""

    def write(self, data: Any) -> int | None:  # type: ignore[override]
        """Write `data`, or drop it."""
        try:
            return super().write(data)
        except BrokenPipeError:
            _discard(self.fileno())
            # As if written: else the buffer before it would try again when Python ends.
            return len(data)
        except OSError as error:
            if not disk_space.is_disk_full(error):
                raise
            return len(data)


@dataclass
class _Results:
    """Whether all that was printed on standard output has come to its file."""

    are_complete: bool = True


_RESULTS = _Results()


@contextmanager
def drop_on_full_disk() -> Iterator[None]:
    """Drop what is printed, from now on, where standard output's file lies on a full disk.

    Raising would end a run that is finished but for its printing. Python would try once more at its
    end, and end with exit code 120.
    """
    try:
        yield
    except OSError as error:
        if not disk_space.is_disk_full(error):
            raise
        _RESULTS.are_complete = False
        _discard(sys.stdout.fileno())


def _discard(descriptor: int) -> None:
    """Send whatever is written to `descriptor` from now on nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


@contextmanager
def quiet_when_unread() -> Iterator[None]:
    """End the program quietly, as if by SIGPIPE, where the reader of standard output has gone, as
    head does.
    """
    try:
        try:
            yield
        except BaseException as ending:
            is_complete = _flush_results()
            if is_complete or not isinstance(ending, SystemExit) or ending.code:
                # What went wrong is told by whoever catches it.
                raise
        else:
            is_complete = _flush_results()
        if not is_complete:
            sys.stderr.write(f"{_LOST_RESULTS}\n")
            sys.exit(2)
    except BrokenPipeError:
        if not _is_unread(sys.stdout):
            raise
        _discard(sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


def _flush_results() -> bool:
    """Flush standard output; return whether all of it has come to its file."""
    with drop_on_full_disk():
        sys.stdout.flush()
    return _RESULTS.are_complete


def _is_unread(stream: TextIO) -> bool:
    """Return whether `stream` is a pipe without a reader.

    A BrokenPipeError alone does not say so: it may be that of a connection.
    """
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


class Console:
    """Both consoles of a command: `results` on standard output, `log` on standard error."""

    def __init__(self) -> None:
        self.results, self.log = _make_console(sys.stdout), _make_console(sys.stderr)

    def info(self, text: str, mark: str = "", title: str = "") -> None:
        """Print one line about what is going on, after DONE, NOTE or WRONG, or a `title` in bold;
        it stays one line in a log file.
        """
        _print(self.log, Text.assemble(_format_mark(mark), (title, "bold"), text))

    @contextmanager
    def status(self, label: str) -> Iterator[None]:
        """Show that `label` is under way, and when it is done, how long it took."""
        began = time.perf_counter()
        if self.log.is_terminal:
            with self.log.status(
                Text(label), spinner="dots" if self.log.encoding.startswith("utf") else "line"
            ):
                yield
        else:
            yield
        self._print_time(label, began)

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a bar over `total` things; call what it yields with how many more are done."""
        began = time.perf_counter()
        with make_progress_bar(self.log, MofNCompleteColumn()) as progress:
            task = progress.add_task(label, total=total)
            yield lambda done: progress.update(task, advance=done)
        self._print_time(label, began)

    def _print_time(self, label: str, began: float) -> None:
        _print(
            self.log,
            Text.assemble(
                _format_mark(DONE),
                label,
                " ",
                (format_duration(time.perf_counter() - began), "dim"),
            ),
        )

    def result(self, text: str, mark: str = "", style: str = "") -> None:
        """Print one line of the outcome on standard output, after DONE, NOTE or WRONG, or in rich's
        `style`; it stays one line in a pipe.
        """
        with drop_on_full_disk():
            _print(self.results, Text.assemble(_format_mark(mark), (text, style)))

    def raw(self, text: str) -> None:
        """Write `text` to standard output as it is, for programs."""
        with drop_on_full_disk():
            self.results.file.write(visible(text) + "\n")

    def table(
        self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], prose: bool = False
    ) -> None:
        """Print a table on standard output; `prose` gives every column the same width.

        Words of up to 40 letters that stand alone (ids, figures) are not broken as long as other
        columns can give way.
        """
        table = Table(
            title=Text(title), title_justify="left", title_style="bold", show_header=any(columns)
        )
        table.expand = prose
        for place, column in enumerate(columns):
            # 40 letters hold an id of 32 digits, or a figure with its unit.
            is_word = all(" " not in row[place] and len(row[place]) <= 40 for row in rows)
            table.add_column(
                Text(column),
                overflow="fold",
                ratio=1 if prose else None,
                no_wrap=is_word and not prose,
            )
        for row in rows:
            table.add_row(*map(Text, row))
        with drop_on_full_disk():
            self.results.print(table)
            self.results.print()


class SafeConsole(RichConsole):
    """A rich console that sends no escape sequences but its own: those in text, Markdown and tables
    are made visible.
    """

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Return the segments of `renderable`, the text in them made visible."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else visible(text), style, control)

    def on_broken_pipe(self) -> None:
        """Go on where rich would end the program: a command keeps its results without a reader."""
        _discard(self.file.fileno())


def _make_console(stream: TextIO) -> RichConsole:
    """Return a console as wide as the terminal, or as COLUMNS says; 120 columns in a pipe or a
    file, where rich would take 80.
    """
    has_width = stream.isatty() or "COLUMNS" in os.environ
    return SafeConsole(file=stream, highlight=False, width=None if has_width else 120)


def _format_mark(mark: str) -> Text:
    return Text.assemble((mark, _COLOURS[mark]), " ") if mark else Text()


def _print(console: RichConsole, text: Text) -> None:
    # A line of a log or a pipe is one line, however long: programs read it.
    console.print(text, soft_wrap=not console.is_terminal)


def make_progress_bar(console: RichConsole, *columns: MofNCompleteColumn | TextColumn) -> Progress:
    """Return a bar with a description, `columns` and an ETA; it shows nothing but on a terminal."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
