"""Answers to held-out questions, greedy and in batches; each is written down as soon as it is
there, so a stop loses none. And one answer, token by token, from the same tokens in the same way.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from medexp.config.schema import Engine
from medexp.data.batching import batch_into_fewest
from medexp.evaluation.record import Answer
from medexp.models.adapter_model import ATTENTION, AdapterModel


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
    model: AdapterModel,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    fits_together: Callable[[int, int], bool],
    answers_file: Path,
    base: bool,
    advance: Callable[[int], None],
    sampling: Sampling | None = None,
) -> list[Answer]:
    """Return answers to `prompts` (token ids) in their order, by the base (`base`) or with the
    adapter: greedy ones, or drawn ones with `sampling`.

    `fits_together(questions, longest)` says whether so many questions, the longest of so many
    tokens, are answered together; one alone always is. `answers_file` is a JSONL file that grows
    batch by batch; answers already in it are not made again. `advance` is told how many answers
    have come.
    """
    known = read_answers(answers_file)
    advance(len(known))
    missing = [case for case in range(len(prompts)) if case not in known]
    lengths = [len(prompts[case]) for case in missing]
    batches = [
        [(missing[index], prompts[missing[index]]) for index in batch]
        for batch in batch_into_fewest(lengths, fits_together)
    ]
    answer_batch = partial(
        _answer_batch, max_new_tokens=max_new_tokens, base=base, sampling=sampling
    )
    for _, answers in model.share(answer_batch, batches):
        for answer in answers:
            known[answer.case] = answer
            _append_answer(answer, answers_file)
        advance(len(answers))
    return [known[case] for case in range(len(prompts))]


def _make_sampling_options(
    model: AdapterModel, sampling: Sampling | None, first_case: int = 0
) -> dict[str, Any]:
    """Return what transformers' generate needs to draw, or not to; a batch begins from a seed of
    its own, so that a run that is taken up again draws the same.
    """
    if sampling is None or not sampling.temperature:
        return {"do_sample": False}
    model.stack.transformers.set_seed(sampling.seed + first_case)
    return {
        "do_sample": True,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": 0,
    }


def limit_batch_size(batch_size: int) -> Callable[[int, int], bool]:
    """Return the rule by which questions go together by their number alone."""
    return lambda questions, _longest: questions <= batch_size


def read_answers(file: Path) -> dict[int, Answer]:
    """Return the answers in `file` by their case, none where it does not exist."""
    if not file.exists():
        return {}
    answers = {}
    for line in file.read_text(encoding="utf-8", errors="replace").split("\n"):
        # A line may have been cut off by a kill; that answer is made again.
        with suppress(ValueError, TypeError):
            answer = Answer(**json.loads(line))
            answers[answer.case] = answer
    return answers


def _append_answer(answer: Answer, file: Path) -> None:
    """Add `answer` to `file`, on a line of its own also where the last one was cut off."""
    line = json.dumps(asdict(answer), ensure_ascii=False).encode() + b"\n"
    with file.open("ab+") as stream:
        if stream.tell():
            stream.seek(-1, os.SEEK_END)
        is_cut_off = stream.read(1) not in (b"", b"\n")
        stream.write(b"\n" + line if is_cut_off else line)


def generate_answer(
    model: AdapterModel,
    prompt: list[int],
    sampling: Sampling,
    base: bool,
    on_token: Callable[[Answer], bool],
) -> Answer:
    """Return the answer to `prompt` (token ids) by the base (`base`) or with the adapter; a greedy
    one is that which `generate_answers` makes alone.

    After every token `on_token` is given the answer as it stands, and ends it there by returning
    True. A drawn answer begins from `sampling.seed`: the same call draws the same.
    """
    import torch

    def stops(ids: Any, _scores: Any, **_: Any) -> Any:
        answer = _decode_answer(0, ids[0, len(prompt) :].tolist(), model)
        return torch.full((1,), on_token(answer), dtype=torch.bool, device=ids.device)

    criteria = model.stack.transformers.StoppingCriteriaList([stops])
    options = {"stopping_criteria": criteria, **_make_sampling_options(model, sampling)}
    (tokens,) = _generate(model, [prompt], sampling.max_new_tokens, base, options)
    return _decode_answer(0, tokens, model)


def _answer_batch(
    model: AdapterModel,
    asked: Sequence[tuple[int, list[int]]],
    max_new_tokens: int,
    base: bool,
    sampling: Sampling | None,
) -> list[Answer]:
    """Return the answers to `asked`, each a case and its prompt."""
    options = _make_sampling_options(model, sampling, asked[0][0])
    prompts = [prompt for _, prompt in asked]
    generated = _generate(model, prompts, max_new_tokens, base, options)
    return [
        _decode_answer(case, tokens, model)
        for (case, _), tokens in zip(asked, generated, strict=True)
    ]


def _generate(
    model: AdapterModel,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    base: bool,
    options: Mapping[str, Any],
) -> list[list[int]]:
    """Return the tokens that follow each of `prompts`, padding included; `options` go to
    transformers' generate.
    """
    import torch

    tokenizer, network = model.tokenizer, model.network
    longest = max(len(prompt) for prompt in prompts)
    ids = [[tokenizer.pad_token_id] * (longest - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    with (
        _unsloth_inference(model),
        _plain_attention_on_cpu(model),
        model.evaluation_mode(),
        model.adapter_disabled() if base else nullcontext(),
    ):
        output = network.generate(
            input_ids=torch.tensor(ids, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            max_new_tokens=max_new_tokens,
            use_cache=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=model.end_ids,
            **options,
        )
    return [row[longest:].tolist() for row in output]


def _decode_answer(case: int, tokens: list[int], model: AdapterModel) -> Answer:
    ends = model.end_ids
    end = next((place for place, token in enumerate(tokens) if token in ends), None)
    answer = tokens[:end]
    text = model.tokenizer.decode(answer, skip_special_tokens=True).strip()
    return Answer(case, text, len(answer), end is not None)


@contextmanager
def _plain_attention_on_cpu(model: AdapterModel) -> Iterator[None]:
    """Have attention be products and a softmax while a CPU decodes: torch's fused attention takes 4
    to 15 times as long for a single token (benchmarks/generation). For many it is the quicker one.
    """
    if model.device.type != "cpu":
        yield
        return
    network = model.network.get_base_model()
    network.set_attn_implementation("eager")
    try:
        yield
    finally:
        network.set_attn_implementation(ATTENTION)


@contextmanager
def _unsloth_inference(model: AdapterModel) -> Iterator[None]:
    """Have Unsloth swap in its own generation kernels, and take them out again before training."""
    if model.stack.engine is not Engine.unsloth:
        yield
        return
    model_class = model.stack.unsloth.FastLanguageModel
    model_class.for_inference(model.network)
    try:
        yield
    finally:
        model_class.for_training(model.network)
