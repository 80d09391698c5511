"""A run that runs out of GPU memory on its way goes on with a safer plan, by itself."""

from collections.abc import Iterator
from typing import Any

import pytest

from medexp.errors import VramCeilingError
from medexp.train import repeat_with_safer_plans

RAN_OUT = "out of GPU memory while training: 5.25 GiB were reserved. Offload more layers"


class Run:
    """Ends in these ways, one after the other."""

    def __init__(self, *endings: Any) -> None:
        self._endings: Iterator[Any] = iter(endings)
        self.calls = 0

    def __call__(self) -> Any:
        self.calls += 1
        ending = next(self._endings)
        if isinstance(ending, Exception):
            raise ending
        return ending


def ran_out(nothing_safer: bool = False) -> VramCeilingError:
    return VramCeilingError(RAN_OUT, "training", "training step", nothing_safer)


def test_it_goes_on_as_often_as_it_may_and_says_so():
    said: list[str] = []
    run: Any = Run(ran_out(), ran_out(), "trained")
    assert repeat_with_safer_plans(run, 3, said.append) == "trained"
    assert run.calls == 3
    assert said == [
        "out of GPU memory while training: 5.25 GiB were reserved. It goes on from the last"
        " checkpoint, with the next-safer plan"
    ] * 2  # fmt: skip


@pytest.mark.parametrize(
    ("endings", "attempts", "calls"),
    [
        ([ran_out()], 0, 1),  # a trial of a sweep, a plan by hand, training.resume=never, a CPU
        ([ran_out(), ran_out()], 1, 2),
        ([ran_out(nothing_safer=True)], 3, 1),
        ([ran_out(), ran_out(nothing_safer=True)], 3, 2),
    ],
    ids=["none", "one", "nothing safer", "then nothing safer"],
)
def test_it_ends_where_nothing_is_left_to_try(endings, attempts, calls):
    run: Any = Run(*endings)
    with pytest.raises(VramCeilingError, match="out of GPU memory"):
        repeat_with_safer_plans(run, attempts, lambda _: None)
    assert run.calls == calls


def test_other_errors_end_the_run():
    run: Any = Run(ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        repeat_with_safer_plans(run, 3, lambda _: None)
