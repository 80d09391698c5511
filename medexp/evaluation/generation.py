"""Answers to held-out questions, greedy and in batches; each is written down as soon as it is there, so a stop loses none."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medexp.config.schema import Engine
from medexp.evaluation.record import Answer
from medexp.tuned import Tuned


def answers(
    tuned: Tuned,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    batch_size: int,
    kept_in: Path,
    base: bool,
    advance: Callable[[int], None],
) -> list[Answer]:
    """Greedy answers to `prompts` (token ids) in their order, by the base (`base`) or with the adapter.

    `kept_in` is a JSONL file that grows batch by batch; answers already in it are not made again. `advance` is told how many
    answers have come.
    """
    known = {answer.case: answer for answer in _read(kept_in)}
    advance(len(known))
    missing = sorted((case for case in range(len(prompts)) if case not in known), key=lambda case: len(prompts[case]))
    for start in range(0, len(missing), batch_size):
        cases = missing[start : start + batch_size]
        for answer in _batch(tuned, cases, [prompts[case] for case in cases], max_new_tokens, base):
            known[answer.case] = answer
            with kept_in.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(answer), ensure_ascii=False) + "\n")
        advance(len(cases))
    return [known[case] for case in range(len(prompts))]


def _read(file: Path) -> list[Answer]:
    found = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        try:
            found.append(Answer(**json.loads(line)))
        except (json.JSONDecodeError, TypeError):
            continue  # a line cut off by a kill: that answer is made again
    return found


def _batch(tuned: Tuned, cases: Sequence[int], prompts: Sequence[list[int]], max_new_tokens: int, base: bool) -> list[Answer]:
    import torch

    tokenizer, network = tuned.tokenizer, tuned.network
    longest = max(len(prompt) for prompt in prompts)
    ids = [[tokenizer.pad_token_id] * (longest - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    with _inference(tuned), tuned.evaluating(), tuned.as_base() if base else nullcontext():
        output = network.generate(
            input_ids=torch.tensor(ids, device=tuned.device),
            attention_mask=torch.tensor(mask, device=tuned.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            use_cache=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    return [_answer(case, row[longest:].tolist(), tokenizer) for case, row in zip(cases, output, strict=True)]


def _answer(case: int, tokens: list[int], tokenizer: Any) -> Answer:
    ended = tokenizer.eos_token_id in tokens
    kept = tokens[: tokens.index(tokenizer.eos_token_id)] if ended else tokens
    return Answer(case, tokenizer.decode(kept, skip_special_tokens=True).strip(), len(kept), ended)


@contextmanager
def _inference(tuned: Tuned) -> Iterator[None]:
    """Unsloth swaps in its own generation kernels and has to be told to take them out again before training."""
    if tuned.stack.engine is not Engine.unsloth:
        yield
        return
    model_class = tuned.stack.unsloth.FastLanguageModel
    model_class.for_inference(tuned.network)
    try:
        yield
    finally:
        model_class.for_training(tuned.network)
