"""Who speaks in the conversations that cases were read from: turns by role, system texts, and how
many conversations have several turns.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from medexp.data.cases import Case, Turn


@dataclass(frozen=True)
class Conversations:
    """Of `count` conversations, `several_turns` ask more than once and `with_system` begin with a
    system text; `turns` counts what each role says, the answers that are learnt included.
    """

    count: int
    several_turns: int
    with_system: int
    turns: dict[str, int]

    def sentence(self) -> str:
        """Return the counts in words."""
        said = ", ".join(f"{count} of {role}" for role, count in self.turns.items())
        return (
            f"{self.count} conversations, {self.several_turns} with several questions,"
            f" {self.with_system} with a system text; turns: {said}"
        )


def count_conversations(cases: Iterable[Case]) -> Conversations | None:
    """Return who speaks in `cases`, each conversation counted once by its longest case; None where
    all of them are questions alone.
    """
    longest: dict[str, Case] = {}
    for number, case in enumerate(cases):
        if not case.turns:
            continue
        # Every answer of a conversation is read from the same row.
        place = case.place or str(number)
        if place not in longest or len(case.turns) > len(longest[place].turns):
            longest[place] = case
    if not longest:
        return None
    said = [(*case.turns, Turn("assistant", case.answer)) for case in longest.values()]
    roles = [[turn.role for turn in turns] for turns in said]
    return Conversations(
        count=len(said),
        several_turns=sum(turns.count("user") > 1 for turns in roles),
        with_system=sum("system" in turns for turns in roles),
        turns={
            role: sum(turns.count(role) for turns in roles)
            for role in ("system", "user", "assistant")
        },
    )
