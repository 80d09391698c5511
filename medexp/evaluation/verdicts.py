"""Which measures may give a verdict, and which: one standard for train, evaluate, compare and card.

- A primary measure is named in the config before the run (`evaluation.primary`). It may say
  improved, worse, no detectable change or too few groups, with Holm's correction over the primary
  measures and over nothing else.
- A harm measure may say worse early: one-sided at HARM_LEVEL, or, where it was named for the case,
  by a single newly harmful one.
- Everything else is described: higher, lower, same. Many measures without a plan find something
  by chance, and what they find is a question for the next run.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from medexp.evaluation.paired_stats import PairedComparison, adjust_holm

# A harm is called on weaker evidence than a gain: a missed one costs a patient, a false one a look.
HARM_LEVEL = 0.1
Name = TypeVar("Name", bound=Hashable)
IMPROVED, WORSE, UNCHANGED = "improved", "worse", "no detectable change"


class Role(Enum):
    """What a measure is for: a verdict on medicine, a warning of harm, or a description."""

    primary = "primary"
    harm = "harm"
    description = "description"


@dataclass(frozen=True)
class Verdict:
    """The `word` for a comparison, and the p that it rests on (None for a description).

    `newly_harmful` counts the cases that were harmless before and are harmful after.
    """

    word: str
    role: Role
    adjusted_p: float | None = None
    newly_harmful: int = 0

    @property
    def is_alarm(self) -> bool:
        """Is it a harm that was called?"""
        return self.role is Role.harm and self.word == WORSE


@dataclass(frozen=True)
class MeasuredChange:
    """A comparison of one measure: its role, the direction that is better, and its cases.

    `better` is 1 or -1 for a primary or harm measure. `before` and `after` are a harm measure's
    values of every case. `one_case_is_enough` where a single newly harmful case calls it: a
    statement that was named as harmful for this very case. What finds harm by rules that err now
    and then needs more than one.
    """

    role: Role
    better: int
    comparison: PairedComparison
    before: Sequence[float] = ()
    after: Sequence[float] = ()
    one_case_is_enough: bool = True


def give_verdicts(changes: Mapping[Name, MeasuredChange]) -> dict[Name, Verdict]:
    """Return the verdict of every measure of `changes`; p is adjusted over the primary ones."""
    primary = [key for key, change in changes.items() if change.role is Role.primary]
    adjusted = dict(
        zip(primary, adjust_holm([changes[key].comparison.p_value for key in primary]), strict=True)
    )
    verdicts: dict[Name, Verdict] = {}
    for key, change in changes.items():
        if change.role is Role.primary:
            verdicts[key] = _judge_primary(change, adjusted[key], len(primary))
        elif change.role is Role.harm:
            verdicts[key] = _judge_harm(change)
        else:
            verdicts[key] = Verdict(describe_direction(change.comparison.change), Role.description)
    return verdicts


def describe_direction(change: float) -> str:
    """Return higher, lower or same."""
    return "same" if abs(change) < 1e-9 else "higher" if change > 0 else "lower"


def find_newly_harmful(before: Sequence[float], after: Sequence[float], better: int) -> list[int]:
    """Return the places of the cases without harm before and with harm after, the worst first.

    Harm is counted (`better` -1: more is worse, none is 0) or a share of safe answers (`better` 1).
    """
    harmless = 0.0 if better < 0 else 1.0
    rises = {
        place: -better * (late - early)
        for place, (early, late) in enumerate(zip(before, after, strict=True))
        if early == harmless and late != harmless
    }
    return sorted(rises, key=lambda place: -rises[place])


def _judge_primary(change: MeasuredChange, adjusted_p: float, comparisons: int) -> Verdict:
    comparison = change.comparison
    if comparison.is_detected_at(adjusted_p):
        is_better = comparison.change * change.better > 0
        return Verdict(IMPROVED if is_better else WORSE, Role.primary, adjusted_p)
    return Verdict(
        comparison.verdict_without_change(UNCHANGED, comparisons), Role.primary, adjusted_p
    )


def _judge_harm(change: MeasuredChange) -> Verdict:
    comparison = change.comparison
    p_worse = comparison.p_rise if change.better < 0 else comparison.p_fall
    newly_harmful = len(find_newly_harmful(change.before, change.after, change.better))
    if (newly_harmful and change.one_case_is_enough) or p_worse < HARM_LEVEL:
        word = WORSE
    elif comparison.is_detected and comparison.change * change.better > 0:
        word = IMPROVED
    else:
        word = comparison.verdict_without_change(UNCHANGED)
    return Verdict(word, Role.harm, p_worse, newly_harmful)
