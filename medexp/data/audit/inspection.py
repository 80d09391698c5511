"""The whole audit of a run's cases: what became of each record, token lengths part by part, what is
learnt, repeats, leaks, faults.

`broken` says which rules do not hold:
- nothing that is measured on is trained on: no question, no near duplicate of one, no 13 words in a
  row, save those that more than ten training cases have;
- no answer and no reasoning is a word for a missing value (None, N/A, -);
- at most MAX_DROPPED of the training cases are dropped and at most MAX_TRIMMED have their reasoning
  shortened for length;
- at most MAX_NEAR of the training cases nearly repeat another one, the other of their contrast
  pair apart;
- every prompt that reasons has reasoning to learn, at most MAX_FAULTY of it copied or repetitive;
- at most MAX_FOREIGN of the training cases are in another language than the most frequent one;
- EOS is among the labels of every case;
- at most MAX_HELD_OUT times as many cases are held out as were asked for: a group
  (dataset.group_by) is held out whole.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median

from medexp.config.schema import Prompt, RunConfig
from medexp.data.audit.contamination import Contamination, MeasuredTexts, find_contamination
from medexp.data.audit.conversations import Conversations, count_conversations
from medexp.data.audit.duplicates import find_near_copies, find_near_duplicates
from medexp.data.audit.language import count_languages
from medexp.data.audit.missing_columns import find_missing_columns
from medexp.data.audit.missing_values import find_missing_values, is_missing_value
from medexp.data.audit.reasoning_checks import ReasoningFaults, find_reasoning_faults
from medexp.data.case_counts import CaseCounts
from medexp.data.cases import PAIR, Case
from medexp.data.encoding import EncodedCases
from medexp.data.preparation import Prepared
from medexp.data.prompts import needs_reasoning, trains_reasoning
from medexp.data.token_roles import Role, TokenizedText, TokenSpan, list_texts, split_into_spans
from medexp.data.tokenizer_cache import CachedTokenizer
from medexp.errors import listing

MAX_DROPPED, MAX_TRIMMED, MAX_NEAR, MAX_FAULTY, MAX_FOREIGN = 0.05, 0.25, 0.02, 0.01, 0.02
MAX_HELD_OUT = 2
HELD_OUT = "held-out cases"
BINS, EXAMPLES = 24, 20


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
    middle and longest case. `conversations` counts who speaks where cases were read from a chat.
    """

    audit: CaseCounts
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
    previews: Sequence[Sequence[TokenSpan]]
    measured: Sequence[str]
    missing_values: Sequence[Case] = ()
    missing_columns: Mapping[str, Sequence[Case]] = field(default_factory=dict)
    conversations: Conversations | None = None
    is_reasoning_optional: bool = False

    @property
    def broken(self) -> tuple[str, ...]:
        """Each rule that does not hold, with its figures."""
        return tuple(_find_broken_rules(self))

    def as_dict(self) -> dict[str, object]:
        """Return plain values for JSON: counts whole, at most EXAMPLES examples of each finding."""
        return self.audit.as_dict() | {
            "max_tokens": self.max_tokens,
            "lengths": {name: asdict(lengths) for name, lengths in self.lengths.items()},
            "label_tokens": dict(self.label_tokens),
            "near_duplicates": _shorten_examples(self.repeats),
            "near_held_out": _shorten_examples(self.near_held_out),
            "overlap": _shorten_examples(self.leaks) | {"looked_at": list(self.measured)},
            "reasoning": {name: len(places) for name, places in asdict(self.reasoning).items()},
            "languages": dict(self.languages),
            "missing_values": {
                "count": len(self.missing_values),
                "places": [case.place for case in self.missing_values[:EXAMPLES]],
            },
            "missing_columns": {
                name: {
                    "count": len(cases),
                    "places": [case.place for case in cases[:EXAMPLES]],
                }
                for name, cases in self.missing_columns.items()
            },
            "conversations": asdict(self.conversations) if self.conversations else None,
            "broken_rules": list(self.broken),
        }


def inspect_prepared(
    tokenizer: CachedTokenizer,
    config: RunConfig,
    prepared: Prepared,
    benchmarks: Mapping[str, Sequence[tuple[str, str]]],
) -> Inspection:
    """Return the audit of cases that `tokenizer` has prepared; `benchmarks` holds (question, text)
    pairs by name.
    """
    tokenizer.tokenize(list_texts(config.prompt, prepared.train.cases))
    return inspect(
        config.prompt,
        prepared.audit,
        config.training.max_seq_tokens,
        prepared.train,
        prepared.held_out,
        tokenizer.known,
        benchmarks,
    )


def inspect(
    prompt: Prompt,
    audit: CaseCounts,
    max_tokens: int,
    train: EncodedCases,
    held_out: EncodedCases,
    spelled: Mapping[str, TokenizedText],
    benchmarks: Mapping[str, Sequence[tuple[str, str]]],
) -> Inspection:
    """Return the audit of `train`; `spelled` holds the texts of its cases, `benchmarks` (question,
    text) pairs by name."""
    cut = [
        split_into_spans(prompt, case, encoded, spelled)
        for case, encoded in zip(train.cases, train.encoded, strict=True)
    ]
    repeats, near_held_out = _find_near_questions(train.cases, held_out.cases)
    by_length = sorted(range(len(cut)), key=lambda place: len(train.encoded[place].input_ids))
    return Inspection(
        audit=audit,
        max_tokens=max_tokens,
        lengths=dict(_measure_lengths(cut)),
        label_tokens=_count_label_tokens(cut),
        without_eos=sum(not spans[-1].learnt for spans in cut),
        repeats=repeats,
        near_held_out=near_held_out,
        leaks=_find_leaks(train.cases, held_out.cases, benchmarks),
        reasoning=find_reasoning_faults(train.cases),
        reasons=trains_reasoning(prompt),
        languages=count_languages([f"{case.question} {case.answer}" for case in train.cases]),
        previews=[
            cut[place] for place in dict.fromkeys(by_length[at] for at in (0, len(cut) // 2, -1))
        ],
        measured=[HELD_OUT, *benchmarks],
        missing_values=list(find_missing_values([*train.cases, *held_out.cases])),
        missing_columns=find_missing_columns([*train.cases, *held_out.cases]),
        conversations=count_conversations([*train.cases, *held_out.cases]),
        is_reasoning_optional=not needs_reasoning(prompt),
    )


def describe_missing_columns(inspection: Inspection) -> str:
    """Return which columns that measures read some cases lack, with the first places; "" where none
    does.
    """
    return "; ".join(
        f"{name} in {len(cases)}"
        f" ({listing([case.place or 'a case without a place' for case in cases[:3]])}"
        f"{', ...' if len(cases) > 3 else ''})"
        for name, cases in inspection.missing_columns.items()
    )


def _measure_lengths(cut: Sequence[Sequence[TokenSpan]]) -> Iterator[tuple[str, Lengths]]:
    for role in (Role.question, Role.reasoning, Role.answer):
        yield (
            role.value,
            summarize_lengths(
                [sum(piece.tokens for piece in spans if piece.role is role) for spans in cut]
            ),
        )
    yield "whole", summarize_lengths([sum(piece.tokens for piece in spans) for spans in cut])


def summarize_lengths(tokens: Sequence[int]) -> Lengths:
    """Return the summary of `tokens` (one number a case, at least one)."""
    ordered = sorted(tokens)
    width = next(
        size
        for step in range(10)
        for base in (1, 2, 5)
        if (size := base * 10**step) * BINS > ordered[-1]
    )
    bins = [0] * (ordered[-1] // width + 1)
    for count in tokens:
        bins[count // width] += 1
    return Lengths(
        median(ordered),
        ordered[min(len(ordered) - 1, len(ordered) * 95 // 100)],
        ordered[-1],
        width,
        tuple(bins),
    )


def _count_label_tokens(cut: Sequence[Sequence[TokenSpan]]) -> dict[str, int]:
    totals = {role.value: 0 for role in Role}
    for spans in cut:
        for piece in spans:
            totals[piece.role.value] += piece.tokens if piece.learnt else 0
    return {name: count for name, count in totals.items() if count}


def _find_near_questions(
    train: Sequence[Case], held_out: Sequence[Case]
) -> tuple[list[Repeat], list[Repeat]]:
    """Return the near repeats within the training cases, and those between them and the held-out
    cases; the two of a contrast pair are alike on purpose.
    """
    questions, measured = [case.question for case in train], [case.question for case in held_out]
    pairs = [case.extra.get(PAIR) for case in train]
    within = [
        Repeat(questions[copy.case], questions[copy.of], copy.similarity)
        for copy in find_near_duplicates(questions)
        if pairs[copy.case] is None or pairs[copy.case] != pairs[copy.of]
    ]
    between = [
        Repeat(questions[pair.case], measured[pair.of], pair.similarity)
        for pair in find_near_copies(questions, measured)
    ]
    return within, between


def _find_leaks(
    train: Sequence[Case],
    held_out: Sequence[Case],
    benchmarks: Mapping[str, Sequence[tuple[str, str]]],
) -> list[Leak]:
    measured = MeasuredTexts()
    measured.add(
        HELD_OUT,
        [case.question for case in held_out],
        [f"{case.question} {case.answer}" for case in held_out],
    )
    for name, texts in benchmarks.items():
        measured.add(name, [question for question, _ in texts], [text for _, text in texts])
    return [
        _make_leak(train, contamination) for contamination in find_contamination(train, measured)
    ]


def _make_leak(train: Sequence[Case], overlap: Contamination) -> Leak:
    where = f"{overlap.name}, number {overlap.measured + 1}"
    return Leak(train[overlap.case].question, where, overlap.shared, overlap.same_question)


def _shorten_examples(found: Sequence[Repeat] | Sequence[Leak]) -> dict[str, object]:
    return {"count": len(found), "examples": [asdict(example) for example in found[:EXAMPLES]]}


def _find_broken_rules(seen: Inspection) -> Iterator[str]:
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
                f"{case.answer if is_missing_value(case.answer) else case.reasoning} in"
                f" {case.place}"
                for case in missing[:3]
            ]
        )
        yield (
            f"{len(missing)} cases have a word for a missing value as answer or reasoning"
            f" ({first}); fill or remove them"
        )
    yield from _report_if_above("dropped for length", side.dropped_overlong, wanted, MAX_DROPPED)
    yield from _report_if_above(
        "with shortened reasoning", side.trimmed_reasoning, wanted, MAX_TRIMMED
    )
    yield from _report_if_above(
        "that nearly repeat another one", len(seen.repeats), side.kept, MAX_NEAR
    )
    if seen.reasons:
        if seen.reasoning.empty and not seen.is_reasoning_optional:
            yield (
                f"{len(seen.reasoning.empty)} training cases have no reasoning and the prompt asks"
                " for it"
            )
        faulty = {
            *seen.reasoning.of_another_case,
            *seen.reasoning.same_as_answer,
            *seen.reasoning.in_circles,
        }
        yield from _report_if_above(
            "whose reasoning is copied or repetitive", len(faulty), side.kept, MAX_FAULTY
        )
    foreign = sum(count for _, count in seen.languages[1:])
    yield from _report_if_above(
        f"in another language than {seen.languages[0][0]}", foreign, side.kept, MAX_FOREIGN
    )
    yield from _too_many_held_out(seen.audit)
    if seen.without_eos:
        yield (
            f"{seen.without_eos} training cases do not teach the model to end: EOS is not among"
            " their labels"
        )


def _too_many_held_out(audit: CaseCounts) -> Iterator[str]:
    held_out, wanted = audit.held_out.kept + audit.held_out.dropped_overlong, audit.held_out_wanted
    if wanted and held_out > MAX_HELD_OUT * wanted:
        yield (
            f"{held_out} cases are held out and dataset.held_out={wanted} were asked for: groups"
            " are held out whole, and one is large; group by another column, or set"
            " dataset.group_by=null"
        )


def _report_if_above(what: str, count: int, total: int, allowed: float) -> Iterator[str]:
    if count > allowed * total:
        yield (
            f"{count} of {total} training cases {what}: {100 * count / total:.1f} %, allowed is"
            f" {100 * allowed:g} %"
        )
