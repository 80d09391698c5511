import copy
from dataclasses import fields, is_dataclass
from enum import Enum

import pytest

from medexp.config.flatten import fingerprint, flatten, is_of_experiment, telling
from medexp.config.schema import Resume, RunConfig


@pytest.fixture(scope="module")
def run(resolved):
    return resolved("hardware=rtx4050_6gb", "+tracking.tags.study=pilot")


def leaves_of(group: object, prefix: str = ""):
    """Every (owner, field name, dotted name) below `group`."""
    for each in fields(group):  # type: ignore[arg-type]
        value = getattr(group, each.name)
        if is_dataclass(value):
            yield from leaves_of(value, f"{prefix}{each.name}.")
        else:
            yield group, each.name, prefix + each.name


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
        setattr(owner, attribute, another(getattr(owner, attribute)))
        is_same = fingerprint(changed, "digest") == fingerprint(run, "digest")
        assert is_same != is_of_experiment(name), name


def test_what_does_not_change_what_comes_out(run):
    others = {name for name in flatten(run) if not is_of_experiment(name) and not name.startswith("tracking.")}
    assert others == {"training.resume", "training.save_steps", "evaluation.reuse_base", "dataset.faulty"}
    assert not any(is_of_experiment(name) for name in flatten(run) if name.startswith("tracking."))


def test_a_run_that_must_not_resume_is_still_the_same_run(run):
    never = copy.deepcopy(run)
    never.training.resume = Resume.never
    assert fingerprint(never, "digest") == fingerprint(run, "digest")


def test_the_most_telling_come_first_and_nulls_are_left_out(run):
    may_change = ["training.save_steps=7", "training.resume=never", "evaluation.reuse_base=false"]
    told = telling(run, ["training.max_grad_norm=0.5", "+tracking.tags.study=pilot", "experiment=x", *may_change])
    assert list(told)[:3] == ["lora.r", "training.learning_rate", "training.max_seq_tokens"]
    assert list(told).index("training.max_grad_norm") < list(told).index("training.seed")
    assert None not in told.values()
    assert len(told) < 30
    assert all(map(is_of_experiment, told))


def test_the_parts_of_a_mixture_are_told(resolved):
    told = telling(resolved("hardware=cpu", "dataset=medical_o1_structured"), [])
    assert told["dataset.mixture.0.weight"] == 0.9
    assert told["dataset.mixture.1.name"] == "clinical_cases"
