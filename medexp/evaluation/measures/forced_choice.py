"""What the log-likelihoods of a choice come to: is the right one preferred, by how much, and is the
model as sure as it should be?

The rules, in full:
- A diagnosis is chosen from the right condition and its rivals of one draw, by log-likelihood minus
  prior. Accuracy is 1 where the right one has the most, and a tie for the most shares the 1 among
  those that are tied. The margin is the right one's nats minus the best rival's. Both are means
  over the draws of a case.
- Confidence is the softmax of the nats. The Brier score of a draw is the sum over its names of
  (confidence - 1 for the right one, - 0 for the others) squared, 0 at best and 2 at worst (Brier
  1950). The calibration error is the gap between confidence in the likeliest name and its accuracy,
  over BINS bins of equal width, weighted by how many draws fall into each (Guo et al. 2017,
  arXiv:1706.04599).
- A reference item is preferred to a corruption where it costs fewer nats a token; a tie counts a
  half. Per token, because a model that finds every token equally likely then scores 0.5 on every
  kind, while by the sum it would prefer whatever is shorter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, isclose
from typing import Any

BINS = 10
LIKELIHOOD_MEASURES = ("diagnosis_likelihood", "diagnosis_margin", "knowledge_likelihood")


@dataclass(frozen=True)
class DiagnosisScores:
    """A case and the nats (log-likelihood minus prior) of `candidates`, of which the first is
    right. `draws` holds places in `candidates`, the rivals of one draw each; `group` says which
    cases belong together."""

    case: str
    group: str
    candidates: tuple[str, ...]
    nats: tuple[float, ...]
    draws: tuple[tuple[int, ...], ...]

    @property
    def accuracy(self) -> float:
        """The share of draws in which the right one is preferred."""
        return _mean([_measure_share_of_best(self._pick_candidates(draw)) for draw in self.draws])

    @property
    def margin(self) -> float:
        """Nats by which the right one is preferred to the best rival, a draw."""
        drawn = [self._pick_candidates(draw) for draw in self.draws]
        return _mean([right - max(rivals) for right, *rivals in drawn])

    @property
    def brier(self) -> float:
        """The Brier score, a draw."""
        sure = [_softmax(self._pick_candidates(draw)) for draw in self.draws]
        return _mean(
            [(right - 1) ** 2 + sum(chance**2 for chance in rest) for right, *rest in sure]
        )

    def _pick_candidates(self, draw: Sequence[int]) -> list[float]:
        return [self.nats[0], *(self.nats[place] for place in draw)]


@dataclass(frozen=True)
class ItemScores:
    """A reference item against one corruption of it: of which `kind`, and the nats (negative
    log-likelihood) and tokens of both."""

    kind: str
    true_nats: float
    true_tokens: int
    corrupted_nats: float
    corrupted_tokens: int

    @property
    def preference(self) -> float:
        """1 where the true item costs fewer nats a token, 0 where the corruption does, else 0.5."""
        return _half_at_tie(
            self.corrupted_nats / self.corrupted_tokens, self.true_nats / self.true_tokens
        )

    @property
    def preference_by_sum(self) -> float:
        """The same by the nats of the whole item, which favours whatever is shorter."""
        return _half_at_tie(self.corrupted_nats, self.true_nats)


@dataclass(frozen=True)
class KnowledgeScores:
    """A case and all pairs of its reference; `group` says which cases belong together."""

    case: str
    group: str
    pairs: tuple[ItemScores, ...]

    @property
    def preference(self) -> float:
        """The share of pairs in which the true item is preferred."""
        return _mean([pair.preference for pair in self.pairs])


@dataclass(frozen=True)
class Likelihoods:
    """What one model finds likely: the scores of every case that could be measured."""

    diagnoses: tuple[DiagnosisScores, ...] = ()
    knowledge: tuple[KnowledgeScores, ...] = ()

    def values(self, key: str) -> dict[str, float]:
        """Return the value of measure `key`, one of LIKELIHOOD_MEASURES, by the case's digest."""
        if key == "diagnosis_likelihood":
            return {scores.case: scores.accuracy for scores in self.diagnoses}
        if key == "diagnosis_margin":
            return {scores.case: scores.margin for scores in self.diagnoses}
        return {scores.case: scores.preference for scores in self.knowledge}

    @staticmethod
    def from_json(stored: Mapping[str, Any]) -> "Likelihoods":
        """Return the likelihoods of plain values, as `asdict` and JSON leave them.

        Raises: KeyError or TypeError if they are others.
        """
        diagnoses = tuple(
            DiagnosisScores(
                scores["case"],
                scores["group"],
                tuple(scores["candidates"]),
                tuple(scores["nats"]),
                tuple(tuple(draw) for draw in scores["draws"]),
            )
            for scores in stored["diagnoses"]
        )
        knowledge = tuple(
            KnowledgeScores(
                scores["case"],
                scores["group"],
                tuple(ItemScores(**pair) for pair in scores["pairs"]),
            )
            for scores in stored["knowledge"]
        )
        return Likelihoods(diagnoses, knowledge)


def measure_calibration_error(cases: Sequence[DiagnosisScores]) -> float:
    """Return the expected calibration error over all draws of `cases`."""
    bins: dict[int, list[tuple[float, float]]] = {}
    draws = 0
    for case in cases:
        for draw in case.draws:
            nats = [case.nats[0], *(case.nats[place] for place in draw)]
            sure = max(_softmax(nats))
            bins.setdefault(min(int(sure * BINS), BINS - 1), []).append(
                (sure, _measure_share_of_best(nats))
            )
            draws += 1
    gaps = (abs(sum(sure - right for sure, right in members)) for members in bins.values())
    return sum(gaps) / draws


def _measure_share_of_best(nats: Sequence[float]) -> float:
    """Return the share of a 1 that the first of `nats` has."""
    best = max(nats)
    tied = sum(isclose(value, best, abs_tol=1e-9) for value in nats)
    return 1 / tied if isclose(nats[0], best, abs_tol=1e-9) else 0.0


def _softmax(nats: Sequence[float]) -> list[float]:
    best = max(nats)
    weights = [exp(value - best) for value in nats]
    return [weight / sum(weights) for weight in weights]


def _half_at_tie(larger: float, smaller: float) -> float:
    return 0.5 if isclose(larger, smaller, rel_tol=1e-9) else float(larger > smaller)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
