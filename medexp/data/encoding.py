"""A rendered case as tokens and labels, at most so many tokens long. Never cuts an answer: too long
means dropped, or a shorter chain of thought, or an error, as `dataset.overlong` says."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from medexp.config.schema import LossOn, Overlong, Prompt
from medexp.data.cases import CONVERSATION, Case, Turn
from medexp.data.control_tokens import TextEncoder, compile_marks
from medexp.data.prompts import ChatPrompt, get_completion, get_written_text, render_case
from medexp.data.think_marks import THINK_END, THINK_START
from medexp.errors import DataError

# The label that every Hugging Face loss skips.
IGNORED = -100
_REASONING = "{reasoning}"
# After a full stop and the space behind it, after a Chinese or Japanese one with its closing
# quotes, and where a line ends.
_SENTENCE_END = re.compile(r"""[.!?](?=\s)|[。！？；][”’」』）"']*|(?<=\S)(?=[^\S\n]*\n)""")
# Refused cases that are named one by one.
NAMED = 10


@dataclass(frozen=True)
class Vocabulary:
    """The part of a tokenizer that is needed here: text to ids without adding any, and the ids at
    both ends of a text.

    Of its control tokens, `plain` are encoded as text wherever they stand, `written` are those that
    the prompt itself writes; `control_ids` are the numbers of all.
    """

    encode: Callable[[str], list[int]]
    bos_id: int | None
    eos_id: int
    plain: frozenset[str] = frozenset()
    written: frozenset[str] = frozenset()
    control_ids: frozenset[int] = frozenset()

    def holds_stray_control(self, ids: Sequence[int], without_case: Sequence[int]) -> bool:
        """Return whether `ids` hold more control tokens than the same words `without_case`."""
        return self._count(ids) != self._count(without_case)

    def _count(self, ids: Sequence[int]) -> int:
        return sum(map(self.control_ids.__contains__, ids))


@dataclass(frozen=True)
class EncodedCase:
    """`input_ids` = BOS, prompt, completion, EOS; `labels` of equal length with IGNORED where no
    loss is taken.
    """

    input_ids: list[int]
    labels: list[int]
    prompt_tokens: int


@dataclass(frozen=True)
class EncodedCases:
    """The cases that fit, in order, how many were dropped or had their reasoning trimmed to fit,
    and how many of all hold the spelling of a control token, encoded as plain text. `joined` cases
    are earlier turns, learnt within the text of a later one (`join_turns`)."""

    cases: tuple[Case, ...]
    encoded: tuple[EncodedCase, ...]
    dropped: int
    trimmed: int
    plain: int = 0
    joined: int = 0


def encode_case(prompt: Prompt, case: Case, vocabulary: Vocabulary, loss_on: LossOn) -> EncodedCase:
    """Return the tokens of `case`. Prompt and completion are tokenised apart, so that the inference
    prompt is an exact prefix.

    With `loss_on=answer` labels begin behind the reasoning, at the mark that closes it: a model
    that is never taught to close it never answers.
    """
    text = render_case(prompt, case)
    start = encode_prompt(text.prompt, vocabulary)
    completion = [*vocabulary.encode(text.completion), vocabulary.eos_id]
    learnt = start + completion
    unlearnt = 0 if loss_on is LossOn.all else len(start)
    template = get_completion(prompt, case)
    if loss_on is LossOn.answer and _REASONING in template:
        opened = template[: template.index(_REASONING)]
        reasoned = text.completion[: len(opened) + len(case.reasoning)]
        unlearnt += count_shared_tokens(reasoned, completion, vocabulary)
    return EncodedCase(learnt, [IGNORED] * unlearnt + learnt[unlearnt:], prompt_tokens=len(start))


def count_shared_tokens(text: str, ids: Sequence[int], vocabulary: Vocabulary) -> int:
    """Return with how many tokens of `text` the tokens `ids` of a longer text begin."""
    alone = vocabulary.encode(text) if text else []
    return next(
        (at for at, (one, other) in enumerate(zip(alone, ids, strict=False)) if one != other),
        min(len(alone), len(ids)),
    )


def encode_prompt(prompt_text: str, vocabulary: Vocabulary) -> list[int]:
    """Return the tokens that ask a model: one BOS (where the tokenizer has one) and
    `prompt_text`."""
    bos = [] if vocabulary.bos_id is None else [vocabulary.bos_id]
    return bos + vocabulary.encode(prompt_text)


def encode_cases(
    prompt: Prompt,
    cases: Iterable[Case],
    vocabulary: Vocabulary,
    max_tokens: int,
    overlong: Overlong,
    loss_on: LossOn,
) -> EncodedCases:
    """Return every case of at most `max_tokens` tokens, longer ones treated as `overlong` says.

    Raises: DataError on the first over-long case with `overlong=error`, and on cases that hold a
        mark of the prompt, all at once.
    """
    cases = tuple(cases)
    _refuse_marks(prompt, cases, vocabulary)
    bare = _BareCases(prompt, vocabulary)
    plain = compile_marks(vocabulary.plain)
    kept: list[tuple[Case, EncodedCase]] = []
    stray: list[Case] = []
    dropped = trimmed = 0
    for number, case in enumerate(cases, 1):
        encoded = encode_case(prompt, case, vocabulary, loss_on)
        if vocabulary.holds_stray_control(encoded.input_ids, bare.encode(case)):
            stray.append(case)
        if len(encoded.input_ids) <= max_tokens:
            kept.append((case, encoded))
            continue
        if overlong is Overlong.error:
            raise DataError(
                f"{case.place or f'case {number}'} ({case.question[:50]!r}...) has"
                f" {len(encoded.input_ids)} tokens and the limit is {max_tokens}; raise the limit"
                " or set dataset.overlong=drop or trim_reasoning"
            )
        shorter = (
            _trim_reasoning(prompt, case, vocabulary, max_tokens)
            if overlong is Overlong.trim_reasoning
            else None
        )
        dropped += shorter is None
        trimmed += shorter is not None
        if shorter is not None:
            kept.append((shorter, encode_case(prompt, shorter, vocabulary, loss_on)))
    _refuse_control_tokens([(case, "text") for case in stray])
    held = sum(
        any(plain.search(text) for text in (case.question, case.reasoning, case.answer))
        for case in cases
    )
    return EncodedCases(
        tuple(case for case, _ in kept),
        tuple(encoded for _, encoded in kept),
        dropped,
        trimmed,
        held,
    )


class _BareCases:
    """Cases without their words, for counting the control tokens that the prompt itself writes: a
    chat template writes as many as a conversation has turns.
    """

    def __init__(self, prompt: Prompt, vocabulary: Vocabulary):
        self._prompt, self._vocabulary = prompt, vocabulary
        self._known: dict[object, list[int]] = {}

    def encode(self, case: Case) -> list[int]:
        """Return the tokens of `case` with next to nothing said in it."""
        if not isinstance(self._prompt, ChatPrompt):
            return self._encode((), Case("", "", ""))
        shape = (*(turn.role for turn in case.turns), bool(case.reasoning))
        # A template may leave out an empty turn.
        turns = tuple(Turn(turn.role, "x") for turn in case.turns)
        return self._encode(shape, Case("x", case.reasoning and "x", "x", turns=turns))

    def _encode(self, shape: object, bare: Case) -> list[int]:
        if shape not in self._known:
            encoded = encode_case(self._prompt, bare, self._vocabulary, LossOn.completion)
            self._known[shape] = encoded.input_ids
        return self._known[shape]


def join_turns(side: EncodedCases) -> EncodedCases:
    """Return `side` with the answers of a conversation learnt in one text, wherever the text of an
    earlier one is, token by token, the beginning of what the next is asked with.

    Where a template writes an earlier turn otherwise, as without its reasoning, each answer keeps a
    text of its own: what is learnt begins, for every turn, with what will be asked.
    """
    kept: dict[int, EncodedCase] = dict(enumerate(side.encoded))
    conversations: dict[str, list[int]] = {}
    for place, case in enumerate(side.cases):
        if name := case.extra.get(CONVERSATION):
            conversations.setdefault(name, []).append(place)
    for places in conversations.values():
        places.sort(key=lambda place: len(kept[place].input_ids))
        for earlier, later in pairwise(places):
            if _begins(kept[earlier], kept[later]):
                kept[later] = _learn_also(kept.pop(earlier), kept[later])
    return replace(
        side,
        cases=tuple(side.cases[place] for place in sorted(kept)),
        encoded=tuple(kept[place] for place in sorted(kept)),
        joined=side.joined + len(side.encoded) - len(kept),
    )


def _begins(earlier: EncodedCase, later: EncodedCase) -> bool:
    count = len(earlier.input_ids)
    return count <= later.prompt_tokens and later.input_ids[:count] == earlier.input_ids


def _learn_also(earlier: EncodedCase, later: EncodedCase) -> EncodedCase:
    """Return `later` with the labels that `earlier`, its beginning, has."""
    labels = [*earlier.labels, *later.labels[len(earlier.labels) :]]
    return replace(later, labels=labels)


def _refuse_marks(prompt: Prompt, cases: Iterable[Case], vocabulary: Vocabulary) -> None:
    """A mark of the prompt written in a case would end the answer, or begin another text, in the
    middle of it.
    """
    marks = compile_marks(
        vocabulary.written
        | {mark for mark in (THINK_START, THINK_END) if mark in get_written_text(prompt)}
    )
    found = (
        (case, marks.search(text))
        for case in cases
        for text in (case.question, case.reasoning, case.answer)
    )
    _refuse_control_tokens([(case, repr(mark[0])) for case, mark in found if mark is not None])


def _refuse_control_tokens(found: Sequence[tuple[Case, str]]) -> None:
    """Raises DataError with the first NAMED of the cases `found`, each with what it holds."""
    if not found:
        return
    problems = [
        f"{case.place or 'the case'} ({case.question[:50]!r}...) holds {what}, which the model"
        " reads as a control token"
        for case, what in found[:NAMED]
    ]
    more = f"; the first {NAMED} are named above" if len(found) > NAMED else ""
    raise DataError(
        [
            *problems,
            (
                f"{len(found)} texts hold control tokens of the prompt{more}: take them out of the"
                " records"
            ),
        ]
    )


def _trim_reasoning(
    prompt: Prompt, case: Case, vocabulary: Vocabulary, max_tokens: int
) -> Case | None:
    """Return `case` with the longest run of opening sentences of its reasoning that fits, at least
    one; None if not even that fits."""
    shorter = [
        replace(case, reasoning=case.reasoning[: end.end()])
        for end in _SENTENCE_END.finditer(case.reasoning)
    ]
    # `low` sentences fit, more than `high` do not.
    low, high = 0, len(shorter)
    while low < high:
        middle = (low + high + 1) // 2
        if (
            len(encode_case(prompt, shorter[middle - 1], vocabulary, LossOn.all).input_ids)
            <= max_tokens
        ):
            low = middle
        else:
            high = middle - 1
    return shorter[low - 1] if low else None


def make_vocabulary(tokenizer: Any, prompt: Prompt) -> Vocabulary:
    """Return the part of `tokenizer` that encoding in the words of `prompt` needs; no special
    tokens are added to a text."""
    encoder = TextEncoder(tokenizer, prompt)

    def encode(text: str) -> list[int]:
        return list(encoder.encode([text])[0].ids)

    return Vocabulary(
        encode,
        # A chat template writes its own where the model wants one.
        None if isinstance(prompt, ChatPrompt) else tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        encoder.plain,
        encoder.written,
        encoder.ids,
    )
