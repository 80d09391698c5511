"""The chat template of a tokenizer as the words of a prompt: what is asked is the template's own
text up to where an answer begins, and what is learnt continues exactly that.

What a template writes around an answer is found by rendering marked texts, not by reading Jinja.
Many templates keep no chain of thought in an answer (DeepSeek's R1 drops all before `</think>`), or
open one where an answer begins. There the answer is built: the text that asks, the reasoning
between its marks, the answer, and the token by which the template ends a turn.

Where a template puts no system text, or refuses it, it is said before the first user's text. Where
it writes the date of today, a fixed one stands, as the same case must be the same text tomorrow.
Both are written into the template itself (`source`), and an export carries it with them.
"""

import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from medexp.data.cases import Turn
from medexp.data.think_marks import THINK_END, THINK_START
from medexp.errors import ConfigError, DataError, first_line

# Renders a template: its source, the turns, and whether an answer is to follow.
Render = Callable[[str, Sequence[Turn], bool], str]

# The day that Meta's templates name where nobody gives one.
DATE = "26 Jul 2024"
# Texts that no template knows; letters alone, as some templates trim or split what is said.
_SYSTEM, _USER, _NEXT = "MedexpSystemMark", "MedexpUserMark", "MedexpNextMark"
_REASONING, _ANSWER = "MedexpReasoningMark", "MedexpAnswerMark"
_FIXED_DATE = "{%- macro strftime_now(format) -%}" + DATE + "{%- endmacro -%}"
_SYSTEM_FIRST = (
    "{%- if messages[0]['role'] != 'system' -%}{%- set messages ="
    " [{'role': 'system', 'content': SYSTEM}] + messages -%}{%- endif -%}"
)
_SYSTEM_IN_USER = (
    "{%- if messages[0]['role'] == 'system' -%}{%- set messages = [{'role': 'user', 'content':"
    " messages[0]['content'] + '\\n\\n' + messages[1]['content']}] + messages[2:] -%}{%- endif -%}"
)
_OTHER_PROMPTS = "use prompt=direct for answers alone, or prompt=clinical for reasoning, too"


@dataclass(frozen=True, eq=False)
class ChatTemplate:
    """A template that was proven: what is asked begins what is learnt.

    `source` is the Jinja text. `answer` and `reasoned` are what follows a question, with {answer}
    and {reasoning} in their places, up to `end`, the token that ends an answer. `opens_reasoning`
    where what is asked ends within a chain of thought. `marks` is a text with all that the template
    writes, `digest` tells two templates apart.
    """

    name: str
    source: str
    answer: str
    reasoned: str
    end: str
    opens_reasoning: bool
    marks: str
    _render: Render
    _asked: dict[Sequence[Turn], str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Twelve hex digits of all that decides what the template writes."""
        whole = "\0".join([self.source, self.answer, self.reasoned, self.end])
        return hashlib.sha256(whole.encode()).hexdigest()[:12]

    def ask(self, turns: Sequence[Turn]) -> str:
        """Return the text that asks for an answer to `turns`, up to where that begins.

        Raises: DataError where the template refuses such a conversation.
        """
        known = tuple(turns)
        if known not in self._asked:
            try:
                self._asked[known] = self._render(self.source, known, True)
            # A template raises what it likes.
            except Exception as error:
                who = ", ".join(turn.role for turn in known)
                raise DataError(
                    f"the chat template of {self.name} refuses a conversation of {who}"
                    f" ({first_line(error)}); begin it with the user, or use another prompt"
                ) from error
        return self._asked[known]

    def complete(self, reasons: bool) -> str:
        """Return what follows the question of a case that `reasons`, or of one that does not."""
        return self.reasoned if reasons else self.answer


def prove_template(
    name: str,
    own: str,
    render: Render,
    tokens: Collection[str],
    completion: str,
    system: str | None = None,
) -> ChatTemplate:
    """Return the template `own` of the tokenizer `name`, proven on marked texts; `tokens` are the
    added tokens there, `completion` is how an answer with reasoning is said, `system` what is said
    first where a conversation has no system text.

    Raises: ConfigError where it leaves out what is said, fails, or ends no answer by a token.
    """
    refuse = _Refusal(name)
    source = _choose_source(own, render, system, refuse)
    user, answered = Turn("user", _USER), Turn("assistant", _ANSWER)

    def written(turns: Sequence[Turn], is_asked: bool, *marks: str) -> str:
        try:
            text = render(source, turns, is_asked)
        except Exception as error:
            raise refuse(f"it fails on a plain conversation ({first_line(error)})") from error
        if not _holds_in_order(text, marks):
            raise refuse("what a user or the assistant says is not in its text, once and as it is")
        return text

    asked = written([user], True, _USER)
    last = written([user, answered], False, _USER, _ANSWER)
    turns = [user, answered, Turn("user", _NEXT)]
    later = written(turns, True, _USER, _ANSWER, _NEXT)
    end = _find_end(last, tokens)
    if end is None or end != _find_end(later.partition(_NEXT)[0], tokens):
        raise refuse("it ends an answer with no token of its own")
    spoken = completion.replace("{reasoning}", _REASONING).replace("{answer}", _ANSWER)
    reasoned = _follow(render, source, asked, [user, Turn("assistant", spoken)], end)
    if reasoned is None or not _keeps_reasoning(reasoned, completion):
        reasoned = _build(asked, completion) + end[0]
    answer = _follow(render, source, asked, [user, answered], end)
    opens = asked.rstrip().endswith(THINK_START)
    if answer is None:
        answer = (f"\n{THINK_END}\n\n" if opens else "") + "{answer}" + end[0]
    instructed = written([Turn("system", _SYSTEM), user], True, _SYSTEM, _USER)
    marks = "\n".join([instructed, later, last, reasoned, answer])
    return ChatTemplate(name, source, answer, reasoned, end[1], opens, marks, render)


def without_template_error(name: str) -> ConfigError:
    """Return the error of a tokenizer that has no chat template."""
    return ConfigError(
        f"prompt=chat needs a chat template and the tokenizer of {name} has none; {_OTHER_PROMPTS}"
    )


def quote_for_jinja(text: str) -> str:
    """Return `text` as a string literal that both Jinja and llama.cpp's Jinja parser understand."""
    escapes = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return "'" + "".join(escapes.get(letter, letter) for letter in text) + "'"


def locate_turns(text: str, turns: Sequence[Turn]) -> Iterator[tuple[Turn, int, int]]:
    """Yield each of `turns` and where it stands in `text`, which asks them; one that the template
    has moved or changed is passed over.
    """
    at = 0
    for turn in turns:
        found = text.find(turn.text, at)
        if found >= 0 and turn.text:
            at = found + len(turn.text)
            yield turn, found, at


@dataclass(frozen=True)
class _Refusal:
    name: str

    def __call__(self, why: str) -> ConfigError:
        return ConfigError(
            f"prompt=chat cannot train with the chat template of {self.name}: {why};"
            f" {_OTHER_PROMPTS}"
        )


def _choose_source(own: str, render: Render, system: str | None, refuse: _Refusal) -> str:
    """Return `own` with a fixed date, `system` where it is given, and a place for system text."""
    default = _SYSTEM_FIRST.replace("SYSTEM", quote_for_jinja(system)) if system is not None else ""
    # The tokenizer of an export has all of it already.
    for known in (_FIXED_DATE, default, _SYSTEM_IN_USER):
        own = own.removeprefix(known)
    before = (_FIXED_DATE if "strftime_now" in own else "") + default
    asked = [Turn("system", _SYSTEM), Turn("user", _USER)]
    for source in (before + own, before + _SYSTEM_IN_USER + own):
        try:
            text = render(source, asked, True)
        # Some refuse a system text by raising, others leave it out.
        except Exception:
            continue
        if _holds_in_order(text, [_SYSTEM, _USER]):
            return source
    raise refuse("neither a system text nor the user's stands in what it writes")


def _find_end(text: str, tokens: Collection[str]) -> tuple[str, str] | None:
    """Return by what `text`, which goes on behind _ANSWER, ends the answer: white space, and the
    longest of `tokens` behind it. None where no token follows.
    """
    behind = text.partition(_ANSWER)[2]
    space = re.match(r"\s*", behind)
    assert space is not None
    ends = [token for token in tokens if token and behind.startswith(token, space.end())]
    return (space[0], max(ends, key=len)) if ends else None


def _follow(
    render: Render, source: str, asked: str, turns: Sequence[Turn], end: tuple[str, str]
) -> str | None:
    """Return what the template itself writes between `asked` and the end of an answer, with
    placeholders; None where that does not continue `asked`.
    """
    try:
        text = render(source, turns, False)
    except Exception:
        return None
    body, mark, behind = text.removeprefix(asked).rpartition(_ANSWER)
    if not text.startswith(asked) or not mark or not behind.startswith("".join(end)):
        return None
    # An answer that is said twice would be learnt twice.
    if _ANSWER in body:
        return None
    return body.replace(_REASONING, "{reasoning}") + "{answer}" + end[0]


def _keeps_reasoning(written: str, completion: str) -> bool:
    """Return whether the template has left reasoning and what closes it in an answer."""
    closed = completion.partition("{reasoning}")[2].partition("{answer}")[0].strip()
    between = written.partition("{reasoning}")[2].partition("{answer}")[0]
    return written.count("{reasoning}") == 1 and closed in between


def _build(asked: str, completion: str) -> str:
    """Return `completion` without what `asked` has opened of it already."""
    _, mark, opened = asked.rpartition(THINK_START)
    if not mark or opened.strip() or not completion.startswith(THINK_START):
        return completion
    rest = completion.removeprefix(THINK_START)
    return rest.removeprefix(opened) if rest.startswith(opened) else rest.lstrip()


def _holds_in_order(text: str, marks: Sequence[str]) -> bool:
    """Return whether each of `marks` stands in `text` once, in this order."""
    places = [text.find(mark) for mark in marks]
    return (
        all(text.count(mark) == 1 for mark in marks)
        and -1 not in places
        and places == sorted(places)
    )
