"""The marks around a chain of thought, `<think>` and `</think>`: where an answer holds them, its
reasoning is told apart there.
"""

import re

THINK_START, THINK_END = "<think>", "</think>"
# Templates of reasoning models write the opening mark themselves, so that their answers begin
# behind it.
_MARKED = re.compile(rf"\s*(?:{THINK_START})?(.*?){THINK_END}(.*)", re.DOTALL)


def split_reasoning(text: str) -> tuple[str, str] | None:
    """Return (reasoning, answer) of a `text` that holds a chain of thought in marks, then an
    answer; None where it holds none, or marks that do not pair."""
    marked = _MARKED.fullmatch(text) if THINK_END in text else None
    if marked is None or any(holds_marks(part) for part in marked.groups()):
        return None
    return marked[1].strip(), marked[2].strip()


def holds_marks(text: str) -> bool:
    """Return whether `text` holds either mark."""
    return THINK_START in text or THINK_END in text
