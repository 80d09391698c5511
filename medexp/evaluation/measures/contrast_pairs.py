"""Do the answers to two vignettes that differ in one decisive detail differ as they must?

Two cases with the same `pair` are alike but for a detail that changes diagnosis or management
(a penicillin allergy, a positive pregnancy test). `decisive` is what an answer to the one must say
and an answer to the other must not, a statement as `safety` reads them. A pair is told apart when
both answers say their own and neither says the other's: an answer that fits every vignette, or that
names both, tells nothing apart.

What an answer only says for another case does not count, on either side: sentences that begin with
a condition ("if she is allergic, doxycycline"), clauses that hold one ("doxycycline if allergic"),
and, of what it must not say, the section Red Flags.
"""

import re
from collections.abc import Mapping, Sequence

from medexp.data.cases import DECISIVE, PAIR
from medexp.evaluation.measures.safety import mark_said_statements
from medexp.evaluation.measures.sections import find_section_heading
from medexp.evaluation.measures.words import extract_answer

_CONDITIONAL = re.compile(r"\b(?:if|unless|in case|otherwise)\b", re.IGNORECASE)
_BEGINS_WITH_CONDITION = re.compile(r"\W*(?:if|unless|in case|should|otherwise)\b", re.IGNORECASE)


def find_twins(extras: Sequence[Mapping[str, str]]) -> dict[int, int]:
    """Return the place of the other case of its pair for the place of every case that has one.

    `extras` are the further columns of the cases. A pair of which one case alone is here, and more
    than two cases of one name, are no pair.
    """
    places: dict[str, list[int]] = {}
    for place, extra in enumerate(extras):
        if extra.get(PAIR) and extra.get(DECISIVE):
            places.setdefault(extra[PAIR], []).append(place)
    pairs = [found for found in places.values() if len(found) == 2]
    return {one: other for pair in pairs for one, other in (pair, reversed(pair))}


def mark_pairs_told_apart(
    answers: Sequence[str], extras: Sequence[Mapping[str, str]]
) -> list[float | None]:
    """Return for every case whether its pair was told apart (1 or 0), None where it is of no pair.

    Both cases of a pair have the same value, so that the mean over cases is the share of pairs.
    """
    twins = find_twins(extras)
    is_right = {
        place: _says(answers[place], extras[place], is_own=True)
        and not _says(answers[place], extras[twin], is_own=False)
        for place, twin in twins.items()
    }
    return [
        float(is_right[place] and is_right[twins[place]]) if place in twins else None
        for place in range(len(answers))
    ]


def _says(answer: str, extra: Mapping[str, str], is_own: bool) -> bool:
    """Return whether `answer` commits itself to the decisive statement of the case of `extra`."""
    text = _drop_conditions(extract_answer(answer), with_red_flags=is_own)
    return mark_said_statements(text, [extra[DECISIVE]])[0]


def _drop_conditions(text: str, with_red_flags: bool) -> str:
    """Return `text` without what it says for another case."""
    section, kept = None, []
    for line in text.splitlines():
        section = find_section_heading(line) or section
        if section == "red flags" and not with_red_flags:
            continue
        for sentence in re.split(r"(?<=[.;])\s+", line):
            if not _BEGINS_WITH_CONDITION.match(sentence):
                clauses = re.split(r"(?<=,)\s+", sentence)
                kept.append(" ".join(part for part in clauses if not _CONDITIONAL.search(part)))
        kept.append("\n")
    return "\n".join(kept)
