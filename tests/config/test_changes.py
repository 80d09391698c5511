"""No stage changes a configuration in place: each returns a new one."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError, asdict, fields

import pytest

from medexp.config.changes import change_values
from medexp.config.levers import MEMORY_LEVERS
from medexp.config.schema import Hardware, RunConfig
from medexp.errors import ConfigError
from medexp.planning import planner
from medexp.planning.memory_terms import Levers


@pytest.mark.parametrize("key", ["lora.r", "model.shape.layers", "hardware", "asked"])
def test_a_value_is_not_set_twice(resolved: Callable[..., RunConfig], key: str) -> None:
    config = resolved("hardware=rtx4050_6gb")
    group, _, name = key.rpartition(".")
    owner = config
    for part in filter(None, group.split(".")):
        owner = getattr(owner, part)
    with pytest.raises(FrozenInstanceError, match=rf"\.{name} is not set twice"):
        setattr(owner, name, getattr(owner, name))


def test_a_changed_config_is_another_one(resolved: Callable[..., RunConfig]) -> None:
    config = resolved("hardware=rtx4050_6gb")
    before = asdict(config)
    changed = change_values(config, {"lora.r": 4, "model.shape.layers": 3, "asked": {"lora.r": 8}})
    assert (changed.lora.r, changed.model.shape.layers, changed.asked) == (4, 3, {"lora.r": 8})
    assert changed.model.name == config.model.name
    assert asdict(config) == before


def test_a_change_is_checked(resolved: Callable[..., RunConfig]) -> None:
    config = resolved("hardware=rtx4050_6gb")
    with pytest.raises(TypeError, match="rank"):
        change_values(config, {"lora.rank": 4})
    with pytest.raises(ConfigError, match="r=0 is out of range"):
        change_values(config, {"lora.r": 0})


def test_a_plan_is_applied_to_another_config(resolved: Callable[..., RunConfig]) -> None:
    config = resolved("hardware=rtx4050_6gb")
    before, plan = asdict(config), planner.choose_plan(config)[0]
    planned = planner.apply_plan(config, plan)
    assert asdict(config) == before
    assert planned.hardware.offload_layers == plan.levers.streamed_layers
    assert planned.asked["hardware.offload_layers"] == config.hardware.offload_layers == "auto"
    again = planner.apply_plan(planned, plan)
    assert (again, again.asked) == (planned, planned.asked)


def test_every_lever_has_a_key_and_a_place_in_a_plan() -> None:
    """The batch apart, a plan holds the levers of the table and no other."""
    assert {lever.name for lever in MEMORY_LEVERS} <= {key.name for key in fields(Hardware)}
    planned = {field.name for field in fields(Levers)} - {"micro_batch", "accumulation"}
    assert sorted(lever.planned_as for lever in MEMORY_LEVERS) == sorted(planned)
