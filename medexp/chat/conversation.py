"""A conversation on the terminal: questions are typed or pasted, answers come token by token, and
commands begin with a slash.

A model that was trained with prompt=chat is asked a follow-up as the next turn of a conversation:
everything said since the last `/reset` stands before it, its own answers without their reasoning.
Every other model was tuned on one question and one answer. A follow-up is therefore asked as one
question too: everything typed since the last `/reset`, one below the other, and the model does not
see its own answers again. Nothing that is typed is written to disk, unless by `/save`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from medexp.chat.interrupt import intercept_ctrl_c
from medexp.chat.rendering import (
    LiveRenderer,
    make_comparison_table,
    open_live_region,
    render_reply,
)
from medexp.chat.reply import Reply, format_document, make_turns
from medexp.chat.responder import Responder
from medexp.config.command_options import Reasoning
from medexp.data.cases import Turn
from medexp.errors import MedexpError, listing, nearest
from medexp.reports.summary import NOT_FOR_CLINICAL_USE
from medexp.system.console import Console
from medexp.system.home import expand_home

HELP = {
    "/help": "these lines",
    "/compare": "the base model's answer to the last question, beside the tuned model's",
    "/reasoning": (
        "the reasoning of the last answer; /reasoning show or hide: that of all further ones"
    ),
    "/reset": "forget the case: the next question stands alone",
    "/save FILE": "the conversation as .md or .json; a file that is there is left alone",
    "/quit": "end (Ctrl-D too)",
}
KEYS = (
    "Enter asks, Alt-Enter begins a new line, pasted lines stay together, Ctrl-C stops an answer."
)


@dataclass
class Conversation:
    """A conversation so far.

    `case` holds the questions since the last reset, `before` all that was said since then where the
    run was trained on conversations, `turns` the replies to every question: one, or after
    `/compare` two.
    """

    responder: Responder
    console: Console
    with_reasoning: bool
    launch_dir: Path
    case: list[str] = field(default_factory=list)
    before: list[Turn] = field(default_factory=list)
    turns: list[list[Reply]] = field(default_factory=list)

    def run(self, read: Callable[[str], str]) -> None:
        """Handle one line after another until /quit, or until `read` raises EOFError.

        `read` is called with the text to print before the cursor.
        """
        self.console.result(f"{KEYS} /help lists the commands.")
        self.console.result(f"{_describe_follow_ups(self.responder)}")
        self.console.result(f"{NOT_FOR_CLINICAL_USE}\n", style="italic")
        while True:
            try:
                line = read("follow-up> " if self.case else "question> ").strip()
            except KeyboardInterrupt:
                self._print_note("Ctrl-D or /quit ends the conversation")
                continue
            except EOFError:
                return
            if line == "/quit":
                return
            if line:
                self.handle_line(line)

    def handle_line(self, line: str) -> None:
        """Handle a command or a question; an error is printed and the conversation goes on."""
        try:
            if line.startswith("/"):
                self._command(line)
            else:
                self._ask(line)
        except KeyboardInterrupt:
            self._print_note("stopped at once; that answer is not kept")
        except MedexpError as error:
            self._print_note(str(error))

    def _command(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        commands: dict[str, Callable[[str], None]] = {
            "/help": self._print_help,
            "/compare": self._compare,
            "/reasoning": self._show_reasoning,
            "/reset": self._reset,
            "/save": self._save,
        }
        if word not in commands:
            known = [*commands, "/quit"]
            self._print_note(
                f"{word} is not a command; there are {listing(known)}{nearest(word, known)}"
            )
        else:
            commands[word](rest.strip())

    def _ask(self, line: str) -> None:
        converses = self.responder.converses
        question = line if converses else "\n\n".join([*self.case, line])
        # A question that is refused is refused before the screen changes.
        self.responder.encoder.encode(question, before=self.before)
        with (
            intercept_ctrl_c() as stop,
            LiveRenderer(self.console.results, self.with_reasoning) as renderer,
        ):
            reply = render_reply(self.responder, question, renderer, stop, self.before)
        self.case.append(line)
        if converses:
            self.before += make_turns(reply)
        self.turns.append([reply])

    def _compare(self, _rest: str) -> None:
        if not self.turns:
            self._print_note("nothing has been asked yet")
            return
        tuned = self.turns[-1][-1]
        if len(self.turns[-1]) == 1:
            with intercept_ctrl_c() as stop, open_live_region(self.console.results) as draw:

                def show_token(reply: Reply) -> bool:
                    draw(make_comparison_table(reply, tuned, self.with_reasoning))
                    return stop.is_requested

                self.turns[-1].insert(
                    0,
                    self.responder.reply(
                        tuned.question, show_token, base=True, before=tuned.before
                    ),
                )
        self.console.results.print(
            make_comparison_table(self.turns[-1][0], tuned, self.with_reasoning)
        )
        self.console.result(NOT_FOR_CLINICAL_USE, style="italic")

    def _show_reasoning(self, rest: str) -> None:
        if rest in {choice.value for choice in Reasoning}:
            self.with_reasoning = rest == Reasoning.show.value
            self._print_note(
                f"reasoning is {'shown' if self.with_reasoning else 'hidden'} from now on"
            )
        elif rest:
            self._print_note("write /reasoning, /reasoning show, or /reasoning hide")
        elif not self.turns or not self.turns[-1][-1].reasoning:
            self._print_note("there is no reasoning to show")
        else:
            self.console.results.print(self.turns[-1][-1].reasoning, style="dim", markup=False)

    def _reset(self, _rest: str) -> None:
        self.case.clear()
        self.before.clear()
        self._print_note("the next question stands alone")

    def _save(self, rest: str) -> None:
        file = (self.launch_dir / expand_home(rest)) if rest else Path()
        writers = {".md": self._document, ".json": self._json}
        if file.suffix not in writers:
            self._print_note(f"write /save FILE, where FILE ends in {listing(writers)}")
            return
        try:
            with file.open("x", encoding="utf-8") as stream:
                stream.write(writers[file.suffix]())
        except FileExistsError:
            self._print_note(f"{rest} is there already and is left alone; give another name")
        except OSError as error:
            self._print_note(f"{rest} cannot be written ({error.strerror})")
        else:
            self._print_note(
                f"{len(self.turns)} question{'s' if len(self.turns) != 1 else ''} saved to {rest}"
            )

    def _document(self) -> str:
        return format_document(f"Conversation with {self.responder.name}", self.turns)

    def _json(self) -> str:
        turns = [[self.responder.as_json(reply) for reply in replies] for replies in self.turns]
        return json.dumps(turns, ensure_ascii=False, indent=2) + "\n"

    def _print_note(self, text: str) -> None:
        self.console.log.print(text, style="yellow", markup=False)

    def _print_help(self, _rest: str) -> None:
        for command, description in HELP.items():
            self.console.result(f"  {command:12} {description}")
        self.console.result(f"  {KEYS}")


def _describe_follow_ups(responder: Responder) -> str:
    """Return how a follow-up is asked, in a sentence."""
    name = responder.config.prompt.name
    if responder.converses:
        return "A follow-up is the next turn: the model sees what was said since /reset."
    return (
        f"A follow-up is asked in one question with those since /reset: prompt={name} knows no"
        " turns, prompt=chat does."
    )


def make_terminal_reader() -> Callable[[str], str]:
    """Return a function that reads what is typed: several lines, edited and recalled with the arrow
    keys. The history is only in memory.
    """
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()
    keys.add("enter")(lambda event: event.current_buffer.validate_and_handle())
    keys.add("escape", "enter")(lambda event: event.current_buffer.insert_text("\n"))
    commands = WordCompleter([command.partition(" ")[0] for command in HELP], sentence=True)
    session: PromptSession[str] = PromptSession(
        multiline=True,
        key_bindings=keys,
        history=InMemoryHistory(),
        completer=commands,
        complete_while_typing=False,
    )
    return session.prompt
