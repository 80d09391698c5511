"""Newer keys do not part a run from its past."""

from dataclasses import replace
from enum import Enum

import pytest
from omegaconf import OmegaConf

from medexp.config.changes import change_values
from medexp.config.flatten import (
    extract_identity,
    fingerprint,
    flatten,
    former_fingerprint,
    is_of_experiment,
)
from medexp.config.former_values import FORMER_VALUES, fill_former_values, restore_former_values
from medexp.config.schema import Format, MeasuredCases, PromptForm, Turns


@pytest.fixture(scope="module")
def run(resolved):
    return resolved()


def test_every_new_key_exists_and_its_former_value_may_be_set(run):
    leaves = flatten(run)
    assert set(FORMER_VALUES) <= set(leaves)
    enums = {
        "evaluation.cases": MeasuredCases.dataset,
        "dataset.format": Format.auto,
        "dataset.turns": Turns.last,
        "prompt.form": PromptForm.text,
    }
    again = change_values(run, FORMER_VALUES | enums)
    assert {name: flatten(again)[name] for name in FORMER_VALUES} == FORMER_VALUES


def test_a_run_at_the_former_values_is_known_as_before_the_keys_were_there(run):
    enums = {
        "evaluation.cases": MeasuredCases.dataset,
        "dataset.format": Format.auto,
        "dataset.turns": Turns.last,
        "prompt.form": PromptForm.text,
    }
    former = change_values(run, FORMER_VALUES | enums)
    assert not set(FORMER_VALUES) & set(extract_identity(former))
    changes = {
        "model.shape.window": 64, "hardware.cards": 2, "hardware.fp8": True,
        "hardware.measured_steps": [{"kind": "a"}],
        "dataset.validation": 8, "dataset.stratify_by": ["urgency"],
        "dataset.format": Format.chat, "dataset.turns": Turns.all,
        "lora.alpha_ratio": 2.0, "lora.init_lora_weights": "gaussian",
        "training.loraplus_lr_ratio": 16.0, "training.warmup_ratio": 0.1,
        "training.min_lr_ratio": 0.1, "training.adam_beta1": 0.8, "training.adam_beta2": 0.95,
        "training.adam_epsilon": 1e-6, "training.neftune_noise_alpha": 5.0,
        "prompt.form": PromptForm.chat, "prompt.system": "You are careful.",
        "dataset.test_share": 0.3, "dataset.validation_share": 0.1, "training.keep_best": True,
        "training.early_stopping_patience": 2, "evaluation.primary": ["structure"],
        "evaluation.cases": MeasuredCases.shipped,
        "evaluation.arms": ["base", "base_best", "tuned"],
        "evaluation.draws": 2, "evaluation.temperature": 0.5, "evaluation.likelihoods": True,
        "evaluation.benchmark_files.medbullets": "a.jsonl",
        "evaluation.benchmark_files.medxpertqa": "a.jsonl", "evaluation.benchmark_reasoning": True,
        "evaluation.verifier": "base", "evaluation.verifier_model": "m",
    }  # fmt: skip
    assert set(changes) == set(FORMER_VALUES)
    for name, value in changes.items():
        other = change_values(former, {name: value})
        if not is_of_experiment(name):
            assert fingerprint(other, "data") == fingerprint(former, "data")
            continue
        shown = value.value if isinstance(value, Enum) else value
        assert extract_identity(other)[name] == shown
        assert fingerprint(other, "data") != fingerprint(former, "data")
        assert former_fingerprint(other, "data") != former_fingerprint(former, "data")


def test_a_file_of_before_a_key_composes_and_does_what_it_did(compose):
    cfg = compose()
    OmegaConf.update(cfg, "dataset.validation", "???")
    filled = fill_former_values(cfg)
    assert filled.dataset.validation == 0
    assert OmegaConf.is_missing(cfg.dataset, "validation")


def test_an_older_run_made_again_is_as_it_was_and_a_newer_one_as_it_says(compose):
    made = compose("evaluation.draws=1", "dataset.validation=8")
    stored = OmegaConf.create(
        {"dataset": {"held_out": 16}, "evaluation": {"draws": 4, "temperature": 0.7}}
    )
    restore_former_values(made, stored)
    assert made.dataset.validation == 0
    assert made.evaluation.draws == 1
    assert made.evaluation.arms == ["base", "tuned"]


def test_the_shipped_cases_are_measured_whatever_is_trained_on(resolved, tmp_path):
    file = tmp_path / "own.jsonl"
    file.write_text('{"Question": "q", "Complex_CoT": "r", "Response": "a"}\n')
    own = ("dataset=local", f"dataset.path={file}")
    shipped = resolved(*own, "evaluation.cases=shipped")
    assert shipped.dataset.held_out_from is not None
    assert shipped.dataset.held_out_from.name == "clinical_cases"
    assert resolved(*own).dataset.held_out_from is None
    # What is trained on the shipped cases is measured on their own test part: the same one.
    assert resolved("evaluation.cases=shipped").dataset == resolved().dataset
    assert replace(shipped.dataset, held_out_from=None) == resolved(*own).dataset
