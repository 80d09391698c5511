"""The held-out cases that a finished run has answered, as examples to ask: the question, what was
said before it, and the reference answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from medexp.data.cases import Turn
from medexp.errors import DataError
from medexp.evaluation.record import AnsweredCase, Record
from medexp.tracking.artifact_names import RECORD
from medexp.tracking.finished_run import FinishedRun

TITLE_CHARACTERS = 90


@dataclass(frozen=True)
class Example:
    """A held-out case: `question` as one text, `last` and `before` as a conversation that ends with
    the question.
    """

    question: str
    reference: str
    last: str
    before: tuple[Turn, ...]

    @property
    def title(self) -> str:
        """The beginning of what is asked, on one line."""
        line = " ".join(self.last.split())
        return line if len(line) <= TITLE_CHARACTERS else f"{line[: TITLE_CHARACTERS - 1]}…"


def read_examples(run: FinishedRun) -> Sequence[Example]:
    """Return the held-out cases of the answers stored with `run`; none where none are, or where an
    older version has stored them.
    """
    if run.record is None:
        return ()
    try:
        text = run.record.read_text(encoding="utf-8")
        cases = Record.from_json(text, f"{RECORD} of run {run.asked}").cases
    except (DataError, OSError):
        return ()
    return tuple(map(_make_example, cases))


def _make_example(case: AnsweredCase) -> Example:
    *before, last = case.turns or (Turn("user", case.question),)
    return Example(case.question, case.reference, last.text, tuple(before))
