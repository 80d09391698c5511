import inspect
import re

import pytest

from medexp import errors
from medexp.errors import BadInput, ConfigError, MedexpError, RunInterrupted, listing, nearest

ALL = [each for _, each in inspect.getmembers(errors, inspect.isclass) if each.__module__ == "medexp.errors"]


def test_every_error_is_in_the_tree_at_the_top():
    drawn = set(re.findall(r"[A-Z]\w+(?:Error|Input|Diverged|Interrupted|Pruned|Failed)", errors.__doc__ or ""))
    assert {each.__name__ for each in ALL} == drawn


@pytest.mark.parametrize("kind", ALL)
def test_every_error_is_a_medexp_error(kind):
    assert issubclass(kind, MedexpError)


@pytest.mark.parametrize(
    ("name", "exit_code"),
    [("MedexpError", 1), ("VramCeilingError", 3), ("TrainingDiverged", 4)]
    + [(each.__name__, 2) for each in ALL if issubclass(each, BadInput)],
)
def test_exit_codes_are_those_of_the_tree(name, exit_code):
    assert getattr(errors, name).exit_code == exit_code


def test_one_problem_is_a_sequence_of_one():
    error = ConfigError("lora.r is wrong")
    assert error.problems == ("lora.r is wrong",)
    assert str(error) == "lora.r is wrong"


def test_several_problems_are_one_message_of_several_lines():
    error = BadInput(["first", "second"])
    assert error.problems == ("first", "second")
    assert str(error) == "first\nsecond"


@pytest.mark.parametrize(("signal_number", "exit_code"), [(2, 130), (15, 143)])
def test_an_interrupted_run_exits_as_the_shell_would(signal_number, exit_code):
    assert RunInterrupted("stopped", signal_number).exit_code == exit_code


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("linaer", "; did you mean linear?"),
        ("cosin", "; did you mean cosine?"),
        ("linear", "; did you mean linear?"),
        ("xyz", ""),
        ("", ""),
    ],
)
def test_nearest_names_what_is_near_and_nothing_else(word, said):
    assert nearest(word, ["linear", "cosine", "constant"]) == said


@pytest.mark.parametrize(("names", "said"), [(["b", "a"], "b, a"), (["a"], "a"), ([], "none"), ({"x": 1, "y": 2}, "x, y")])
def test_a_listing_keeps_the_order(names, said):
    assert listing(names) == said
