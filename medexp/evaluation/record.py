"""What an evaluation has seen, as it is kept with a run: questions, references, both answers, and
the loss of every held-out case.

Everything that is scored is scored from this alone, so that stored answers give the same figures
again, to the digit.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from medexp.data.cases import Case
from medexp.errors import DataError

VERSION = 1


@dataclass(frozen=True)
class Answer:
    """What the model said to case number `case`; `ended` is False where it ran into the token
    limit.
    """

    case: int
    text: str
    tokens: int
    ended: bool


@dataclass(frozen=True)
class CaseLoss:
    """The summed negative log-likelihood of a case's labelled tokens, in nats, and how many they
    are; of them those of the answer."""

    nats: float
    tokens: int
    answer_nats: float = 0.0
    answer_tokens: int = 0

    @property
    def per_token(self) -> float:
        """Nats a token of this case."""
        return self.nats / self.tokens

    @property
    def answer(self) -> "CaseLoss":
        """The answer alone."""
        return CaseLoss(self.answer_nats, self.answer_tokens)

    @property
    def reasoning(self) -> "CaseLoss":
        """What comes before the answer alone."""
        return CaseLoss(self.nats - self.answer_nats, self.tokens - self.answer_tokens)


def mean_loss(losses: Sequence[CaseLoss]) -> float:
    """Nats a token over all cases, every token counting the same."""
    return sum(loss.nats for loss in losses) / sum(loss.tokens for loss in losses)


@dataclass(frozen=True)
class AnsweredCase:
    """A held-out case and what the base and the tuned model said to its question."""

    question: str
    reference: str
    extra: Mapping[str, str]
    base: Answer
    tuned: Answer

    @property
    def digest(self) -> str:
        """What tells this case from others, as `data.records.Case.digest`."""
        return Case(self.question, "", self.reference).digest


@dataclass(frozen=True)
class BenchmarkGrades:
    """The questions of a benchmark, in order: was each answered right by the base, and by the tuned
    model?
    """

    base: tuple[bool, ...]
    tuned: tuple[bool, ...]


@dataclass(frozen=True)
class Judgement:
    """A judge's mark (None where it gave none), its reason, and what the question cost in tokens
    and, where known, in dollars.
    """

    mark: float | None
    rationale: str
    tokens: int
    dollars: float


@dataclass(frozen=True)
class Judgements:
    """Judgements of the first cases, in order, as many as were had; `failure` says why there are
    not more.
    """

    base: tuple[Judgement, ...]
    tuned: tuple[Judgement, ...]
    failure: str = ""


@dataclass(frozen=True)
class Record:
    """An evaluation: `reasons` where the prompt asks for a chain of thought that ends with
    `</think>`; losses are those of all held-out cases, whose digests are `held_out` (empty in
    records older than it); benchmarks by name, where any was run."""

    reasons: bool
    cases: tuple[AnsweredCase, ...]
    base_losses: tuple[CaseLoss, ...]
    tuned_losses: tuple[CaseLoss, ...]
    benchmarks: Mapping[str, BenchmarkGrades] = field(default_factory=dict)
    judged: Judgements | None = None
    held_out: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values; floats keep every digit."""
        return {"version": VERSION, **asdict(self)}

    @staticmethod
    def of_json(text: str, place: str) -> "Record":
        """The record in `text`, which lies at `place`.

        Raises: DataError if it is none, or of another version.
        """
        try:
            found = json.loads(text)
            if found.pop("version") != VERSION:
                raise DataError(
                    f"{place} was written by another version of medexp; evaluate the run again"
                    " without evaluate.rescore"
                )
            cases = tuple(
                AnsweredCase(**each | {whose: Answer(**each[whose]) for whose in ("base", "tuned")})
                for each in found["cases"]
            )
            losses = {
                name: tuple(CaseLoss(**each) for each in found[name])
                for name in ("base_losses", "tuned_losses")
            }
            graded = {
                name: BenchmarkGrades(*(tuple(each[side]) for side in ("base", "tuned")))
                for name, each in found["benchmarks"].items()
            }
            held_out = tuple(found["held_out"]) if "held_out" in found else ()
            return Record(
                found["reasons"],
                cases,
                **losses,
                benchmarks=graded,
                judged=_parse_judgements(found["judged"]),
                held_out=held_out,
            )
        except (json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
            raise DataError(
                f"{place} is not a stored evaluation ({type(error).__name__}: {error}); evaluate"
                " the run without rescore"
            ) from error


def _parse_judgements(found: Any) -> Judgements | None:
    if found is None:
        return None
    base, tuned = (tuple(Judgement(**each) for each in found[side]) for side in ("base", "tuned"))
    return Judgements(base, tuned, found["failure"])


def build_record(
    reasons: bool,
    cases: Sequence[Case],
    answers: tuple[Sequence[Answer], Sequence[Answer]],
    losses: tuple[Sequence[CaseLoss], Sequence[CaseLoss]],
    held_out: Sequence[Case] = (),
) -> Record:
    """The record of `cases` with the answers of the base and the tuned model, and their losses on
    the cases of `held_out`.
    """
    found = tuple(
        AnsweredCase(case.question, case.answer, dict(case.extra), *pair)
        for case, *pair in zip(cases, *answers, strict=True)
    )
    return Record(
        reasons,
        found,
        tuple(losses[0]),
        tuple(losses[1]),
        held_out=tuple(case.digest for case in held_out),
    )
