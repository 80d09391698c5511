"""A split as what a trainer and an evaluation need: rows of tokens in training order, held-out cases, prompts to answer."""

from collections.abc import Sequence
from dataclasses import dataclass

from medexp.config.schema import LossOn, RunConfig
from medexp.data.audit import CaseAudit, audit
from medexp.data.encoding import Encoded, Encoding, Vocabulary, encode_all, prompt_ids
from medexp.data.order import steps_for, training_order
from medexp.data.prompts import ask
from medexp.data.records import Case
from medexp.data.split import Split
from medexp.errors import DataError


@dataclass(frozen=True)
class Prepared:
    """`rows` in the order they are trained on, `steps` optimizer steps long; `prompts` ask the questions of `asked`."""

    rows: Sequence[Encoded]
    steps: int
    held_out: Encoding
    asked: Sequence[Case]
    prompts: Sequence[list[int]]
    audit: CaseAudit


def prepare(run: RunConfig, sides: Split, vocabulary: Vocabulary) -> Prepared:
    """Encode both sides: training cases at `training.max_seq_tokens`, held-out ones at `evaluation.max_seq_tokens`, so that
    held-out loss does not depend on the training length.

    Raises: DataError if nothing fits, or on the first over-long case with `dataset.overlong=error`.
    """
    dataset, training, evaluation = run.dataset, run.training, run.evaluation
    train = encode_all(run.prompt, sides.train, vocabulary, training.max_seq_tokens, dataset.overlong, training.loss_on)
    held_out = encode_all(run.prompt, sides.held_out, vocabulary, evaluation.max_seq_tokens, dataset.overlong, LossOn.completion)
    _refuse_empty(train, "training", "training.max_seq_tokens", training.max_seq_tokens)
    _refuse_empty(held_out, "held-out", "evaluation.max_seq_tokens", evaluation.max_seq_tokens)
    cases_a_step = training.micro_batch * training.accumulation
    steps = training.max_steps or steps_for(training.epochs or 1, len(train.encoded), cases_a_step)
    lengths = [len(each.input_ids) for each in train.encoded] if training.group_by_length else None
    order = training_order(len(train.encoded), steps * cases_a_step, training.seed, lengths, training.micro_batch)
    asked = spread(held_out.cases, evaluation.answers)
    prompts = [prompt_ids(ask(run.prompt, case.question), vocabulary) for case in asked]
    rows = [train.encoded[index] for index in order]
    return Prepared(rows, steps, held_out, asked, prompts, audit(sides, train, held_out))


def spread(cases: Sequence[Case], count: int) -> Sequence[Case]:
    """`count` of `cases` (all, if there are fewer) at even distances: neighbours may share a condition."""
    count = min(count, len(cases))
    return [cases[index * len(cases) // count] for index in range(count)]


def _refuse_empty(side: Encoding, which: str, key: str, limit: int) -> None:
    if not side.encoded:
        raise DataError(
            f"every one of the {side.dropped} {which} cases is longer than {key}={limit} tokens; "
            "raise it, or set dataset.overlong=trim_reasoning"
        )
