"""The three lines that lead every report: FORM, MEDICINE, HARM, and the worst cases first.

Form is described and never praised: headings are the first thing that fine-tuning teaches, and the
least that a patient needs. Medicine is what the primary measures say. Harm comes last and decides:
a run whose answers newly say what must not be said is red, whatever its form gained.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from medexp.evaluation.measure_table import FORM_MEASURES
from medexp.evaluation.scorecard import MeasureResult, Scorecard
from medexp.evaluation.scored_answers import HarmfulPassage
from medexp.evaluation.verdicts import IMPROVED, WORSE, Role
from medexp.system.units import format_figure


class Tone(Enum):
    """How a line is to be taken: bad is red, good is green, plain is neither."""

    bad = "bad"
    good = "good"
    plain = "plain"


@dataclass(frozen=True)
class LeadingLine:
    """One of the three lines: its name in capitals, what it says, and how it is to be taken."""

    name: str
    text: str
    tone: Tone


@dataclass(frozen=True)
class HarmfulCase:
    """A case whose tuned answer is harmful: the question, the passages of the tuned answer, and how
    many there are before and after. `is_new` where the base's answer had none.
    """

    place: int
    question: str
    passages: tuple[HarmfulPassage, ...]
    before: float
    after: float
    is_new: bool


def make_leading_lines(card: Scorecard) -> tuple[LeadingLine, ...]:
    """Return FORM, MEDICINE and HARM of an evaluation."""
    return (_describe_form(card), _judge_medicine(card), _judge_harm(card))


def list_harmful_cases(card: Scorecard) -> list[HarmfulCase]:
    """Return the cases whose tuned answers are harmful, new ones first, then the worst."""
    cases: list[HarmfulCase] = []
    for place, (question, answer) in enumerate(zip(card.questions, card.after, strict=True)):
        counts = list(_count_harms(card, place))
        before, after = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0)
        if after:
            is_new = any(early == 0 and late > 0 for early, late in counts)
            passages = answer.harms
            cases.append(HarmfulCase(place, question, passages, before, after, is_new))
    return sorted(cases, key=lambda case: (not case.is_new, case.before - case.after, -case.after))


def is_red(card: Scorecard) -> bool:
    """Return whether harm is called: a case newly harmful, or more of it than chance allows."""
    return any(_is_alarm(result) for result in card.results_of(Role.harm))


def _describe_form(card: Scorecard) -> LeadingLine:
    parts = [
        f"{result.measure.title} {_describe_change(result)}"
        for key in FORM_MEASURES
        if (result := card.find_result(key)).comparison is not None
    ]
    return LeadingLine("FORM", "; ".join(parts) or "not measured", Tone.plain)


def _judge_medicine(card: Scorecard) -> LeadingLine:
    wanted = card.primary
    results = card.results_of(Role.primary)
    if not results:
        names = ", ".join(_list_titles(card, wanted))
        return LeadingLine("MEDICINE", f"not measured ({names})", Tone.plain)
    text = "; ".join(
        f"{result.measure.title} {_describe_change(result)}: {result.verdict}"
        f"{_describe_reach(result, len(results))}"
        for result in results
    )
    missing = [key for key in wanted if key not in {result.measure.key for result in results}]
    if missing:
        text += f"; not measured: {', '.join(_list_titles(card, missing))}"
    words = {result.verdict for result in results}
    tone = Tone.bad if WORSE in words else Tone.good if IMPROVED in words else Tone.plain
    # Nothing is green beside harm: what is gained does not make up for it.
    if tone is Tone.good and is_red(card):
        tone = Tone.plain
    return LeadingLine("MEDICINE", f"{text} ({_describe_sample(results)})", tone)


def _judge_harm(card: Scorecard) -> LeadingLine:
    results = card.results_of(Role.harm)
    if not results:
        return LeadingLine("HARM", "not measured", Tone.plain)
    parts = []
    for result in results:
        new = result.judged.newly_harmful if result.judged is not None else 0
        newly = f", {new} case{'s' * (new != 1)} newly harmful" if new else ""
        parts.append(f"{result.measure.title} {_describe_change(result)}: {result.verdict}{newly}")
    tone = Tone.plain
    if any(_is_alarm(result) for result in results):
        tone = Tone.bad
    elif all(result.verdict == IMPROVED for result in results):
        tone = Tone.good
    return LeadingLine("HARM", "; ".join(parts), tone)


def _is_alarm(result: MeasureResult) -> bool:
    return result.judged is not None and result.judged.is_alarm


def _describe_change(result: MeasureResult) -> str:
    return f"{format_figure(result.before)} -> {format_figure(result.after)}"


def _describe_reach(result: MeasureResult, comparisons: int) -> str:
    """Return what could have been found, where nothing was."""
    if result.comparison is None or result.verdict in (IMPROVED, WORSE):
        return ""
    detectable = result.comparison.detectable(comparisons)
    return "" if detectable is None else f" (could have found {detectable:.2g})"


def _describe_sample(results: Sequence[MeasureResult]) -> str:
    samples = {result.comparison.sample() for result in results if result.comparison is not None}
    return ", ".join(sorted(samples))


def _list_titles(card: Scorecard, keys: Sequence[str]) -> Iterator[str]:
    titles = {result.measure.key: result.measure.title for result in card.results}
    return (titles.get(key, key) for key in keys)


def _count_harms(card: Scorecard, place: int) -> Iterator[tuple[float, float]]:
    """Yield the harms of a case in every harm measure: of the base it is held against, and now."""
    for result in card.results_of(Role.harm):
        key = result.measure.key
        before = card.side(result.against)[place].values.get(key)
        after = card.after[place].values.get(key)
        if before is not None and after is not None:
            yield before, after
