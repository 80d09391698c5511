"""What a model has said to a question so far, in parts that can be shown: reasoning, sections,
rest. Text only.

Before `</think>` everything is reasoning, as long as more may come. In a text that has come to its
end without one, the answer begins with the first of the four headings, and is all of it where there
is none; `closed` says so.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from medexp.data.prompts import THINK_END
from medexp.evaluation.measures.sections import heading_alone, section_at, sections
from medexp.reports.summary import NOT_FOR_CLINICAL_USE
from medexp.system.units import duration

REASONING, ANSWER = "Reasoning:\n", "\n\nAnswer:\n"


@dataclass(frozen=True)
class Reply:
    """An answer to `question` by the base (`base`) or the tuned model, after `tokens` tokens and
    `seconds`.

    `whole` once nothing more comes, `ended` where that is because the model said so, `stopped`
    where it is because a user did. `reasons` where the prompt asks for a chain of thought that ends
    with `</think>`.
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

    @property
    def is_reasoning_closed(self) -> bool:
        """Has the reasoning come to its end?"""
        return THINK_END in self.text

    @property
    def reasoning(self) -> str:
        """The chain of thought, as far as it has come."""
        if self.is_reasoning_closed:
            return self.text.rpartition(THINK_END)[0].strip()
        return self._unclosed[0]

    @property
    def answer(self) -> str:
        """What follows the reasoning."""
        if self.is_reasoning_closed:
            return self._settled.rpartition(THINK_END)[2].strip()
        return self._unclosed[1]

    @property
    def _unclosed(self) -> tuple[str, str]:
        """Reasoning and answer of a text without `</think>`."""
        if not self.expects_reasoning:
            return "", self._settled
        if not self.is_complete:
            return self._settled, ""
        lines = self._settled.split("\n")
        heading = next(
            (number for number, line in enumerate(lines) if section_at(line) is not None), 0
        )
        return "\n".join(lines[:heading]).strip(), "\n".join(lines[heading:])

    @property
    def _settled(self) -> str:
        """The text without an end that the next token may change: half a character, half a
        `</think>`.
        """
        if self.is_complete:
            return self.text
        text = self.text.rstrip("\ufffd")
        for length in range(len(THINK_END) - 1, 0, -1):
            if text.endswith(THINK_END[:length]):
                return text[:-length].rstrip()
        return text.rstrip()


@dataclass(frozen=True)
class ReplySection:
    """A run of a reply: a paragraph of its reasoning, or of its answer what stands under one
    heading ("" before any).
    """

    is_reasoning: bool
    heading: str
    text: str

    @property
    def markdown(self) -> str:
        """It as Markdown, its heading spelt one way."""
        return f"## {self.heading}\n\n{self.text}".strip() if self.heading else self.text


def split_sections(reply: Reply) -> list[ReplySection]:
    """`reply` in order. As it grows only the last part changes, and parts are added after it, until
    it is whole.
    """
    reasoning = [
        ReplySection(True, "", paragraph)
        for paragraph in reply.reasoning.split("\n")
        if paragraph.strip()
    ]
    return [*reasoning, *_split_answer(reply.answer, reply.is_complete)]


def _split_answer(answer: str, whole: bool) -> Iterator[ReplySection]:
    """The answer cut at its headings. Until it is whole its last line is none: it may be half a
    sentence that begins like one.
    """
    heading, lines = "", list[str]()
    every = answer.split("\n")
    for number, line in enumerate(every, 1):
        found = heading_alone(line) if whole or number < len(every) else None
        if found is None:
            lines.append(line)
            continue
        if heading or any(lines):
            yield ReplySection(False, heading, "\n".join(lines).strip("\n"))
        heading, lines = found.title(), []
    if heading or any(lines):
        yield ReplySection(False, heading, "\n".join(lines).strip("\n"))


def format_plain_text(reply: Reply, with_reasoning: bool) -> str:
    """`reply` as text, growing at its end alone until it is whole; its reasoning under a heading of
    its own, or left out.
    """
    if not (with_reasoning and reply.reasoning):
        return reply.answer
    return (
        REASONING
        + reply.reasoning
        + (ANSWER + reply.answer if reply.is_reasoning_closed or reply.is_complete else "")
    )


def format_markdown(reply: Reply) -> str:
    """The answer as Markdown, without its reasoning."""
    return "\n\n".join(part.markdown for part in split_sections(reply) if not part.is_reasoning)


def describe_end(reply: Reply, max_new_tokens: int) -> str:
    """How the reply came to its end, in a line."""
    how = (
        "stopped"
        if reply.was_stopped
        else "ended by itself"
        if reply.ended_by_model
        else f"cut off by ask.max_new_tokens={max_new_tokens}"
    )
    unclosed = (
        ""
        if reply.is_reasoning_closed or not reply.expects_reasoning
        else "; its reasoning never ended"
    )
    return f"{reply.tokens} tokens in {duration(reply.seconds)}, {how}{unclosed}"


def make_json_object(reply: Reply, run_id: str, model: str) -> dict[str, object]:
    """`reply` as plain values, for programs. `sections` maps each of the four that is there to its
    items.
    """
    items: dict[str, list[str]] = {}
    for section in sections(reply.text):
        items.setdefault(section.name, []).extend(section.items)
    return {
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
    """Questions with their replies (of each one or more) as a Markdown document."""
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
