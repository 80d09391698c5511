"""What an evaluation has seen, as it is stored with a run: questions, references, both answers, and
the loss of every held-out case.

Everything that is scored is scored from this alone, so that stored answers give the same figures
again, to the digit.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from medexp.data.cases import Case, Turn
from medexp.errors import DataError
from medexp.evaluation.measures.forced_choice import Likelihoods

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
    are; and the same of those of them that are the answer's.
    """

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
    """Return the nats a token over all cases, every token counting the same."""
    return sum(loss.nats for loss in losses) / sum(loss.tokens for loss in losses)


@dataclass(frozen=True)
class AnsweredCase:
    """A held-out case and what the base and the tuned model said to its question.

    `base_best` is the base asked its best way, where it was. `draws` holds further answers of an
    arm (base, base_best, tuned), where each question was answered several times. `turns` is the
    question as a conversation, as in `data.cases.Case`.
    """

    question: str
    reference: str
    extra: Mapping[str, str]
    base: Answer
    tuned: Answer
    base_best: Answer | None = None
    draws: Mapping[str, tuple[Answer, ...]] = field(default_factory=dict)
    turns: tuple[Turn, ...] = ()

    def answers(self, arm: str) -> tuple[Answer, ...]:
        """Return all answers of `arm`, the first draw first; none where the arm was not asked."""
        first = getattr(self, arm)
        return (first, *self.draws.get(arm, ())) if first is not None else ()

    @property
    def digest(self) -> str:
        """What tells this case from others, as `data.cases.Case.digest`."""
        return Case(self.question, "", self.reference).digest


@dataclass(frozen=True)
class BenchmarkGrades:
    """The questions of a benchmark, in order: whether the base answered each right, and whether the
    tuned model did.
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
    records older than it); benchmarks by name, where any was run.

    `groups` names the group of every held-out case (condition, patient), and `primary` the measures
    that may give a verdict, as the config named them before the run; both are empty in older
    records, where a case is its own group and the primary measures are the default ones.
    `likelihoods` holds what the base and the tuned model find likely (by "base" and "tuned"), where
    that was measured. `base_best_reasons` where the base's best way ends in a chain of thought that
    is open: its answer then begins after `</think>`. `verified` holds by arm how much a verifier
    found each answer supported, above 0 where it said yes; nothing where none was asked."""

    reasons: bool
    cases: tuple[AnsweredCase, ...]
    base_losses: tuple[CaseLoss, ...]
    tuned_losses: tuple[CaseLoss, ...]
    benchmarks: Mapping[str, BenchmarkGrades] = field(default_factory=dict)
    judged: Judgements | None = None
    held_out: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    primary: tuple[str, ...] = ()
    likelihoods: Mapping[str, Likelihoods] = field(default_factory=dict)
    base_best_reasons: bool = False
    verified: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def map_groups_by_digest(self) -> dict[str, str]:
        """Return the group of every held-out case by its digest; of an older record, of none."""
        return dict(zip(self.held_out, self.groups, strict=False))

    def list_answered_groups(self) -> list[str]:
        """Return the group of every answered case, which without one is a group of its own."""
        groups = self.map_groups_by_digest()
        return [groups.get(case.digest, case.digest) for case in self.cases]

    def as_json(self) -> dict[str, Any]:
        """Return all of it as plain values; floats keep every digit."""
        return {"version": VERSION, **asdict(self)}

    @staticmethod
    def from_json(text: str, place: str) -> "Record":
        """Return the record in `text`, which lies at `place`.

        Raises: DataError if it is none, or of another version.
        """
        try:
            stored = json.loads(text)
            if stored.pop("version") != VERSION:
                raise DataError(
                    f"{place} was written by another version of medexp; evaluate the run again"
                    " without evaluate.rescore"
                )
            cases = tuple(_parse_case(case) for case in stored["cases"])
            losses = {
                name: tuple(CaseLoss(**loss) for loss in stored[name])
                for name in ("base_losses", "tuned_losses")
            }
            benchmarks = {
                name: BenchmarkGrades(tuple(grades["base"]), tuple(grades["tuned"]))
                for name, grades in stored["benchmarks"].items()
            }
            return Record(
                stored["reasons"],
                cases,
                **losses,
                benchmarks=benchmarks,
                judged=_parse_judgements(stored["judged"]),
                held_out=tuple(stored.get("held_out", ())),
                groups=tuple(stored.get("groups", ())),
                primary=tuple(stored.get("primary", ())),
                base_best_reasons=bool(stored.get("base_best_reasons", False)),
                verified={arm: tuple(values) for arm, values in stored.get("verified", {}).items()},
                likelihoods={
                    side: Likelihoods.from_json(scores)
                    for side, scores in stored.get("likelihoods", {}).items()
                },
            )
        except (json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
            raise DataError(
                f"{place} is not a stored evaluation ({type(error).__name__}: {error}); evaluate"
                " the run without rescore"
            ) from error


def _parse_case(stored: Mapping[str, Any]) -> AnsweredCase:
    answers = {arm: Answer(**stored[arm]) for arm in ("base", "tuned")}
    best = stored.get("base_best")
    draws = {
        arm: tuple(Answer(**answer) for answer in further)
        for arm, further in stored.get("draws", {}).items()
    }
    more = {
        "base_best": Answer(**best) if best is not None else None,
        "draws": draws,
        "turns": tuple(Turn(*turn) for turn in stored.get("turns", ())),
    }
    return AnsweredCase(**{**stored, **answers, **more})


def _parse_judgements(stored: Any) -> Judgements | None:
    if stored is None:
        return None
    base = tuple(Judgement(**judgement) for judgement in stored["base"])
    tuned = tuple(Judgement(**judgement) for judgement in stored["tuned"])
    return Judgements(base, tuned, stored["failure"])


def build_record(
    reasons: bool,
    cases: Sequence[Case],
    answers: tuple[Sequence[Answer], Sequence[Answer]],
    losses: tuple[Sequence[CaseLoss], Sequence[CaseLoss]],
    held_out: Sequence[Case] = (),
    groups: Sequence[str] = (),
    primary: Sequence[str] = (),
    base_best: Sequence[Answer] | None = None,
    further: Mapping[str, Sequence[Sequence[Answer]]] | None = None,
) -> Record:
    """Return the record of `cases` with the answers of the base and the tuned model.

    The losses are those of the cases of `held_out`, whose groups are `groups`; `further` holds the
    draws of every arm behind its first.
    """
    best = base_best if base_best is not None else [None] * len(cases)
    answered = tuple(
        AnsweredCase(
            case.question,
            case.answer,
            dict(case.extra),
            base,
            tuned,
            base_best=own_way,
            draws={
                arm: tuple(draw[place] for draw in draws)
                for arm, draws in (further or {}).items()
                if draws
            },
            turns=case.turns,
        )
        for place, (case, base, tuned, own_way) in enumerate(
            zip(cases, *answers, best, strict=True)
        )
    )
    return Record(
        reasons,
        answered,
        tuple(losses[0]),
        tuple(losses[1]),
        held_out=tuple(case.digest for case in held_out),
        groups=tuple(groups),
        primary=tuple(primary),
    )
