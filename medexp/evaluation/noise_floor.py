"""The noise floor: the same adapter asked the same questions once more, in other batches.

In 16 bits a batch of another size rounds otherwise, and a greedy answer may turn at any token.
Nothing was trained in between, so whatever differs here is no effect of training: a change that is
not larger says nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from medexp.evaluation.measure_table import Measure
from medexp.evaluation.measures.clinical_terms import Lexicon
from medexp.evaluation.record import Answer, CaseLoss, Record
from medexp.evaluation.scorecard import Scorecard, build_scorecard


@dataclass(frozen=True)
class MeasureNoise:
    """A measure of the same model twice: both means, the mean absolute difference of a case, and
    how many of how many cases differ (None for losses and marks, which have no answer).
    """

    measure: Measure
    first: float
    again: float
    case_difference: float | None
    differing: int | None
    cases: int

    @property
    def floor(self) -> float:
        """How far the mean moved although nothing was changed."""
        return abs(self.again - self.first)


def measure_noise(
    record: Record, again: Sequence[Answer], losses: Sequence[CaseLoss], lexicon: Lexicon
) -> list[MeasureNoise]:
    """Return the noise of every measure of the tuned model of `record`, whose answers and losses
    were made once more.
    """
    cases = tuple(
        replace(case, base=case.tuned, tuned=answer, base_best=None, draws={})
        for case, answer in zip(record.cases, again, strict=True)
    )
    twice = Record(
        record.reasons,
        cases,
        record.tuned_losses,
        tuple(losses),
        held_out=record.held_out,
        groups=record.groups,
    )
    return list(_list_noise(build_scorecard(twice, lexicon)))


def _list_noise(scorecard: Scorecard) -> Iterator[MeasureNoise]:
    for result in scorecard.results:
        if result.comparison is None or result.before is None or result.after is None:
            continue
        differences = [
            abs(late - early)
            for before, after in zip(scorecard.before, scorecard.after, strict=True)
            if (early := before.values.get(result.measure.key)) is not None
            and (late := after.values.get(result.measure.key)) is not None
        ]
        yield MeasureNoise(
            result.measure,
            result.before,
            result.after,
            sum(differences) / len(differences) if differences else None,
            sum(difference > 0 for difference in differences) if differences else None,
            result.comparison.pairs,
        )
