"""A case as text: what the model is shown, and what it must continue with. One function for
training and for asking.
"""

import re
from dataclasses import dataclass

from medexp.config.schema import Prompt
from medexp.data import think_marks
from medexp.data.cases import Case

# by which a chain of thought is told from the answer in what a model says
THINK_END = think_marks.THINK_END
_PLACEHOLDER = re.compile(r"\{(question|reasoning|answer)\}")


@dataclass(frozen=True)
class RenderedCase:
    """`prompt` + `completion` is the training text (BOS and EOS are added as tokens); `prompt`
    alone is what is asked.
    """

    prompt: str
    completion: str


def render_question(prompt: Prompt, question: str) -> str:
    """Return the text that asks `question`: exactly how the training text of a case with this
    question begins."""
    return _fill(prompt.question, {"question": question})


def render_case(prompt: Prompt, case: Case) -> RenderedCase:
    """Return `case` in the words of `prompt`. Placeholders are replaced in one pass, so braces
    inside a case stay as they are."""
    completion = _fill(prompt.completion, {"reasoning": case.reasoning, "answer": case.answer})
    return RenderedCase(render_question(prompt, case.question), completion)


def trains_reasoning(prompt: Prompt) -> bool:
    """Return whether a chain of thought is trained with `prompt`."""
    return "{reasoning}" in prompt.completion


def closes_reasoning(prompt: Prompt) -> bool:
    """Return whether that chain of thought ends with THINK_END. With markers of its own it cannot
    be told from the answer, and all that a model says counts as the answer."""
    return trains_reasoning(prompt) and THINK_END in prompt.completion


def locate_values(template: str, values: dict[str, str]) -> dict[str, tuple[int, int]]:
    """Return where each value stands in the filled `template`: its first character and the one
    after its last."""
    found, moved = {}, 0
    for match in _PLACEHOLDER.finditer(template):
        value = values.get(match[1], match[0])
        found[match[1]] = (match.start() + moved, match.start() + moved + len(value))
        moved += len(value) - len(match[0])
    return found


def _fill(template: str, values: dict[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), template)
