"""A model's answer to a question so far, split into what is shown: reasoning, sections, rest. Text
only.

Everything before `</think>` is reasoning. While more may come, so is a text without that mark where
the prompt, or the text itself, has opened one. In a complete text without it the answer begins at
the first of the four headings, and where there is no heading all of it is the answer;
`is_reasoning_closed` tells such a text from others.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from medexp.data.cases import Turn
from medexp.data.think_marks import THINK_END, THINK_START
from medexp.evaluation.measures.sections import (
    find_bare_heading,
    find_section_heading,
    parse_sections,
)
from medexp.reports.summary import NOT_FOR_CLINICAL_USE
from medexp.system.units import format_duration

REASONING, ANSWER = "Reasoning:\n", "\n\nAnswer:\n"


@dataclass(frozen=True)
class Reply:
    """An answer to `question` by the base (`base`) or the tuned model, after `tokens` tokens and
    `seconds`.

    `is_complete` once nothing more comes: `ended_by_model` where the model wrote its end token,
    `was_stopped` where the user stopped it. `expects_reasoning` where the prompt has opened a chain
    of thought that ends with `</think>`. `before` is what was said earlier, where that was part of
    what was asked.
    """

    question: str
    base: bool
    text: str
    tokens: int
    seconds: float
    expects_reasoning: bool
    is_complete: bool = False
    ended_by_model: bool = False
    was_stopped: bool = False
    before: tuple[Turn, ...] = ()

    @property
    def is_reasoning(self) -> bool:
        """Is what has come so far a chain of thought that has not ended?"""
        opened = self.expects_reasoning or self.text.lstrip().startswith(THINK_START)
        return opened and not self.is_reasoning_closed

    @property
    def is_reasoning_closed(self) -> bool:
        """Has the model written the end of its reasoning?"""
        return THINK_END in self.text

    @property
    def reasoning(self) -> str:
        """The chain of thought, as far as it has come."""
        if self.is_reasoning_closed:
            return _without_start(self.text.rpartition(THINK_END)[0].strip())
        return self._split_unclosed()[0]

    @property
    def answer(self) -> str:
        """What follows the reasoning."""
        if self.is_reasoning_closed:
            return self._stable_text().rpartition(THINK_END)[2].strip()
        return self._split_unclosed()[1]

    def _split_unclosed(self) -> tuple[str, str]:
        """Return reasoning and answer of a text without `</think>`."""
        text = self._stable_text()
        if not self.is_reasoning:
            return "", text
        text = _without_start(text)
        if not self.is_complete:
            return text, ""
        lines = text.split("\n")
        first_heading = next(
            (index for index, line in enumerate(lines) if find_section_heading(line) is not None), 0
        )
        return "\n".join(lines[:first_heading]).strip(), "\n".join(lines[first_heading:])

    def _stable_text(self) -> str:
        """Return the text without an end that the next token may change.

        Such an end is half a character, which decodes to U+FFFD, or the beginning of a mark.
        """
        if self.is_complete:
            return self.text
        text = self.text.rstrip("\ufffd")
        if THINK_START.startswith(text.strip()):
            return ""
        for length in range(len(THINK_END) - 1, 0, -1):
            if text.endswith(THINK_END[:length]):
                return text[:-length].rstrip()
        return text.rstrip()


def _without_start(text: str) -> str:
    """Return a chain of thought without the mark that the model itself has opened it with."""
    return text.removeprefix(THINK_START).lstrip()


@dataclass(frozen=True)
class ReplySection:
    """A paragraph of the reasoning, or what stands under one `heading` of the answer ("" before the
    first heading).
    """

    is_reasoning: bool
    heading: str
    text: str

    @property
    def markdown(self) -> str:
        """The section as Markdown, with its heading in the canonical spelling."""
        return f"## {self.heading}\n\n{self.text}".strip() if self.heading else self.text


def split_sections(reply: Reply) -> list[ReplySection]:
    """Return the sections of `reply` in order.

    While a reply grows only its last section changes, and new ones are added after that. Only a
    complete reply may split otherwise.
    """
    reasoning = [
        ReplySection(True, "", paragraph)
        for paragraph in reply.reasoning.split("\n")
        if paragraph.strip()
    ]
    return [*reasoning, *_split_answer(reply.answer, reply.is_complete)]


def _split_answer(answer: str, is_complete: bool) -> Iterator[ReplySection]:
    """Yield the sections of the answer.

    The last line of a growing answer is never a heading: it may be half a sentence that begins like
    one.
    """
    heading = ""
    body: list[str] = []
    lines = answer.split("\n")
    for number, line in enumerate(lines, 1):
        may_be_heading = is_complete or number < len(lines)
        next_heading = find_bare_heading(line) if may_be_heading else None
        if next_heading is None:
            body.append(line)
            continue
        if heading or any(body):
            yield ReplySection(False, heading, "\n".join(body).strip("\n"))
        heading, body = next_heading.title(), []
    if heading or any(body):
        yield ReplySection(False, heading, "\n".join(body).strip("\n"))


def format_plain_text(reply: Reply, with_reasoning: bool) -> str:
    """Return `reply` as text, its reasoning under a heading of its own or left out.

    While the reply grows, the text only grows at its end.
    """
    if not (with_reasoning and reply.reasoning):
        return reply.answer
    return (
        REASONING
        + reply.reasoning
        + (ANSWER + reply.answer if reply.is_reasoning_closed or reply.is_complete else "")
    )


def format_markdown(reply: Reply) -> str:
    """Return the answer as Markdown, without the reasoning."""
    return "\n\n".join(part.markdown for part in split_sections(reply) if not part.is_reasoning)


def make_turns(reply: Reply) -> list[Turn]:
    """Return question and answer as turns that stand before the next question, without the
    reasoning; nothing where there is no answer.
    """
    answer = reply.answer.strip()
    return [Turn("user", reply.question), Turn("assistant", answer)] if answer else []


def describe_end(reply: Reply, max_new_tokens: int) -> str:
    """Return a line that says how long the reply is and how it ended."""
    how = (
        "stopped"
        if reply.was_stopped
        else "ended by itself"
        if reply.ended_by_model
        else f"cut off by ask.max_new_tokens={max_new_tokens}"
    )
    unclosed = "" if not reply.is_reasoning else "; its reasoning never ended"
    return f"{reply.tokens} tokens in {format_duration(reply.seconds)}, {how}{unclosed}"


def make_json_object(reply: Reply, run_id: str, model: str) -> dict[str, object]:
    """Return `reply` as JSON values; "sections" maps the sections that it has to their items."""
    items: dict[str, list[str]] = {}
    for section in parse_sections(reply.text):
        items.setdefault(section.name, []).extend(section.items)
    before = [{"role": turn.role, "content": turn.text} for turn in reply.before]
    return {
        **({"before": before} if before else {}),
        "question": reply.question,
        "reasoning": reply.reasoning,
        "answer": reply.answer,
        "sections": items,
        "tokens": reply.tokens,
        "seconds": round(reply.seconds, 3),
        "ended": reply.ended_by_model,
        "reasoning_closed": reply.is_reasoning_closed,
        "run": run_id,
        "model": model,
        "base": reply.base,
        "notice": NOT_FOR_CLINICAL_USE,
    }


def format_document(title: str, turns: Sequence[Sequence[Reply]]) -> str:
    """Return questions with their replies, one or more to a question, as a Markdown document."""
    lines = [f"# {title}", f"*{NOT_FOR_CLINICAL_USE}*"]
    for turn in turns:
        quoted = "\n".join(f"> {line}".rstrip() for line in turn[0].question.splitlines())
        lines += ["---", quoted]
        for reply in turn:
            lines.append(f"**{'Base' if reply.base else 'Tuned'} model** ({reply.tokens} tokens)")
            if reply.reasoning:
                lines.append(
                    f"<details><summary>Reasoning</summary>\n\n{reply.reasoning}\n\n</details>"
                )
            lines.append(format_markdown(reply) or "(nothing)")
    return "\n\n".join(lines) + "\n"
