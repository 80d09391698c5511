"""Does a model find the right diagnosis, and true statements, likelier than others? Without
generating.

    python benchmarks/answers/likelihood.py [--cases all|held_out] [--limit N] [--adapter FOLDER] \
        [--out FILE] [hydra overrides]

Measures the base of the run that the overrides compose (hardware=cpu unless another is named), and
with --adapter the same base with that adapter, on the shipped cases: all of them, or the held-out
ones of the split. --limit takes so many at even distances. The adapter's own lora settings have to
be given as overrides where they are not the defaults.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import hydra
from omegaconf import open_dict

from medexp.config.registration import register_with_hydra
from medexp.config.resolve import resolve
from medexp.config.schema import RunConfig
from medexp.config.shipped import find_conf_dir
from medexp.data import loading as data_loading
from medexp.data.cases import Case
from medexp.data.encoding import make_vocabulary
from medexp.data.preparation import pick_evenly
from medexp.data.split import split_cases
from medexp.evaluation.diagnosis import score_diagnoses
from medexp.evaluation.knowledge import score_knowledge
from medexp.evaluation.likelihood import fits_tokens
from medexp.evaluation.measures.forced_choice import (
    DiagnosisScores,
    KnowledgeScores,
    measure_calibration_error,
)
from medexp.evaluation.question_forms import make_training_form
from medexp.models import backend, memory_guard, weights
from medexp.models import loading as model_loading
from medexp.models.adapter_model import AdapterModel
from medexp.models.tokenizer import load_tokenizer
from medexp.planning import planner
from medexp.system import machine
from medexp.system.units import gib

Scores = tuple[list[DiagnosisScores], list[KnowledgeScores]]


def main() -> None:
    """Measure and print, and write every score where --out says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", choices=("all", "held_out"), default="all")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--out", type=Path)
    options, overrides = parser.parse_known_args()
    if options.adapter:
        overrides.append(f"lora.start_from={options.adapter.resolve()}")
    run = _composed(overrides)
    cases = data_loading.load_cases(run.dataset, run.prompt).cases
    chosen = cases if options.cases == "all" else split_cases(cases, run.dataset).held_out
    chosen = tuple(pick_evenly(chosen, options.limit or len(chosen)))
    if planner.is_planned(run):
        run = planner.apply_plan(run, planner.choose_plan(run)[0])
    meter = memory_guard.cap_allocator(run.hardware)
    network = _loaded(run)
    print(f"{run.model.name}, {len(chosen)} of {len(cases)} cases, {run.hardware.dtype.value}")
    result: dict[str, Scores] = {}
    for side in ("base", "tuned") if options.adapter else ("base",):
        with network.adapter_disabled() if side == "base" else nullcontext():
            result[side] = _measured(run, network, chosen, side)
    if "tuned" in result:
        _print_change(*result["base"], *result["tuned"])
    if meter.on_card:
        print(f"peak {gib(meter.peak_bytes()):.2f} GiB of {gib(meter.ceiling_bytes):.2f}")
    if options.out:
        plain = {
            side: [list(map(asdict, scores)) for scores in found] for side, found in result.items()
        }
        options.out.write_text(json.dumps(plain), encoding="utf-8")


def _measured(run: RunConfig, network: AdapterModel, cases: Sequence[Case], side: str) -> Scores:
    """Return all scores of one side, as plain values, and print what they come to."""
    form = make_training_form(run.prompt, make_vocabulary(network.tokenizer, run.prompt))
    fits = fits_tokens(run.evaluation.batch_size, run.evaluation.max_seq_tokens)
    shares_prefix = network.device.type == "cpu"
    began, processor = time.perf_counter(), time.process_time()
    diagnoses = score_diagnoses(network, form, cases, fits, shares_prefix, run.dataset.split_seed)
    between, processor_between = time.perf_counter(), time.process_time()
    knowledge = score_knowledge(network, form, cases, fits, shares_prefix)
    ended, processor_ended = time.perf_counter(), time.process_time()
    _print_diagnoses(side, diagnoses)
    print(f"  {between - began:.0f} s, {processor_between - processor:.0f} s of processor time")
    _print_knowledge(side, knowledge)
    print(
        f"  {ended - between:.0f} s, {processor_ended - processor_between:.0f} s of processor time"
    )
    return diagnoses, knowledge


def _print_change(
    diagnoses: Sequence[DiagnosisScores],
    knowledge: Sequence[KnowledgeScores],
    diagnoses_after: Sequence[DiagnosisScores],
    knowledge_after: Sequence[KnowledgeScores],
) -> None:
    changes = {
        "diagnosis, accuracy": [
            after.accuracy - before.accuracy
            for before, after in zip(diagnoses, diagnoses_after, strict=True)
        ],
        "diagnosis, margin": [
            after.margin - before.margin
            for before, after in zip(diagnoses, diagnoses_after, strict=True)
        ],
        "knowledge": [
            after.preference - before.preference
            for before, after in zip(knowledge, knowledge_after, strict=True)
        ],
    }
    for name, values in changes.items():
        print(
            f"tuned minus base, {name}: {_mean(values):+.3f} a case, higher in"
            f" {sum(value > 0 for value in values)}, lower in {sum(value < 0 for value in values)}"
            f" of {len(values)}"
        )


def _print_diagnoses(side: str, found: Sequence[DiagnosisScores]) -> None:
    print(
        f"{side}: diagnosis, {len(found)} cases, 1 of 8 (chance 0.125):"
        f" accuracy {_mean([scores.accuracy for scores in found]):.3f},"
        f" margin {_mean([scores.margin for scores in found]):+.2f} nats,"
        f" Brier {_mean([scores.brier for scores in found]):.3f},"
        f" calibration error {measure_calibration_error(found):.3f}"
    )


def _print_knowledge(side: str, found: Sequence[KnowledgeScores]) -> None:
    pairs = [pair for scores in found for pair in scores.pairs]
    print(
        f"{side}: knowledge, {len(found)} cases, {len(pairs)} pairs (chance 0.5): the true item is"
        f" likelier in {_mean([scores.preference for scores in found]):.3f}"
    )
    kinds = defaultdict(list)
    for pair in pairs:
        kinds[pair.kind].append(pair)
    for kind, some in sorted(kinds.items()):
        longer = _mean([pair.corrupted_tokens - pair.true_tokens for pair in some])
        print(
            f"  {kind:<11}{len(some):>5} pairs  per token {_mean([p.preference for p in some]):.3f}"
            f"  by sum {_mean([p.preference_by_sum for p in some]):.3f}"
            f"  tokens more in the corruption {longer:+.2f}"
        )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _composed(overrides: Sequence[str]) -> RunConfig:
    register_with_hydra()
    if not any(override.startswith("hardware=") for override in overrides):
        overrides = ["hardware=cpu", *overrides]
    with hydra.initialize_config_dir(str(find_conf_dir()), version_base="1.3"):
        cfg = hydra.compose("train", list(overrides), return_hydra_config=True)
        choices = dict(cfg.hydra.runtime.choices)
        with open_dict(cfg):
            del cfg["hydra"]
        return resolve(cfg, machine.read(), Path.cwd(), choices)


def _loaded(run: RunConfig) -> AdapterModel:
    modules = backend.load_backend(run.hardware, machine.cache_dir())
    found = weights.find_weights(run.model)
    if found.gguf is not None:
        found = weights.convert_gguf(found, run.model, modules)
    return model_loading.load_model(run, found, load_tokenizer(found, modules), modules)


if __name__ == "__main__":
    main()
