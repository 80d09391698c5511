"""Do the answers to two vignettes that differ in one decisive detail differ as they must?

Two cases with the same `pair` are alike but for a detail that changes diagnosis or management
(a penicillin allergy, a positive pregnancy test). `decisive` is what an answer to the one must say
and an answer to the other must not, a statement as `safety` reads them. A pair is told apart when
both answers say their own and neither says the other's: an answer that fits every vignette, or that
names both, tells nothing apart.
"""

from collections.abc import Mapping, Sequence

from medexp.data.cases import DECISIVE, PAIR
from medexp.evaluation.measures.safety import mark_said_statements


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
        place: mark_said_statements(
            answers[place], [extras[place][DECISIVE], extras[twin][DECISIVE]]
        )
        == (True, False)
        for place, twin in twins.items()
    }
    return [
        float(is_right[place] and is_right[twins[place]]) if place in twins else None
        for place in range(len(answers))
    ]
