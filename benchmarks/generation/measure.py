"""Tokens a second of the answers that a run gives: one by one as `generate` does, and batched as
medexp does.

    python benchmarks/generation/measure.py [--answers 16] [--new-tokens 288] [--batches 1 8 16] \
        [--out FILE] [hydra overrides]

Asks the base model of the run (hardware=cpu unless overridden) its own held-out questions. Each
batch size answers all of them, in turn, --rounds times; what is printed is the median, in tokens a
second and in tokens a second of CPU time (all threads): on a machine that others use too only the
second compares. Batch size 1 is the peer: one `generate` call a question, nothing padded. On a card
the run is planned for the largest batch and held under the ceiling, as training does it; the peak
is printed, too. There batch size 0 is medexp's own way: short questions in greater numbers, in the
memory planned for the largest batch.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import hydra
import torch

from medexp.config.changes import change_values
from medexp.config.registration import register_with_hydra
from medexp.config.resolve import resolve
from medexp.config.schema import RunConfig
from medexp.config.shipped import find_conf_dir
from medexp.data import loading as data_loading
from medexp.data.encoding import encode_prompt, make_vocabulary
from medexp.data.prompts import render_question
from medexp.data.split import split_cases
from medexp.evaluation import generation
from medexp.models import backend, memory_guard, weights
from medexp.models import loading as model_loading
from medexp.models.adapter_model import AdapterModel
from medexp.models.tokenizer import load_tokenizer
from medexp.planning import budget, planner
from medexp.system import machine
from medexp.system.units import gib


def main() -> None:
    """Measure and print, and write the figures where --out says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--answers", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=288)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options, overrides = parser.parse_known_args()
    run = _compose(overrides)
    run = change_values(
        run,
        {
            "evaluation.answers": options.answers,
            "evaluation.batch_size": max(options.batches),
            "evaluation.max_new_tokens": options.new_tokens,
        },
    )
    if planner.is_planned(run):
        plan = planner.choose_plan(run)[0]
        run = planner.apply_plan(run, plan)
        print(planner.describe_plan(plan, run.hardware.vram_ceiling_gib), flush=True)
    meter = memory_guard.cap_allocator(run.hardware)
    tuned = _load(run)
    held_out = split_cases(data_loading.load_cases(run.dataset).cases, run.dataset).held_out[
        : options.answers
    ]
    vocabulary = make_vocabulary(tuned.tokenizer, run.prompt)
    prompts = [
        encode_prompt(render_question(run.prompt, case.question), vocabulary) for case in held_out
    ]
    _tokens_per_s(tuned, prompts[:1], 8, generation.limit_batch_size(1))  # the first call is slower
    speeds: dict[int, list[tuple[float, float]]] = {size: [] for size in options.batches}
    for _ in range(options.rounds):
        for size in options.batches:
            may = (
                generation.limit_batch_size(size)
                if size
                else partial(budget.fits_answering_plan, run)
            )
            speeds[size].append(_tokens_per_s(tuned, prompts, options.new_tokens, may))
            print(
                "batch {:3}  {:7.1f} tokens/s  {:7.1f} tokens/CPU s".format(
                    size, *speeds[size][-1]
                ),
                flush=True,
            )
    medians = {
        size: [statistics.median(column) for column in zip(*found, strict=True)]
        for size, found in speeds.items()
    }
    for size, (speed, of_cpu) in medians.items():
        first = medians[options.batches[0]]
        times = speed / first[0], of_cpu / first[1]
        print(
            f"batch {size:3}  {speed:7.1f} tokens/s, {times[0]:.2f} x  {of_cpu:7.1f} tokens/CPU s,"
            f" {times[1]:.2f} x"
        )
    if meter.on_card:
        print(
            f"peak {gib(meter.peak_bytes()):.2f} GiB reserved, ceiling"
            f" {gib(meter.ceiling_bytes):.2f} GiB"
        )
    if options.out:
        result = {
            "answers": len(prompts),
            "new_tokens": options.new_tokens,
            "threads": torch.get_num_threads(),
            "tokens_per_s": speeds,
            "peak_reserved_bytes": meter.peak_bytes(),
            "overrides": overrides,
        }
        options.out.write_text(json.dumps(result | {"torch": torch.__version__}, indent=1) + "\n")


def _compose(overrides: list[str]) -> RunConfig:
    register_with_hydra()
    with hydra.initialize_config_dir(str(find_conf_dir()), version_base="1.3"):
        cfg = hydra.compose("train", overrides)
    return resolve(cfg, machine.read(), Path.cwd(), {})


def _load(run: RunConfig) -> AdapterModel:
    modules = backend.load_backend(run.hardware, machine.cache_dir())
    found = weights.find_weights(run.model)
    if found.gguf is not None:
        found = weights.convert_gguf(found, run.model, modules)
    return model_loading.load_model(run, found, load_tokenizer(found, modules), modules)


def _tokens_per_s(
    tuned: AdapterModel, prompts: list[list[int]], new_tokens: int, may: Callable[[int, int], bool]
) -> tuple[float, float]:
    """Tokens a second, and a second of CPU time."""
    with tempfile.TemporaryDirectory() as folder:
        began, began_cpu = time.perf_counter(), time.process_time()
        found = generation.generate_answers(
            tuned,
            prompts,
            new_tokens,
            may,
            Path(folder) / "answers",
            base=True,
            advance=lambda _: None,
        )
        tokens = sum(answer.tokens for answer in found)
        return tokens / (time.perf_counter() - began), tokens / (time.process_time() - began_cpu)


if __name__ == "__main__":
    main()
