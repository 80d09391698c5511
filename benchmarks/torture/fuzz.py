"""The fuzzer: random command lines through plan, audit, and a train that ends before it loads
weights.

Each runs in a process forked from one that has imported everything and run nothing: Hydra's state
is fresh, and a command takes a tenth of the time that it takes from nothing. What it finds is
repeated, minimised, and printed as a command line.
"""

import importlib
import os
import re
import runpy
import shlex
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from benchmarks.torture.lines import Line, draw

ALLOWED = (0, 2)  # done, or refused in words
LIMIT_S = 120  # after this it hangs


@dataclass(frozen=True)
class LineResult:
    """How a command ended: its exit status (negative: a signal), and what it printed on both
    streams.
    """

    status: int
    output: str
    took_s: float

    @property
    def fault(self) -> str | None:
        """What is wrong with it, by which findings of one kind are known; None where nothing is."""
        if "Traceback (most recent call last)" in self.output:
            places = re.findall(
                r'File "[^"]*?((?:medexp|hydra|omegaconf|conf)/[^"]*)", line \d+, in (\S+)',
                self.output,
            )
            raised = re.findall(
                r"^([\w.]+)(?::|$)",
                self.output.rpartition("Traceback (most recent call last)")[2],
                re.MULTILINE,
            )
            own = (
                [place for place in places if place[0].startswith("medexp/")]
                or places
                or [("?", "?")]
            )
            return f"{raised[0] if raised else '?'} in {own[-1][0]}:{own[-1][1]}"
        if self.status in ALLOWED:
            if self.status == 2 and not self.output.strip():
                return "exit code 2 without a word"
            return None
        if self.status < 0:
            return (
                "hangs"
                if self.status == -signal.SIGALRM
                else f"ended by {signal.Signals(-self.status).name}"
            )
        return f"exit code {self.status}: {(self.output.strip().splitlines() or [''])[-1][:80]}"


def warm_up() -> None:
    """Import what the three programs import, and run nothing: the children of this process begin
    here.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["HF_HUB_OFFLINE"] = "1"
    for name in (
        "medexp.audit",
        "medexp.plan",
        "medexp.train",
        "medexp.training.run",
        "transformers.models.auto.tokenization_auto",
    ):
        importlib.import_module(name)


def _child(line: Line, folder: Path, out: Path) -> NoReturn:
    """Be the command: its words, its folder, its streams, its exit status."""
    status = 1
    try:
        os.setsid()
        stream = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0), os.dup2(stream, 1), os.dup2(stream, 2)
        for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
            errors = "backslashreplace" if name == "stderr" else "strict"
            raw = open(  # noqa: SIM115
                number,
                "r" if name == "stdin" else "w",
                encoding="utf-8",
                errors=errors,
                closefd=False,
            )
            setattr(sys, name, raw)
        os.chdir(folder)
        os.environ.update(line.environment)
        sys.argv = [f"medexp/{line.program}.py", *line.words]
        signal.alarm(LIMIT_S)
        _stop_before_loading()
        sys.modules.pop(f"medexp.{line.program}", None)
        runpy.run_module(f"medexp.{line.program}", run_name="__main__", alter_sys=False)
        status = 0
    except SystemExit as find_end:
        if find_end.code is None or isinstance(find_end.code, int):
            status = find_end.code or 0
        else:
            print(find_end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush(), sys.stderr.flush()
        except BaseException:
            traceback.print_exc()
            status = 1
        os._exit(status & 255)


def _stop_before_loading() -> None:
    from medexp.models import memory_guard

    def exit_instead(*_: object, **__: object) -> NoReturn:
        raise SystemExit(0)

    # Capping the allocator is the first thing that every command does with the training stack.
    memory_guard.cap_allocator = exit_instead  # type: ignore[assignment]


def run(
    lines: Sequence[Line],
    jobs: int,
    scratch: Path,
    done: Callable[[int, LineResult], None],
    until: float = float("inf"),
) -> None:
    """Run every line, `jobs` at a time, each in a folder of its own that is gone afterwards; `done`
    is told how each ended. None is begun after `until`, by time.monotonic()."""
    waiting = list(enumerate(lines))[::-1]
    running: dict[int, tuple[int, Path, float]] = {}
    while waiting or running:
        if time.monotonic() > until:
            waiting.clear()
        while waiting and len(running) < jobs:
            number, line = waiting.pop()
            place = Path(tempfile.mkdtemp(dir=scratch))
            _lay_out(line, place / "work")
            pid = os.fork()
            if pid == 0:
                _child(line, place / "work", place / "output")
            running[pid] = (number, place, time.monotonic())
        if not running:
            break
        pid, status = os.waitpid(-1, 0)
        if pid not in running:
            continue
        number, place, began = running.pop(pid)
        output = (
            (place / "output").read_bytes().decode("utf-8", "replace")
            if (place / "output").exists()
            else ""
        )
        shutil.rmtree(place, ignore_errors=True)
        done(
            number, LineResult(os.waitstatus_to_exitcode(status), output, time.monotonic() - began)
        )


def _lay_out(line: Line, folder: Path) -> None:
    folder.mkdir()
    for name, content in line.files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def find_end(line: Line, scratch: Path) -> LineResult:
    """How this one line ends."""
    found: list[LineResult] = []
    run([line], 1, scratch, lambda _, how: found.append(how))
    return found[0]


def minimise(line: Line, fault: str, scratch: Path, tries: int = 150) -> Line:
    """A smaller line that ends in the same fault: fewer words, shorter values, smaller files."""
    left = tries

    def still(candidate: Line) -> bool:
        nonlocal left
        left -= 1
        return left >= 0 and find_end(candidate, scratch).fault == fault

    for smaller in (_fewer_words, _without_files, _shorter_files, _shorter_words):
        again = True
        while again and left > 0:
            again = False
            for candidate in smaller(line):
                if still(candidate):
                    line, again = candidate, True
                    break
    return line


def _fewer_words(line: Line) -> Iterator[Line]:
    for place in range(len(line.words)):
        yield replace(line, words=line.words[:place] + line.words[place + 1 :])


def _without_files(line: Line) -> Iterator[Line]:
    for name in line.files:
        yield replace(
            line, files={other: content for other, content in line.files.items() if other != name}
        )
    if line.environment:
        yield replace(line, environment={})


def _shorter_files(line: Line) -> Iterator[Line]:
    for name, content in line.files.items():
        parts = 2
        while parts <= min(len(content), 64):
            size = -(-len(content) // parts)
            for start in range(0, len(content), size):
                yield replace(
                    line, files=line.files | {name: content[:start] + content[start + size :]}
                )
            parts *= 4


def _shorter_words(line: Line) -> Iterator[Line]:
    for place, word in enumerate(line.words):
        key, equals, value = word.partition("=")
        for shorter in sorted(
            {value[: len(value) // 2], value[len(value) // 2 :], value[1:], value[:-1]} - {value}
        ):
            yield replace(
                line,
                words=[*line.words[:place], f"{key}{equals}{shorter}", *line.words[place + 1 :]],
            )


def as_typed(line: Line) -> str:
    """The line as a shell reads it, with the files that it needs made first."""
    made = [
        f"mkdir -p {shlex.quote(str(Path(name).parent))}; printf %b {_shell(_escape(content))} >"
        f" {name}"
        for name, content in line.files.items()
    ]
    given = [f"{name}={_shell(value)}" for name, value in line.environment.items()]
    return "; ".join(
        [
            *made,
            " ".join([*given, "python", "-m", f"medexp.{line.program}", *map(_shell, line.words)]),
        ]
    )


def _escape(content: bytes) -> str:
    return "".join(
        chr(byte) if 32 <= byte < 127 and byte != 92 else f"\\0{byte:03o}" for byte in content
    )


def _shell(word: str) -> str:
    """`word` quoted; $'...' where it has bytes that no screen shows."""
    if word.isprintable():
        return shlex.quote(word)
    raw = (
        word.encode("utf-8", "surrogateescape")
        if not any(0xD800 <= ord(c) < 0xDC80 for c in word)
        else repr(word).encode()
    )
    return (
        "$'"
        + "".join(chr(b) if 32 <= b < 127 and b not in (39, 92) else f"\\x{b:02x}" for b in raw)
        + "'"
    )


class Findings:
    """What a series of lines has come to until now."""

    def __init__(self, numbers: Sequence[int], tell: Callable[[int, int, str], None]):
        self._numbers, self._tell = numbers, tell
        self.places: dict[str, list[int]] = {}  # of the lines, by their fault
        self.said: dict[str, str] = {}
        self.exit_codes: dict[int, int] = {}
        self.slowest_s = 0.0

    @property
    def tried(self) -> int:
        """How many lines have ended."""
        return sum(self.exit_codes.values())

    @property
    def count(self) -> int:
        """How many of them ended in a fault."""
        return sum(map(len, self.places.values()))

    def take(self, place: int, how: LineResult) -> None:
        """Count a line that ended."""
        self.exit_codes[how.status] = self.exit_codes.get(how.status, 0) + 1
        self.slowest_s = max(self.slowest_s, how.took_s)
        if how.fault is not None:
            self.places.setdefault(how.fault, []).append(place)
            self.said.setdefault(
                how.fault, (how.output.strip().splitlines() or ["nothing"])[-1][:400]
            )
        newest = f", the last in line {self._numbers[place]}: {how.fault}" if how.fault else ""
        self._tell(
            self.tried,
            len(self._numbers),
            f"{self.count} findings of {len(self.places)} kinds{newest}",
        )


def fuzz(
    count: int,
    seed: int,
    jobs: int,
    corpus: Path | None,
    only: Sequence[int],
    tell: Callable[[int, int, str], None],
    until: float = float("inf"),
) -> dict[str, object]:
    """Run `count` lines of `seed` (or those numbered `only`), begin none after `until` (by
    time.monotonic()); returns the row for the table, with a finding of every kind minimised."""
    warm_up()
    kinds = (".json", ".jsonl", ".csv", ".parquet")
    files = (
        sorted(path for path in corpus.iterdir() if path.suffix.lower() in kinds) if corpus else []
    )
    numbers = list(only) or list(range(count))
    lines = [draw(seed, number, files) for number in numbers]
    found = Findings(numbers, tell)
    with tempfile.TemporaryDirectory(prefix="torture-fuzz-") as made:
        scratch = Path(made)
        run(lines, jobs, scratch, found.take, until)
        shown = [
            {
                "fault": fault,
                "times": len(places),
                "numbers": [numbers[place] for place in places][:20],
                "command": as_typed(minimise(lines[places[0]], fault, scratch)),
                "last_line": found.said[fault],
            }
            for fault, places in found.places.items()
        ]
    return {
        "attack": "fuzz",
        "tried": found.tried,
        "held": found.tried - found.count,
        "exit_codes": found.exit_codes,
        "slowest_s": round(found.slowest_s, 1),
        "findings": shown,
    }


def main() -> None:
    """For a quick look at single numbers: python -m benchmarks.torture.fuzz SEED NUMBER..."""
    warm_up()
    seed, *numbers = map(int, sys.argv[1:])
    for number in numbers:
        line = draw(seed, number)
        with tempfile.TemporaryDirectory() as made:
            how = find_end(line, Path(made))
        print(as_typed(line), how.status, how.output[-3000:], sep="\n")


if __name__ == "__main__":
    main()
