"""Answers to held-out questions, greedy and in batches; each is written down as soon as it is
there, so a stop loses none. And one answer, token by token, from the same tokens in the same way.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medexp.config.schema import Engine
from medexp.data.batching import batch_into_fewest
from medexp.evaluation.record import Answer
from medexp.models.adapter_model import AdapterModel


@dataclass(frozen=True)
class Sampling:
    """How each token is chosen: the likeliest (`temperature` 0), or drawn from the fewest that hold
    `top_p` of the probability.
    """

    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int


def generate_answers(
    tuned: AdapterModel,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    may: Callable[[int, int], bool],
    answers_file: Path,
    base: bool,
    advance: Callable[[int], None],
) -> list[Answer]:
    """Greedy answers to `prompts` (token ids) in their order, by the base (`base`) or with the
    adapter.

    `may(questions, longest)` says whether so many questions, the longest of so many tokens, may be
    answered together; one alone always may. `answers_file` is a JSONL file that grows batch by batch;
    answers already in it are not made again. `advance` is told how many answers have come.
    """
    known = read_answers(answers_file)
    advance(len(known))
    missing = [case for case in range(len(prompts)) if case not in known]
    for batch in batch_into_fewest([len(prompts[case]) for case in missing], may):
        cases = [missing[index] for index in batch]
        for answer in _answer_batch(
            tuned, cases, [prompts[case] for case in cases], max_new_tokens, base
        ):
            known[answer.case] = answer
            _append_answer(answer, answers_file)
        advance(len(cases))
    return [known[case] for case in range(len(prompts))]


def limit_batch_size(batch_size: int) -> Callable[[int, int], bool]:
    """Questions go together by their number alone, for `answers`."""
    return lambda questions, _longest: questions <= batch_size


def read_answers(file: Path) -> dict[int, Answer]:
    """The answers in `file` by their case, none where it does not exist."""
    found = []
    for line in (
        file.read_text(encoding="utf-8", errors="replace").split("\n") if file.exists() else []
    ):
        try:
            found.append(Answer(**json.loads(line)))
        except (ValueError, TypeError):
            continue  # a line cut off by a kill: that answer is made again
    return {answer.case: answer for answer in found}


def _append_answer(answer: Answer, file: Path) -> None:
    """Add `answer` to `file`, on a line of its own also where the last one was cut off."""
    with file.open("ab+") as opened:
        if opened.tell():
            opened.seek(-1, os.SEEK_END)
        torn = opened.read(1) not in (b"", b"\n")
        opened.write(
            (b"\n" if torn else b"")
            + json.dumps(asdict(answer), ensure_ascii=False).encode()
            + b"\n"
        )


def generate_answer(
    tuned: AdapterModel,
    prompt: list[int],
    sampling: Sampling,
    base: bool,
    heard: Callable[[Answer], bool],
) -> Answer:
    """The answer to `prompt` (token ids) by the base (`base`) or with the adapter; greedy, the one
    that `answers` makes one by one.

    After every token `heard` is given the answer as it stands, and ends it there by returning True.
    A drawn answer begins from `sampling.seed`: the same call draws the same.
    """
    import torch

    def listening(ids: Any, _scores: Any, **_: Any) -> Any:
        stops = heard(_decode_answer(0, ids[0, len(prompt) :].tolist(), tuned.tokenizer))
        return torch.full((1,), stops, dtype=torch.bool, device=ids.device)

    how: dict[str, Any] = {
        "stopping_criteria": tuned.stack.transformers.StoppingCriteriaList([listening]),
        "do_sample": False,
    }
    if sampling.temperature:
        tuned.stack.transformers.set_seed(sampling.seed)
        how |= {
            "do_sample": True,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": 0,
        }
    return _decode_answer(
        0, _generate(tuned, [prompt], sampling.max_new_tokens, base, how)[0], tuned.tokenizer
    )


def _answer_batch(
    tuned: AdapterModel,
    cases: Sequence[int],
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    base: bool,
) -> list[Answer]:
    found = _generate(tuned, prompts, max_new_tokens, base, {"do_sample": False})
    return [
        _decode_answer(case, tokens, tuned.tokenizer)
        for case, tokens in zip(cases, found, strict=True)
    ]


def _generate(
    tuned: AdapterModel,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    base: bool,
    how: Mapping[str, Any],
) -> list[list[int]]:
    """What follows each of `prompts`, padding included; `how` is for transformers' generate."""
    import torch

    tokenizer, network = tuned.tokenizer, tuned.network
    longest = max(len(prompt) for prompt in prompts)
    ids = [[tokenizer.pad_token_id] * (longest - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    with (
        _unsloth_inference(tuned),
        tuned.evaluation_mode(),
        tuned.adapter_disabled() if base else nullcontext(),
    ):
        output = network.generate(
            input_ids=torch.tensor(ids, device=tuned.device),
            attention_mask=torch.tensor(mask, device=tuned.device),
            max_new_tokens=max_new_tokens,
            use_cache=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            **how,
        )
    return [row[longest:].tolist() for row in output]


def _decode_answer(case: int, tokens: list[int], tokenizer: Any) -> Answer:
    ended = tokenizer.eos_token_id in tokens
    kept = tokens[: tokens.index(tokenizer.eos_token_id)] if ended else tokens
    return Answer(case, tokenizer.decode(kept, skip_special_tokens=True).strip(), len(kept), ended)


@contextmanager
def _unsloth_inference(tuned: AdapterModel) -> Iterator[None]:
    """Unsloth swaps in its own generation kernels and has to be told to take them out again before
    training.
    """
    if tuned.stack.engine is not Engine.unsloth:
        yield
        return
    model_class = tuned.stack.unsloth.FastLanguageModel
    model_class.for_inference(tuned.network)
    try:
        yield
    finally:
        model_class.for_training(tuned.network)
