"""A study that begins with what another has found."""

import pytest

from medexp.errors import ConfigError
from medexp.sweep.study.history import is_from_other_study, values_of

GRID = ["hydra/sweeper/sampler=grid"]


def test_the_trials_of_an_earlier_study_are_known_and_not_tried_again(stubs):
    first = ["hydra.sweeper.study_name=first", "lora.r=choice(4,8,16)", "sweep.n_trials=2", *GRID]
    earlier = stubs.run(*first)
    assert sorted(stubs.points()) == sorted(trial.params["lora.r"] for trial in earlier.trials())
    known = {trial.params["lora.r"]: trial.value for trial in earlier.trials()}
    earlier.close()
    words = ["lora.r=choice(4,8,16)", "sweep.warm_start=first", "sweep.n_trials=3", *GRID]
    study = stubs.run(*words)
    (added,) = set(stubs.points()[2:])
    assert {added, *known} == {4, 8, 16}
    told = [trial for trial in study.trials() if is_from_other_study(trial)]
    assert {trial.params["lora.r"]: values_of(trial)[0] for trial in told} == known
    assert study.count_done() == 1
    # A trial's folder is where it was trained.
    assert {study.folder_of(trial).parent.name for trial in told} == {"first"}
    assert study.best_trials()[0].params["lora.r"] == 4
    for words, said in (
        (["training.max_steps=30"], r"training\.max_steps=30 \(was 60\)"),
        (["training.learning_rate=interval(1e-4,1e-3)"], "it varied lora.r and this sweep varies"),
        (["sweep.warm_start=firts"], "is no study; did you mean first"),
    ):
        with pytest.raises(ConfigError, match=said):
            stubs.run("lora.r=choice(4,8,16)", "sweep.warm_start=first",
                      "hydra.sweeper.study_name=other", *words)  # fmt: skip
