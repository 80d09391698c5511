import copy
from dataclasses import is_dataclass, replace
from enum import Enum

import pytest

from medexp.config.changes import change_values
from medexp.config.fields import config_fields
from medexp.config.flatten import (
    comparable_params,
    fingerprint,
    flatten,
    former_fingerprint,
    is_of_experiment,
    is_of_identity,
)
from medexp.config.schema import Resume, RunConfig
from medexp.planning import planner
from medexp.system.units import GIB


@pytest.fixture(scope="module")
def run(resolved):
    return resolved("hardware=rtx4050_6gb", "+tracking.tags.study=pilot")


def leaves_of(group: object, prefix: str = ""):
    """Every (owner, field name, dotted name) below `group`."""
    for key in config_fields(group):
        value = getattr(group, key.name)
        if is_dataclass(value):
            yield from leaves_of(value, f"{prefix}{key.name}.")
        else:
            yield group, key.name, prefix + key.name


def another(value: object) -> object:
    """A value of the same kind that is not `value`."""
    if isinstance(value, Enum):
        return next(each for each in type(value) if each is not value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, list):
        return value[:-1] or ["another"]
    return {"study": "another"} if isinstance(value, dict) else f"{value}, changed"


def test_names_are_dotted_and_values_plain(run):
    flat = flatten(run)
    assert flat["lora.r"] == 16
    assert flat["model.shape.family"] == "llama"
    assert flat["training.optimizer"] == "adamw_8bit"
    assert flat["training.epochs"] is None
    assert flat["lora.target_modules"][0] == "q_proj"
    assert flat["tracking.tags.study"] == "pilot"
    assert {type(value) for value in flat.values()} <= {str, int, float, bool, type(None), list}


def test_no_leaf_is_lost(run):
    names = {name for _, _, name in leaves_of(run)} - {"tracking.tags"} | {"tracking.tags.study"}
    assert set(flatten(run)) == names


def test_a_fingerprint_is_twelve_hex_digits(run):
    assert len(fingerprint(run, "digest")) == 12
    int(fingerprint(run, "digest"), 16)


def test_the_same_run_on_the_same_cases_has_the_same_fingerprint(run):
    assert fingerprint(run, "digest") == fingerprint(copy.deepcopy(run), "digest")


def test_other_cases_have_another_fingerprint(run):
    assert fingerprint(run, "digest") != fingerprint(run, "another")


def test_every_leaf_tells_two_runs_apart_except_where_results_are_kept(run):
    for _, _, name in leaves_of(run):
        changed: RunConfig = copy.deepcopy(run)
        owner, attribute, _ = next(each for each in leaves_of(changed) if each[2] == name)
        # A config does not let itself be changed; this copy is nobody else's.
        vars(owner)[attribute] = another(getattr(owner, attribute))
        is_same = fingerprint(changed, "digest") == fingerprint(run, "digest")
        assert is_same != is_of_identity(name), name


def test_what_does_not_change_what_comes_out(run):
    others = {
        name
        for name in flatten(run)
        if not is_of_experiment(name) and not name.startswith("tracking.")
    }
    assert others == {
        "training.resume",
        "training.save_steps",
        "evaluation.reuse_base",
        "evaluation.likelihoods",
        "evaluation.verifier",
        "evaluation.verifier_model",
        "dataset.faulty",
        "hardware.cards",
        "hardware.measured_steps",
    }
    assert not any(is_of_experiment(name) for name in flatten(run) if name.startswith("tracking."))


def test_a_card_s_pace_is_only_predicted_with(run):
    told_apart = {name for name in flatten(run) if is_of_experiment(name) != is_of_identity(name)}
    assert told_apart == {
        f"hardware.{name}" for name in ("matmul_tflops", "memory_gb_per_s", "host_link_gb_per_s")
    }


def test_what_the_machine_adds_and_what_a_plan_sets_is_no_part_of_a_run(resolved, large_card):
    small, large = (replace(large_card, ram_bytes=ram * GIB) for ram in (14, 64))
    for asked in (["hardware=rtx4050_6gb"], ["hardware=auto"]):
        runs = [resolved(*asked, on=here) for here in (small, large)]
        assert runs[0].hardware.host_ram_gib != runs[1].hardware.host_ram_gib
        names = {fingerprint(each, "digest") for each in runs}
        runs = [planner.apply_plan(each, planner.choose_plan(each)[0]) for each in runs]
        assert names == {fingerprint(each, "digest") for each in runs}, asked
        assert len(names) == 1, asked
        assert len({former_fingerprint(each, "digest") for each in runs}) == 2, asked


def test_memory_that_was_asked_for_is_part_of_a_run(resolved):
    words = ["hardware.host_ram_gib=8", "hardware.host_ram_gib=16", "hardware.vram_ceiling_gib=4"]
    assert len({fingerprint(resolved("hardware=auto", each), "digest") for each in words}) == 3


def test_a_moved_project_asks_for_the_same(resolved, tmp_path):
    def of(place, *more):
        launched = tmp_path / place
        asked = [
            "hardware=cpu",
            "dataset=local",
            "dataset.path=cases.csv",
            "lora.start_from=mlruns/a",
            *more,
        ]
        return fingerprint(resolved(*asked, launch_dir=launched), "digest")

    assert of("old") == of("new")
    assert of("old") != of("old", "dataset.path=other.csv")
    assert (
        of("old", "dataset.path=/x/cases.csv")
        == of("new", "dataset.path=/x/cases.csv")
        != of("old")
    )


def test_a_run_that_must_not_resume_is_still_the_same_run(run):
    never = change_values(run, {"training.resume": Resume.never})
    assert fingerprint(never, "digest") == fingerprint(run, "digest")


def test_the_most_telling_come_first_and_nulls_are_left_out(run):
    may_change = ["training.save_steps=7", "training.resume=never", "evaluation.reuse_base=false"]
    told = comparable_params(
        run,
        ["training.max_grad_norm=0.5", "+tracking.tags.study=pilot", "experiment=x", *may_change],
    )
    assert list(told)[:3] == ["lora.r", "training.learning_rate", "training.max_seq_tokens"]
    assert list(told).index("training.max_grad_norm") < list(told).index("training.seed")
    assert None not in told.values()
    assert len(told) < 30
    assert all(map(is_of_experiment, told))


def test_newer_keys_of_a_recipe_are_told_where_they_are_set(run, resolved):
    assert not {"lora.init_lora_weights", "training.adam_beta1"} & set(comparable_params(run, []))
    levers = {"training.loraplus_lr_ratio": 16.0, "lora.init_lora_weights": "gaussian"}
    told = comparable_params(change_values(run, levers), [])
    assert {name: told[name] for name in levers} == levers


def test_the_parts_of_a_mixture_are_told(resolved):
    told = comparable_params(resolved("hardware=cpu", "dataset=medical_o1_structured"), [])
    assert told["dataset.mixture.0.weight"] == 0.9
    assert told["dataset.mixture.1.name"] == "clinical_cases"
