"""The whole audit of a run's cases: what became of each record, token lengths part by part, what is
learnt, repeats, leaks, faults.

`broken` says which rules do not hold:
- nothing that is measured on is trained on: no question, no near duplicate of one, no 13 words in a
  row, save those that more than ten training cases have;
- no answer and no reasoning is a word for a missing value (None, N/A, -);
- at most MAX_DROPPED of the training cases are dropped and at most MAX_TRIMMED have their reasoning
  shortened for length;
- at most MAX_NEAR of the training cases nearly repeat another one;
- every prompt that reasons has reasoning to learn, at most MAX_FAULTY of it copied or repetitive;
- at most MAX_FOREIGN of the training cases are in another language than the most frequent one;
- EOS is among the labels of every case;
- at most MAX_HELD_OUT times as many cases are held out as were asked for: a group
  (dataset.group_by) is held out whole.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median

from medexp.config.schema import Prompt
from medexp.data.audit.contamination import Measured, Overlap, overlaps
from medexp.data.audit.duplicates import near_duplicates, near_to
from medexp.data.audit.language import languages_of
from medexp.data.audit.missing_values import is_missing_value, missing_values
from medexp.data.audit.reasoning_checks import ReasoningFaults, faults
from medexp.data.case_counts import CaseAudit
from medexp.data.cases import Case
from medexp.data.encoding import Encoding
from medexp.data.prompts import reasons
from medexp.data.token_roles import Piece, Role, TokenizedText, pieces
from medexp.errors import listing

MAX_DROPPED, MAX_TRIMMED, MAX_NEAR, MAX_FAULTY, MAX_FOREIGN = 0.05, 0.25, 0.02, 0.01, 0.02
MAX_HELD_OUT = 2
HELD_OUT = "held-out cases"
BINS, EXAMPLES, PREVIEWS = 24, 20, 3


@dataclass(frozen=True)
class Lengths:
    """Tokens a case: the middle, the 95th percentile, the longest, and a histogram of bins `width`
    tokens wide, from 0.
    """

    median: float
    p95: int
    longest: int
    width: int
    bins: tuple[int, ...]


@dataclass(frozen=True)
class Repeat:
    """Two questions that nearly are the same, and how similar."""

    question: str
    repeats: str
    similarity: float


@dataclass(frozen=True)
class Leak:
    """A training question and what its case shares with something that is measured on."""

    question: str
    measured: str
    shared: str
    same_question: bool


@dataclass(frozen=True)
class Inspection:
    """Every finding; `lengths` by part of a case, `label_tokens` by role, `previews` the shortest,
    middle and longest case.
    """

    audit: CaseAudit
    max_tokens: int
    lengths: Mapping[str, Lengths]
    label_tokens: Mapping[str, int]
    without_eos: int
    repeats: Sequence[Repeat]
    near_held_out: Sequence[Repeat]
    leaks: Sequence[Leak]
    reasoning: ReasoningFaults
    reasons: bool
    languages: Sequence[tuple[str, int]]
    previews: Sequence[Sequence[Piece]]
    measured: Sequence[str]
    missing_values: Sequence[Case] = ()

    @property
    def broken(self) -> tuple[str, ...]:
        """Each rule that does not hold, with its figures."""
        return tuple(_broken(self))

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON: counts whole, at most EXAMPLES examples of each finding."""
        return self.audit.as_dict() | {
            "max_tokens": self.max_tokens,
            "lengths": {name: asdict(each) for name, each in self.lengths.items()},
            "label_tokens": dict(self.label_tokens),
            "near_duplicates": _counted(self.repeats),
            "near_held_out": _counted(self.near_held_out),
            "overlap": _counted(self.leaks) | {"looked_at": list(self.measured)},
            "reasoning": {name: len(places) for name, places in asdict(self.reasoning).items()},
            "languages": dict(self.languages),
            "missing_values": {
                "count": len(self.missing_values),
                "places": [each.place for each in self.missing_values[:EXAMPLES]],
            },
            "broken_rules": list(self.broken),
        }


def inspect(
    prompt: Prompt,
    audit: CaseAudit,
    max_tokens: int,
    train: Encoding,
    held_out: Encoding,
    spelled: Mapping[str, TokenizedText],
    benchmarks: Mapping[str, Sequence[tuple[str, str]]],
) -> Inspection:
    """The audit of `train`; `spelled` holds the texts of its cases, `benchmarks` (question, text)
    pairs by name.
    """
    cut = [
        pieces(prompt, case, encoded, spelled)
        for case, encoded in zip(train.cases, train.encoded, strict=True)
    ]
    repeats, near_held_out = _near(train.cases, held_out.cases)
    by_length = sorted(range(len(cut)), key=lambda place: len(train.encoded[place].input_ids))
    return Inspection(
        audit=audit,
        max_tokens=max_tokens,
        lengths=dict(_lengths(cut)),
        label_tokens=_label_tokens(cut),
        without_eos=sum(not each[-1].learnt for each in cut),
        repeats=repeats,
        near_held_out=near_held_out,
        leaks=_leaks(train.cases, held_out.cases, benchmarks),
        reasoning=faults(train.cases),
        reasons=reasons(prompt),
        languages=languages_of([f"{case.question} {case.answer}" for case in train.cases]),
        previews=[
            cut[place] for place in dict.fromkeys(by_length[at] for at in (0, len(cut) // 2, -1))
        ],
        measured=[HELD_OUT, *benchmarks],
        missing_values=list(missing_values([*train.cases, *held_out.cases])),
    )


def _lengths(cut: Sequence[Sequence[Piece]]) -> Iterator[tuple[str, Lengths]]:
    for role in (Role.question, Role.reasoning, Role.answer):
        yield (
            role.value,
            lengths_of([sum(piece.tokens for piece in each if piece.role is role) for each in cut]),
        )
    yield "whole", lengths_of([sum(piece.tokens for piece in each) for each in cut])


def lengths_of(tokens: Sequence[int]) -> Lengths:
    """The summary of `tokens` (one number a case, at least one)."""
    ordered = sorted(tokens)
    width = next(
        size
        for step in range(10)
        for base in (1, 2, 5)
        if (size := base * 10**step) * BINS > ordered[-1]
    )
    bins = [0] * (ordered[-1] // width + 1)
    for each in tokens:
        bins[each // width] += 1
    return Lengths(
        median(ordered),
        ordered[min(len(ordered) - 1, len(ordered) * 95 // 100)],
        ordered[-1],
        width,
        tuple(bins),
    )


def _label_tokens(cut: Sequence[Sequence[Piece]]) -> dict[str, int]:
    totals = {role.value: 0 for role in Role}
    for each in cut:
        for piece in each:
            totals[piece.role.value] += piece.tokens if piece.learnt else 0
    return {name: count for name, count in totals.items() if count}


def _near(train: Sequence[Case], held_out: Sequence[Case]) -> tuple[list[Repeat], list[Repeat]]:
    """(within the training cases, between them and the held-out cases)."""
    questions, measured = [case.question for case in train], [case.question for case in held_out]
    within = [
        Repeat(questions[pair.case], questions[pair.of], pair.similarity)
        for pair in near_duplicates(questions)
    ]
    between = [
        Repeat(questions[pair.case], measured[pair.of], pair.similarity)
        for pair in near_to(questions, measured)
    ]
    return within, between


def _leaks(
    train: Sequence[Case],
    held_out: Sequence[Case],
    benchmarks: Mapping[str, Sequence[tuple[str, str]]],
) -> list[Leak]:
    measured = Measured()
    measured.add(
        HELD_OUT,
        [case.question for case in held_out],
        [f"{case.question} {case.answer}" for case in held_out],
    )
    for name, texts in benchmarks.items():
        measured.add(name, [question for question, _ in texts], [text for _, text in texts])
    return [_leak(train, each) for each in overlaps(train, measured)]


def _leak(train: Sequence[Case], overlap: Overlap) -> Leak:
    where = f"{overlap.name}, number {overlap.measured + 1}"
    return Leak(train[overlap.case].question, where, overlap.shared, overlap.same_question)


def _counted(found: Sequence[Repeat] | Sequence[Leak]) -> dict[str, object]:
    return {"count": len(found), "examples": [asdict(each) for each in found[:EXAMPLES]]}


def _broken(seen: Inspection) -> Iterator[str]:
    side = seen.audit.train
    wanted = side.kept + side.dropped_overlong
    if seen.leaks:
        yield (
            f"{len(seen.leaks)} training cases share a question or 13 words in a row with what is"
            " measured on"
        )
    if seen.near_held_out:
        yield f"{len(seen.near_held_out)} training questions nearly repeat a held-out one"
    if missing := seen.missing_values:
        first = listing(
            [
                f"{each.answer if is_missing_value(each.answer) else each.reasoning} in"
                f" {each.place}"
                for each in missing[:3]
            ]
        )
        yield (
            f"{len(missing)} cases have a word for a missing value as answer or reasoning"
            f" ({first}); fill or remove them"
        )
    yield from _above("dropped for length", side.dropped_overlong, wanted, MAX_DROPPED)
    yield from _above("with shortened reasoning", side.trimmed_reasoning, wanted, MAX_TRIMMED)
    yield from _above("that nearly repeat another one", len(seen.repeats), side.kept, MAX_NEAR)
    if seen.reasons:
        if seen.reasoning.empty:
            yield (
                f"{len(seen.reasoning.empty)} training cases have no reasoning and the prompt asks"
                " for it"
            )
        faulty = {
            *seen.reasoning.of_another_case,
            *seen.reasoning.same_as_answer,
            *seen.reasoning.in_circles,
        }
        yield from _above(
            "whose reasoning is copied or repetitive", len(faulty), side.kept, MAX_FAULTY
        )
    foreign = sum(count for _, count in seen.languages[1:])
    yield from _above(
        f"in another language than {seen.languages[0][0]}", foreign, side.kept, MAX_FOREIGN
    )
    yield from _too_many_held_out(seen.audit)
    if seen.without_eos:
        yield (
            f"{seen.without_eos} training cases do not teach the model to end: EOS is not among"
            " their labels"
        )


def _too_many_held_out(audit: CaseAudit) -> Iterator[str]:
    held_out, wanted = audit.held_out.kept + audit.held_out.dropped_overlong, audit.held_out_wanted
    if wanted and held_out > MAX_HELD_OUT * wanted:
        yield (
            f"{held_out} cases are held out and dataset.held_out={wanted} were asked for: groups"
            " are held out whole, and one is large; group by another column, or set"
            " dataset.group_by=null"
        )


def _above(what: str, count: int, total: int, allowed: float) -> Iterator[str]:
    if count > allowed * total:
        yield (
            f"{count} of {total} training cases {what}: {100 * count / total:.1f} %, allowed is"
            f" {100 * allowed:g} %"
        )
