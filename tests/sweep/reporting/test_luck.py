"""How much of a sweep's gain luck explains."""

from math import pi, sqrt

import pytest

from medexp.sweep.reporting import luck
from medexp.sweep.search.search_space import Choice, SearchSpace
from medexp.sweep.study.history import REPEAT_VALUES
from medexp.sweep.study.trial_files import Ending, TrialOutcome


@pytest.mark.parametrize(
    ("trials", "expected"),
    # Exact values: the expected largest of k standard normal numbers.
    [(1, 0.0), (2, 1 / sqrt(pi)), (3, 1.5 / sqrt(pi)), (8, 1.42360), (30, 2.04276)],
)
def test_the_best_of_equal_trials_is_as_good_as_theory_says(trials, expected):
    assert luck.expect_best_of(trials) == pytest.approx(expected, abs=0.015)


@pytest.fixture
def study(opened):
    """study(*overrides, repeats): a study whose trials had these values in their repeats."""

    def made(*overrides, repeats):
        study = opened(*overrides, space=SearchSpace({"lora.r": Choice((1, 2, 3, 4))}))
        for rank, values in enumerate(repeats, 1):
            study.enqueue({"lora.r": rank})
            mean = sum(values) / len(values)
            outcome = TrialOutcome(Ending.done, "", {"result/loss_after": mean})
            notes = {REPEAT_VALUES: list(values)} if len(values) > 1 else {}
            study.tell(study.ask(), outcome, {}, notes)
        return study

    return made


def test_the_noise_of_repeats_says_what_luck_would_show(study):
    repeated = study("hydra.sweeper.repeats=2", repeats=[(3.0, 3.2), (2.9, 3.1), (2.7, 2.9)])
    noise = luck.estimate_noise(repeated.trials())
    assert noise is not None
    # Each pair lies 0.1 to both sides of its mean: a variance of 0.02.
    assert (noise.deviation, noise.runs, noise.points) == (pytest.approx(sqrt(0.02)), 6, 3)
    by_luck = sqrt(0.02) / sqrt(2) * luck.expect_best_of(3)
    assert luck.describe_luck(repeated) == (
        f"of the gain of 0.3000, {by_luck:.4f} is what the best of 3 equal trials would show by"
        " luck (standard deviation of a run 0.1414, from 6 runs of 3 points)"
    )


def test_without_repeats_nothing_is_invented(study):
    said = luck.describe_luck(study(repeats=[(3.0,), (2.9,)]))
    assert said.startswith("how much of the gain of 0.1000 the best of 2 equal trials would show")
    assert "hydra.sweeper.repeats=2" in said


def test_a_first_trial_that_nothing_beat_has_no_gain(study):
    assert luck.describe_luck(study(repeats=[(2.0,), (2.9,)])) == ""
