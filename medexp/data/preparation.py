"""A split as what a trainer and an evaluation need: rows of tokens in training order, held-out
cases, prompts to answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from medexp.config.schema import LossOn, Overlong, RunConfig
from medexp.data.case_counts import CaseCounts, SourceCounts, count_cases
from medexp.data.cases import PAIR, Case
from medexp.data.encoding import (
    EncodedCase,
    EncodedCases,
    Vocabulary,
    encode_cases,
    encode_prompt,
    join_turns,
)
from medexp.data.order import count_epoch_draws, count_steps, make_mixed_order
from medexp.data.prompts import ChatPrompt, render_question
from medexp.data.split import Share, Split, join_pairs
from medexp.errors import DataError

NO_CASES = EncodedCases(cases=(), encoded=(), dropped=0, trimmed=0, plain=0)


@dataclass(frozen=True)
class Prepared:
    """`rows` of `train` in the order they are trained on, `steps` optimizer steps long; `prompts`
    ask the questions of `asked`.
    """

    rows: Sequence[EncodedCase]
    steps: int
    train: EncodedCases
    held_out: EncodedCases
    asked: Sequence[Case]
    prompts: Sequence[list[int]]
    audit: CaseCounts
    validation: EncodedCases = NO_CASES


def prepare(config: RunConfig, sides: Split, vocabulary: Vocabulary) -> Prepared:
    """Encode both sides: training cases at `training.max_seq_tokens`, held-out ones at
    `evaluation.max_seq_tokens`, so that held-out loss does not depend on the training length.

    Raises: DataError if nothing fits, if a part of a mixture gives nothing, or on the first
        over-long case with `overlong=error`.
    """
    dataset, training, evaluation = config.dataset, config.training, config.evaluation
    shares = sides.shares or (Share(dataset.name, 1.0, len(sides.train)),)
    by_share = _encode_shares(config, sides, shares, vocabulary)
    train = _join_encodings(by_share)
    held_out = encode_cases(
        config.prompt,
        sides.held_out,
        vocabulary,
        evaluation.max_seq_tokens,
        dataset.overlong,
        LossOn.completion,
    )
    _refuse_empty(
        held_out,
        dataset.overlong,
        "held-out",
        "evaluation.max_seq_tokens",
        evaluation.max_seq_tokens,
    )
    validation = _encode_validation(config, sides, held_out, vocabulary)
    sizes = [len(encoding.encoded) for encoding in by_share]
    weights = [share.weight for share in shares]
    steps = training.max_steps or count_steps(
        training.epochs or 1, count_epoch_draws(sizes, weights), training.cases_a_step
    )
    lengths = (
        [len(encoded.input_ids) for encoded in train.encoded] if training.group_by_length else None
    )
    order = make_mixed_order(
        sizes, weights, steps * training.cases_a_step, training.seed, lengths, training.micro_batch
    )
    drawn = _count_draws(shares, sizes, order, steps)
    asked = pick_evenly(held_out.cases, evaluation.answers)
    prompts = [
        encode_prompt(render_question(config.prompt, case.question, case.turns), vocabulary)
        for case in asked
    ]
    rows = [train.encoded[index] for index in order]
    counts = count_cases(sides, train, held_out, drawn, len(validation.cases))
    return Prepared(rows, steps, train, held_out, asked, prompts, counts, validation)


def _encode_validation(
    config: RunConfig, sides: Split, held_out: EncodedCases, vocabulary: Vocabulary
) -> EncodedCases:
    """Return the validation cases at the length of the held-out ones, none where there are none."""
    if not sides.validation:
        return NO_CASES
    # They stand in for the test part where that is closed, and are encoded already.
    if sides.validation == sides.held_out:
        return held_out
    limit = config.evaluation.max_seq_tokens
    overlong = config.dataset.overlong
    encoding = encode_cases(
        config.prompt, sides.validation, vocabulary, limit, overlong, LossOn.completion
    )
    _refuse_empty(encoding, overlong, "validation", "evaluation.max_seq_tokens", limit)
    return encoding


def _encode_shares(
    config: RunConfig, sides: Split, shares: Sequence[Share], vocabulary: Vocabulary
) -> list[EncodedCases]:
    limit, start, encodings = config.training.max_seq_tokens, 0, []
    for share in shares:
        cases = sides.train[start : start + share.cases]
        encoding = encode_cases(
            config.prompt,
            cases,
            vocabulary,
            limit,
            config.dataset.overlong,
            config.training.loss_on,
        )
        which = f"{share.name} training" if len(shares) > 1 else "training"
        _refuse_empty(encoding, config.dataset.overlong, which, "training.max_seq_tokens", limit)
        # Only a template's words can be the beginning of a later turn's.
        is_chat = isinstance(config.prompt, ChatPrompt)
        encodings.append(join_turns(encoding) if is_chat else encoding)
        start += share.cases
    return encodings


def _join_encodings(encodings: Sequence[EncodedCases]) -> EncodedCases:
    return EncodedCases(
        cases=tuple(case for encoding in encodings for case in encoding.cases),
        encoded=tuple(encoded for encoding in encodings for encoded in encoding.encoded),
        dropped=sum(encoding.dropped for encoding in encodings),
        trimmed=sum(encoding.trimmed for encoding in encodings),
        plain=sum(encoding.plain for encoding in encodings),
        joined=sum(encoding.joined for encoding in encodings),
    )


def _count_draws(
    shares: Sequence[Share], sizes: Sequence[int], order: Sequence[int], steps: int
) -> list[SourceCounts]:
    """Return what each part gives to the run.

    Raises: DataError if a part gives nothing.
    """
    found, start = [], 0
    for share, size in zip(shares, sizes, strict=True):
        count = sum(start <= index < start + size for index in order)
        if not count:
            raise DataError(
                f"{share.name} with weight {share.weight:g} gives none of the {len(order)} cases of"
                f" {steps} steps; raise its weight in dataset.mixture, or training.max_steps"
            )
        found.append(SourceCounts(share.name, share.weight, size, count))
        start += size
    return found


def pick_evenly(cases: Sequence[Case], count: int) -> Sequence[Case]:
    """Return `count` of `cases` (all, if there are fewer) at even distances, in their order:
    neighbours may share a condition. A contrast pair is taken whole or not at all, as long as
    there are others.
    """
    units = join_pairs(cases)
    taken: set[str] = set()
    for number in range(len(units), 0, -1):
        spaced = [units[index * len(units) // number] for index in range(number)]
        if sum(map(len, spaced)) <= count:
            taken = {case.key for unit in spaced for case in unit}
            break
    # What is still wanted is filled up with single cases, else with halves of pairs.
    rest = [case for case in cases if case.key not in taken]
    rest.sort(key=lambda case: bool(case.extra.get(PAIR)))
    taken.update(case.key for case in rest[: count - len(taken)])
    return [case for case in cases if case.key in taken]


def _refuse_empty(side: EncodedCases, overlong: Overlong, which: str, key: str, limit: int) -> None:
    if side.encoded:
        return
    is_trimmed = overlong is Overlong.trim_reasoning
    longer = " even with their reasoning trimmed" if is_trimmed else ""
    way = "" if is_trimmed else ", or set dataset.overlong=trim_reasoning"
    raise DataError(
        f"every one of the {side.dropped} {which} cases is longer than {key}={limit}"
        f" tokens{longer}; raise it{way}"
    )
