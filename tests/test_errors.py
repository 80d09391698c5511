import inspect
import re

import pytest

from medexp import errors
from medexp.errors import (
    BadInput,
    ConfigError,
    MedexpError,
    RunInterrupted,
    closest,
    first_line,
    listing,
    nearest,
    suggestion,
)

ALL = [
    each
    for _, each in inspect.getmembers(errors, inspect.isclass)
    if each.__module__ == "medexp.errors"
]


def test_every_error_is_in_the_tree_at_the_top():
    drawn = set(
        re.findall(
            r"[A-Z]\w+(?:Error|Input|Diverged|Interrupted|Pruned|Paused|Failed)",
            errors.__doc__ or "",
        )
    )
    assert {each.__name__ for each in ALL} == drawn


@pytest.mark.parametrize("kind", ALL)
def test_every_error_is_a_medexp_error(kind):
    assert issubclass(kind, MedexpError)


def drawn() -> dict[str, tuple[str, str | None]]:
    """By name: what it stands under in the tree, and the exit code beside it (None where it has
    that of its parent).
    """
    found, above = {}, {}
    for line in (errors.__doc__ or "").splitlines():
        if node := re.match(r"    ([│├└─ ]*)([A-Z]\w+) +(\d+)?", line):
            depth = len(node[1])
            above[depth] = node[2]
            parent = max((other for other in above if other < depth), default=None)
            found[node[2]] = ("Exception" if parent is None else above[parent], node[3])
            above = {other: name for other, name in above.items() if other <= depth}
    return found


@pytest.mark.parametrize("kind", ALL)
def test_every_error_stands_under_its_parent(kind):
    assert kind.__base__.__name__ == drawn()[kind.__name__][0]


@pytest.mark.parametrize("kind", ALL)
def test_exit_codes_are_those_of_the_tree(kind):
    name, code = kind.__name__, None
    while code is None and name in drawn():
        name, code = drawn()[name]
    of_kind = kind("stopped", 2) if kind is RunInterrupted else kind
    assert of_kind.exit_code == int(code or 1)


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


@pytest.mark.parametrize(
    ("names", "said"),
    [(["b", "a"], "b, a"), (["a"], "a"), ([], "none"), ({"x": 1, "y": 2}, "x, y")],
)
def test_a_listing_keeps_the_order(names, said):
    assert listing(names) == said


@pytest.mark.parametrize(("word", "name"), [("cosin", "cosine"), ("mean (x)?", None), ("", None)])
def test_the_closest_is_a_name_of_its_own(word, name):
    assert closest(word, iter(["linear", "cosine"])) == name
    assert suggestion(name) == (f"; did you mean {name}?" if name else "")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError(), "ValueError"),
        (ValueError("  \n "), "ValueError"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (ValueError("first.\nsecond"), "first"),
    ],
)
def test_the_first_line_of_an_error_without_text_is_its_type(error, said):
    assert first_line(error) == said
