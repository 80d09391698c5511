from dataclasses import MISSING as NO_DEFAULT
from dataclasses import fields, is_dataclass
from typing import get_origin

import omegaconf
import pytest

from medexp.config.fields import Group, config_fields
from medexp.config.schema import Dtype, Evaluation, Hardware, ModelShape, RunConfig
from medexp.errors import ConfigError


def values_of(kind: type[Group], **changes: object) -> dict[str, object]:
    """The smallest number allowed for every number, an empty list or mapping, "x" for the rest."""

    def inside(field):
        limits = field.metadata
        if "low" not in limits:
            return {list: [], dict: {}}.get(get_origin(field.type), "x")
        return limits["low"] if limits["above"] is None else limits["above"] + 1

    return {each.name: inside(each) for each in fields(kind)} | changes


GROUPS = [each.type for each in config_fields(RunConfig)]
NUMBERS = [
    (kind, each.name)
    for kind in [*GROUPS, ModelShape]
    for each in fields(kind)
    if "low" in each.metadata
]


@pytest.mark.parametrize("kind", [*GROUPS, ModelShape])
def test_no_field_has_a_default(kind):
    assert is_dataclass(kind)
    for each in fields(kind):
        assert each.default == omegaconf.MISSING, each.name
        assert each.default_factory is NO_DEFAULT, each.name


@pytest.mark.parametrize("kind", [*GROUPS, ModelShape])
def test_every_number_has_a_range(kind):
    for each in fields(kind):
        assert ("low" in each.metadata) == (each.type in (int, float, int | None, float | None)), (
            each.name
        )


@pytest.mark.parametrize(("kind", "name"), NUMBERS)
def test_a_number_below_its_range_is_refused_by_name(kind, name):
    with pytest.raises(ConfigError) as refused:
        kind(**values_of(kind, **{name: -1}))
    (problem,) = refused.value.problems
    assert f"{name}=-1 is out of range: allowed is " in problem


@pytest.mark.parametrize(
    ("kind", "name", "value", "allowed"),
    [
        (ModelShape, "layers", 0, "at least 1"),
        (Evaluation, "max_seq_tokens", 15, "at least 16"),
        (Hardware, "vram_ceiling_gib", 0, "above 0"),
        (GROUPS[1], "r", 1025, "at least 1 and at most 1024"),
        (GROUPS[1], "dropout", 1.0, "at least 0 and at most 0.99"),
        (GROUPS[2], "max_cases", 1, "at least 2"),
        (GROUPS[4], "learning_rate", float("nan"), "above 0"),
    ],
)
def test_a_range_is_said_in_words(kind, name, value, allowed):
    with pytest.raises(ConfigError, match=f"{name}={value} is out of range: allowed is {allowed}$"):
        kind(**values_of(kind, **{name: value}))


@pytest.mark.parametrize("kind", [*GROUPS, ModelShape])
def test_the_edge_of_a_range_is_allowed(kind):
    values = values_of(kind)
    assert vars(kind(**values)) == values


def test_an_optional_number_may_be_null():
    assert Hardware(**values_of(Hardware, vram_ceiling_gib=None)).vram_ceiling_gib is None


def test_every_number_that_is_wrong_is_named_at_once():
    with pytest.raises(ConfigError) as refused:
        Evaluation(answers=-1, max_new_tokens=0, batch_size=1, max_seq_tokens=16, every_steps=0)
    assert [problem.partition("=")[0] for problem in refused.value.problems] == [
        "answers",
        "max_new_tokens",
        "every_steps",
    ]


def test_the_shape_of_a_model_says_where_it_is():
    with pytest.raises(ConfigError, match=r"^shape.heads=0 "):
        ModelShape(**values_of(ModelShape, heads=0))


def test_words_are_their_own_values():
    words = ("auto", "bfloat16", "float16", "float32")
    assert {each.name: each.value for each in Dtype} == dict(zip(words, words, strict=True))
