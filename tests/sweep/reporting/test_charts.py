"""A study in pictures: every trial can be seen, and what few trials cannot say is not drawn."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from medexp.config.schema import RunConfig
from medexp.sweep.reporting import charts
from medexp.sweep.study.study import Study
from medexp.sweep.study.trial_files import Ending, TrialOutcome
from medexp.system.machine import Machine

LOSSES = [3.0, 3.4, 3.1]


@pytest.fixture
def drawn(
    opened: Callable[..., Study],
    resolved: Callable[..., RunConfig],
    no_card: Machine,
    tmp_path: Path,
) -> Callable[..., tuple[Path, str]]:
    """drawn(losses, *overrides): the folder with the charts of a study whose trials came to
    `losses`, and its page.
    """

    def made(
        losses: Sequence[float], *overrides: str, ending: Ending = Ending.done
    ) -> tuple[Path, str]:
        study = opened("hydra/sweeper/sampler=random", *overrides)
        for at, loss in enumerate(losses):
            outcome = TrialOutcome(
                Ending.done if at == 0 else ending, "", {"result/loss_after": loss}
            )
            study.tell(study.ask(), outcome, {})
        charts.draw_charts(study, resolved(on=no_card), tmp_path / "charts")
        return tmp_path / "charts", (tmp_path / "charts/sweep.html").read_text()

    return made


def lines(page: str) -> list[tuple[int, ...]]:
    """The colours of the trials in parallel coordinates, by number."""
    found = re.findall(r'"line":\{"color":"rgb\((\d+), (\d+), (\d+)\)"', page)
    return [tuple(map(int, color)) for color in found]


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_no_trial_is_drawn_white_on_white(
    drawn: Callable[..., tuple[Path, str]], direction: str
) -> None:
    folder, page = drawn(LOSSES, f"hydra.sweeper.direction={direction}")
    ends = [tuple(round(255 * part) for part in to_rgb(charts.LINE_COLORS[at])) for at in (0, -1)]
    # the least and the largest, whichever is the best
    assert (lines(page)[0], lines(page)[1]) == (ends[0], ends[1])
    assert len(lines(page)) == len(LOSSES)
    pixels = imread(folder / "parallel_coordinates.png")[..., :3]
    for colour in charts.LINE_COLORS[::2]:
        assert np.abs(pixels - to_rgb(colour)).sum(axis=2).min() < 0.1


def test_trials_that_came_to_the_same_are_drawn_too(drawn: Callable[..., tuple[Path, str]]) -> None:
    assert len(lines(drawn([3.0, 3.0])[1])) == 2


@pytest.mark.parametrize(
    ("count", "ending"),
    [
        (charts.MIN_TRIALS_FOR_IMPORTANCE - 1, Ending.done),
        (charts.MIN_TRIALS_FOR_IMPORTANCE, Ending.copied),
    ],
)
def test_which_parameter_matters_is_not_drawn_from_few_trials(
    drawn: Callable[..., tuple[Path, str]], count: int, ending: Ending
) -> None:
    folder, page = drawn([3.0 + at / 10 for at in range(count)], ending=ending)
    finished = count if ending is Ending.done else 1
    assert not (folder / "importance.png").exists()
    assert (
        f"drawn from {charts.MIN_TRIALS_FOR_IMPORTANCE} finished trials on; there are {finished}."
        in page
    )


def test_which_parameter_matters_is_drawn_from_enough(
    drawn: Callable[..., tuple[Path, str]],
) -> None:
    folder, page = drawn([3.0 + at / 10 for at in range(charts.MIN_TRIALS_FOR_IMPORTANCE)])
    assert (folder / "importance.png").stat().st_size > 5000
    assert "finished trials on" not in page
