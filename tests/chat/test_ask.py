"""The command as a user has it: one question, a pipe, JSON, a conversation on a real terminal,
and what is refused.
"""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest
from helpers.commands import command, command_in_streams

from medexp.reports.summary import NOT_FOR_CLINICAL_USE
from medexp.sweep.workers.warm_process import can_fork

ROOT = Path(__file__).parents[2]
CODES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[=>]")


def asked(words: list[str], cwd: Path, piped: str = "") -> tuple[int, str, str]:
    """Return exit status, output and error stream of the command with `piped` as its input, where
    this system can fork it with the training stack imported.
    """
    if can_fork():
        assert words[0] == "-m"
        return command_in_streams(words[1:], cwd, cwd.parent / f"{cwd.name}-streams", piped)
    return asked_through_a_pipe(words, cwd, piped)


def asked_through_a_pipe(words: list[str], cwd: Path, piped: str) -> tuple[int, str, str]:
    """Return the same of a process that imports everything, as a user starts it."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env=env,
        input=piped,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_piped_vignette_is_answered_in_plain_text_as_it_is_stored(
    trained, tmp_path: Path
) -> None:
    case = json.loads((trained.artifacts / "evaluation/record.json").read_text())["cases"][0]
    status, output, log = asked_through_a_pipe(trained.words, tmp_path, case["question"] + "\n")
    assert status == 0, log
    said, _, rest = output.partition("\n\n[")
    assert said == f"Reasoning:\n{case['tuned']['text']}"
    assert rest.startswith("16 tokens in ")
    assert rest.endswith(f"{NOT_FOR_CLINICAL_USE}\n")
    assert "\x1b" not in output
    assert list(tmp_path.iterdir()) == []


def test_json_is_an_object_a_question_and_nothing_else(trained, tmp_path: Path) -> None:
    case = json.loads((trained.artifacts / "evaluation/record.json").read_text())["cases"][1]
    lines = "\n".join(
        json.dumps({"question": question}) for question in (case["question"], "Why?\nAnd now?")
    )
    status, output, log = asked(
        [*trained.words, "ask.format=json", "ask.max_new_tokens=16"], tmp_path, piped=lines
    )
    assert status == 0, log
    first, second = map(json.loads, output.splitlines())
    assert (first["question"], first["answer"], first["tokens"]) == (
        case["question"],
        case["tuned"]["text"],
        case["tuned"]["tokens"],
    )
    assert (first["run"], first["model"], first["base"]) == (
        trained.result.run_id,
        "smollm2_135m",
        False,
    )
    assert first["ended"] is False
    assert first["seconds"] > 0
    assert second["question"] == "Why?\nAnd now?"


REFUSED = {
    "no run": (["question=a"], "run has no value"),
    "unknown run": (["run=no/such", "question=a"], "run=no/such does not exist"),
    "empty question": (["run=last", "question= "], "the question is empty"),
    "a page and json": (
        ["run=last", "ui=true", "ask.format=json"],
        "goes with neither question=... nor ask.format=json",
    ),
    "temperature": (
        ["run=last", "question=a", "ask.temperature=-1"],
        "ask.temperature=-1.0 is out of range",
    ),
    "top p": (
        ["run=last", "question=a", "ask.top_p=1.5"],
        "ask.top_p=1.5 is out of range: allowed is above 0 and at most 1",
    ),
    "reasoning": (["run=last", "question=a", "ask.reasoning=fold"], "allowed are show, hide"),
    "too long": (["run=last", "question=" + "pain " * 3000], "2032 are allowed"),
    "broken pipe": (["run=last"], "line 2 of standard input"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_one_sentence_and_exit_code_2(trained, name: str, tmp_path: Path) -> None:
    words, said = REFUSED[name]
    piped = '{"question": "a"}\n{"quest": 1}' if name == "broken pipe" else ""
    status, output, log = asked(["-m", "medexp.ask", trained.words[-1], *words], tmp_path, piped)
    assert (status, output) == (2, ""), log
    assert [line for line in log.splitlines() if line.startswith("medexp: ") and said in line], log
    assert log.count("medexp: ") == 1


def test_without_gradio_the_page_says_how_to_get_it(trained, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text("import sys\nsys.modules['gradio'] = None\n")
    status, output = command(
        *trained.words, "ui=true", cwd=tmp_path, PYTHONPATH=f"{hidden}{os.pathsep}{ROOT}"
    )
    assert status == 2
    assert output == "medexp: ui=true needs the package gradio: pip install 'medexp[ui]'\n"


class Terminal:
    """The command on a pseudo-terminal: what it prints is collected, what is typed is sent."""

    def __init__(self, words: list[str], cwd: Path):
        self.pid, self._end = pty.fork()
        if self.pid == 0:
            os.chdir(cwd)
            # No answers to cursor position requests come from this terminal.
            os.environ |= {
                "PYTHONPATH": str(ROOT),
                "TERM": "xterm",
                "PROMPT_TOOLKIT_NO_CPR": "1",
                "COLUMNS": "100",
                "LINES": "30",
            }
            os.execv(sys.executable, [sys.executable, *words])
        self.output, self._read_to = "", 0

    def type(self, text: str) -> None:
        """Send `text` as keys."""
        os.write(self._end, text.encode())

    def until(self, part: str, timeout_s: float = 120) -> str:
        """What has come since the last call, up to and with `part`; codes are left out."""
        end = time.monotonic() + timeout_s
        while part not in (fresh := CODES.sub("", self.output)[self._read_to :]):
            if time.monotonic() > end:
                raise AssertionError(f"{part!r} did not come; there is {fresh[-2000:]!r}")
            self._take()
        self._read_to += fresh.index(part) + len(part)
        return fresh[: fresh.index(part) + len(part)]

    def status(self) -> int:
        """Its exit status."""
        until = time.monotonic() + 30
        while time.monotonic() < until:
            self._take()
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
        raise AssertionError(f"it did not end; its last words are {self.output[-2000:]!r}")

    def close(self) -> None:
        """End it, whatever it is doing."""
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._end)

    def _take(self) -> None:
        if select.select([self._end], [], [], 0.1)[0]:
            try:
                self.output += os.read(self._end, 65536).decode(errors="replace")
            except OSError:  # the other end is closed
                time.sleep(0.05)


def test_a_conversation_on_a_terminal(trained, tmp_path: Path) -> None:
    with closing(Terminal([*trained.words, "ask.max_new_tokens=1900"], tmp_path)) as terminal:
        terminal.until("question>")
        terminal.type("What now,\x1b\rand then?\r")  # two lines: Alt-Enter between them
        terminal.until(" tokens · Ctrl-C stops")
        terminal.type("\x03")
        assert "stopped" in terminal.until(NOT_FOR_CLINICAL_USE[:30])
        terminal.until("follow-up>")
        terminal.type("/reset\r")
        terminal.until("the next question stands alone")
        terminal.until("question>")
        terminal.type("/save said.json\r")
        terminal.until("1 question saved to said.json")
        terminal.until("question>")
        terminal.type("/save said.json\r")
        terminal.until("is there already and is left alone")
        terminal.until("question>")
        terminal.type("\x03")  # at the prompt it ends nothing
        terminal.until("Ctrl-D or /quit ends")
        terminal.until("question>")
        terminal.type("\x04")
        assert terminal.status() == 0
    [[reply]] = json.loads((tmp_path / "said.json").read_text())
    assert reply["question"] == "What now,\nand then?"
    assert 0 < reply["tokens"] < 1900


def test_ctrl_c_ends_a_single_question_with_130(trained, tmp_path: Path) -> None:
    words = [
        *trained.words,
        "question=A man's pain, 54: what's next? (BP 90/60)",
        "ask.max_new_tokens=1900",
    ]
    with closing(Terminal(words, tmp_path)) as terminal:
        terminal.until(" tokens · Ctrl-C stops")
        terminal.type("\x03")
        terminal.until("medexp: stopped by Ctrl-C")
        assert terminal.status() == 130
