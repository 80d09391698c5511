"""Hydra's sweep syntax as dimensions, and what is refused."""

import math

import pytest

from medexp.config.registration import choose_sweep_lengths, register_with_hydra
from medexp.config.shipped import find_conf_dir
from medexp.errors import ConfigError
from medexp.sweep.search.search_space import (
    Choice,
    FloatRange,
    IntRange,
    SearchSpace,
    format_value,
    parse_search_space,
    quote_value,
)


@pytest.fixture(scope="module")
def loader():
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    register_with_hydra()
    with initialize_config_dir(str(find_conf_dir()), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


@pytest.mark.parametrize(
    ("written", "dimension"),
    [
        ("choice(8,16,32)", Choice((8, 16, 32))),
        ("8,16,32", Choice((8, 16, 32))),
        ("choice(8,8,16)", Choice((8, 16))),
        ("true,null,1.5", Choice((True, None, 1.5))),
        ("choice([q_proj,k_proj],[v_proj])", Choice(("[q_proj,k_proj]", "[v_proj]"))),
        ("choice('a b','c')", Choice(("'a b'", "c"))),
        ("range(8,65,8)", IntRange(8, 64, 8)),
        ("range(3)", IntRange(0, 2, 1)),
        ("range(8,64,8)", IntRange(8, 56, 8)),  # Hydra's range leaves its end out
        ("range(5,0,-1)", IntRange(1, 5, 1)),
        ("range(0.5,2,0.5)", FloatRange(0.5, 1.5, 0.5)),
        ("interval(1e-5,1e-3)", FloatRange(1e-5, 1e-3)),
        ("interval(4,64)", FloatRange(4.0, 64.0)),  # floats even of ints, as in Hydra
        ("int(interval(4,64))", IntRange(4, 64)),
        ("tag(log,int(interval(4,64)))", IntRange(4, 64, log=True)),
        ("tag(log,interval(1e-5,1e-3))", FloatRange(1e-5, 1e-3, log=True)),
        ("int(interval(16,16))", IntRange(16, 16)),
        # from hydra-optuna-sweeper's own tests
        ("shuffle(range(1,3))", IntRange(1, 2)),
        ("choice(true, false)", Choice((True, False))),
        ("choice('hello', 'world')", Choice(("hello", "world"))),
    ],
)
def test_what_is_written_is_what_is_drawn_from(loader, written, dimension):
    assert parse_search_space({}, [f"lora.r={written}"], loader).dimensions == {"lora.r": dimension}


def test_a_glob_over_a_group_is_a_choice_of_its_options(loader):
    assert parse_search_space({}, ["lora=glob(*)"], loader).dimensions == {
        "lora": Choice(("all_linear", "attention_only"))
    }


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("interval(8,4)", "the range is reversed: it begins at 8 and ends at 4"),
        ("int(interval(8,4))", "reversed"),
        ("range(8,8)", "the range is empty"),
        ("range(8,4)", "the range is empty"),
        ("range(1,4,0)", "the range is empty"),
        ("tag(log,interval(0,1))", "a log scale begins above 0"),
        ("tag(log,range(1,9))", "cannot be drawn on a log scale"),
        ("tag(log,choice(1,9))", "a choice has no scale"),
        ("interval(0,inf)", "both ends must be numbers"),
    ],
)
def test_a_range_without_sense_is_refused(loader, written, said):
    with pytest.raises(ConfigError, match=r"lora\.r=") as refused:
        parse_search_space({}, [f"lora.r={written}"], loader)
    assert said in str(refused.value)


def test_every_bad_range_is_said_at_once(loader):
    with pytest.raises(ConfigError) as refused:
        parse_search_space({}, ["lora.r=range(1,1)", "lora.alpha=interval(2,1)"], loader)
    assert len(refused.value.problems) == 2


def test_nothing_that_varies_is_refused(loader):
    with pytest.raises(ConfigError, match="nothing varies"):
        parse_search_space({}, ["lora.r=8"], loader)


def test_the_command_line_wins_over_a_preset(loader):
    params = {"lora.r": "choice(4,8)", "lora.alpha": "choice(16,32)"}
    made = parse_search_space(
        params, ["lora.r=choice(64,128)", "lora.alpha=8", "hardware=cpu"], loader
    )
    assert made.dimensions == {"lora.r": Choice((64, 128))}
    assert made.overrides({"lora.r": 64}) == ("lora.alpha=8", "hardware=cpu", "lora.r=64")


@pytest.mark.parametrize(
    ("dimensions", "size"),
    [
        ({"a": Choice((1, 2)), "b": IntRange(0, 9, 3)}, 8),
        ({"a": FloatRange(0, 1, 0.1)}, 11),
        ({"a": Choice((1, 2)), "b": FloatRange(0, 1)}, math.inf),
    ],
)
def test_the_size_of_a_space(dimensions, size):
    assert SearchSpace(dimensions).size == size


@pytest.mark.parametrize("value", [True, None, 8, 1e-05, 0.1, "'a b'", "[q_proj,k_proj]", "word"])
def test_a_value_survives_hydra(loader, value):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    read = OverridesParser.create().parse_override(f"key={format_value(value)}").value()
    assert read == {"'a b'": "a b", "[q_proj,k_proj]": ["q_proj", "k_proj"]}.get(value, value)


@pytest.mark.parametrize("text", ["/plain/path", "/a b/c", "/it's/here", "/a=b,c{d}/e", "C:\\x\\y"])
def test_a_quoted_path_survives_hydra(text):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    assert OverridesParser.create().parse_override(f"key={quote_value(text)}").value() == text


def test_lengths_end_where_the_cases_of_a_cpu_do_and_go_on_to_the_ceiling_of_a_card(loader):
    assert parse_search_space({"x": choose_sweep_lengths("cpu", 640)}, [], loader).dimensions == {
        "x": IntRange(384, 640, 128)
    }
    assert parse_search_space({"x": choose_sweep_lengths("cuda", 2048)}, [], loader).dimensions == {
        "x": IntRange(1024, 16384, 1024)
    }
