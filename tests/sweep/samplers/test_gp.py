"""The Gaussian process learns from what is refused, pruned and failed, and goes on from there."""

import pytest
from optuna.trial import TrialState

from medexp.sweep.samplers.gp import _pair_with_values
from medexp.sweep.search.proposal import CONFIG, HOST, VRAM
from medexp.sweep.search.search_space import Choice, FloatRange, IntRange, SearchSpace
from medexp.sweep.study.trial_files import Ending, TrialOutcome

GP = "hydra/sweeper/sampler=gp"
LOSS = "result/loss_after"
ALL_KINDS = SearchSpace(
    {
        "lora.r": IntRange(4, 64, log=True),
        "training.learning_rate": FloatRange(1e-5, 1e-3, log=True),
        "lora.alpha": Choice((8, 16, 32)),
        "training.max_seq_tokens": IntRange(128, 2048, 64),
    }
)
LENGTH = SearchSpace({"training.max_seq_tokens": IntRange(64, 6400, 64)})


def done(study, trial, loss, limits=None):
    study.tell(trial, TrialOutcome(Ending.done, "", {LOSS: loss}), limits or {})


def refused(study, trial, limits):
    study.tell(trial, TrialOutcome(Ending.infeasible, "too long"), limits)


def length(trial):
    return trial.params["training.max_seq_tokens"]


def test_it_learns_where_the_ceiling_is(opened):
    """The loss falls towards lengths that do not fit; Optuna's own would propose the longest for
    ever.
    """
    study, refusals = opened(GP, space=LENGTH), 0
    while study.count_done() < 12:
        trial = study.ask()
        over = float(length(trial) - 3000)
        if over > 0:
            refused(study, trial, {VRAM: over})
            refusals += 1
        else:
            done(study, trial, -length(trial) / 1000, {VRAM: over})
    assert refusals < 20
    assert max(length(trial) for trial in study.best_trials()) > 2900


@pytest.mark.parametrize("limits", [{HOST: 5.0}, {CONFIG: 1.0}, {VRAM: 3e9}])
@pytest.mark.parametrize("kept", [{}, {VRAM: -1e9}])
def test_trials_may_tell_of_different_limits(opened, limits, kept):
    study = opened(GP, "hydra.sweeper.sampler.n_startup_trials=2", space=ALL_KINDS)
    for count in range(6):
        trial = study.ask()
        if trial.params["lora.alpha"] == 32:
            refused(study, trial, limits)
        else:
            done(study, trial, float(count), kept if count % 2 else kept | {"eval/tokens": -2.0})
    assert set(study.ask().params) == set(ALL_KINDS.dimensions)


def test_every_point_of_a_small_space_is_tried_before_one_is_tried_again(opened):
    space = SearchSpace(
        {"lora.r": Choice((4, 8, 16)), "training.max_seq_tokens": IntRange(128, 384, 128)}
    )
    study = opened(GP, "hydra.sweeper.sampler.n_startup_trials=1", space=space)
    for count in range(9):
        trial = study.ask()
        assert count == 0 or study.find_twin(trial) is None
        done(study, trial, float(length(trial)))
    assert study.is_exhausted()


def test_trials_under_way_are_not_proposed_again(opened):
    study = opened(
        GP, "hydra.sweeper.sampler.n_startup_trials=3", "hydra.sweeper.n_jobs=2", space=LENGTH
    )
    for _ in range(5):
        trial = study.ask()
        done(study, trial, abs(length(trial) - 2000) / 1000, {VRAM: -1.0})
    assert len({length(study.ask()) for _ in range(3)}) == 3


def test_two_objectives_under_a_limit(opened):
    study = opened(
        GP,
        "hydra.sweeper.sampler.n_startup_trials=2",
        "hydra.sweeper.objective=[a,b]",
        space=LENGTH,
    )
    for _ in range(6):
        trial = study.ask()
        if length(trial) > 4000:
            refused(study, trial, {VRAM: 1.0})
        else:
            study.tell(
                trial,
                TrialOutcome(
                    Ending.done, "", {"a": -float(length(trial)), "b": float(length(trial))}
                ),
                {VRAM: -1.0},
            )
    assert study.ask().params


def test_a_continued_study_goes_on_from_what_it_learnt(opened):
    study = opened(GP, "hydra.sweeper.sampler.n_startup_trials=2", space=LENGTH)
    for tokens in (640, 1280, 1920):
        study.enqueue({"training.max_seq_tokens": tokens})
        trial = study.ask()
        done(study, trial, -tokens / 1000, {VRAM: tokens - 2000.0})
    for tokens in (2560, 6400):
        study.enqueue({"training.max_seq_tokens": tokens})
        refused(study, study.ask(), {VRAM: tokens - 2000.0})
    assert (
        640
        < length(opened(GP, "hydra.sweeper.sampler.n_startup_trials=2", space=LENGTH).ask())
        < 2560
    )


def test_a_range_that_grew_is_searched(opened):
    for space in (LENGTH, SearchSpace({"training.max_seq_tokens": IntRange(64, 12800, 64)})):
        study = opened(GP, "hydra.sweeper.sampler.n_startup_trials=1", space=space)
        for _ in range(3):
            done(study, study.ask(), 1.0)
    assert study.count_done() == 6


def test_what_was_pruned_or_failed_has_a_value_for_it(opened):
    """A pruned trial would have moved on as others did, on a line of slope 2/3: half as much as
    before it, drawn to 1; a failed one is as bad as the worst; what was cut short says nothing.
    """
    study = opened(GP, space=LENGTH)
    for at_four, loss in ((5.0, 4.0), (6.0, 4.5)):
        trial = study.ask()
        trial.report(at_four, 4)
        done(study, trial, loss)
    for ending in (Ending.pruned, Ending.diverged, Ending.stopped, Ending.infeasible):
        trial = study.ask()
        if ending is Ending.pruned:
            trial.report(9.0, 2)
            trial.report(7.0, 4)
        study.tell(
            trial, TrialOutcome(ending, "why"), {VRAM: 1.0} if ending is Ending.infeasible else {}
        )
    found = _pair_with_values(study.trials(), study.optuna.directions)
    assert [(trial.number, values) for trial, values in found] == [
        (0, [4.0]),
        (1, [4.5]),
        (2, [pytest.approx(5.25)]),
        (3, [4.5]),
    ]
    assert all(
        trial.state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        for trial, _ in found
    )


def test_it_learns_from_paused_trials_before_any_has_ended(opened):
    study = opened(
        GP, "hydra/sweeper/pruner=halving", "hydra.sweeper.sampler.n_startup_trials=3", space=LENGTH
    )
    for tokens in (640, 2560, 4480, 5120):
        study.enqueue({"training.max_seq_tokens": tokens})
        trial = study.ask()
        trial.report(abs(tokens - 3000) / 1000, 4)
        study.tell(trial, TrialOutcome(Ending.paused, "waits"), {})
    proposed = study.ask()
    assert 2000 < length(proposed) < 4480
    assert length(proposed) not in (640, 2560, 4480, 5120)


def test_a_paused_trial_goes_where_the_gains_of_others_went(opened):
    """Gains over an untuned loss of 4 that are twice as high at step 8, and three times at the end;
    what a trial was before it went on is left out.
    """
    study = opened(GP, space=LENGTH)
    for gain, steps in ((0.1, 8), (0.2, 99), (0.3, 99), (0.4, 4)):
        trial = study.ask()
        trial.report(4 - gain, 4)
        if steps > 4:
            trial.report(4 - 2 * gain, 8)
        if steps == 99:
            done(study, trial, 4 - 3 * gain)
        else:
            study.tell(trial, TrialOutcome(Ending.paused, "waits"), {})
    study.enqueue(study.trials()[0].params, continues=study.trials()[0])
    done(study, study.ask(), 3.7)
    values = {
        trial.number: of_trial[0]
        for trial, of_trial in _pair_with_values(study.trials(), study.optuna.directions)
    }
    assert set(values) == {1, 2, 3, 4}
    # The slopes are drawn to 1 by one pair more than the three that were measured.
    slopes = (2 * 3 + 1) / 4, (1.5 * 3 + 1) / 4
    expected = 3.4 + slopes[1] * (3.6 + slopes[0] * (3.6 - 3.8) - 3.6)
    assert values[3] == pytest.approx(expected)
    assert values[3] < min(values[number] for number in (1, 2, 4))


@pytest.mark.parametrize(
    ("preset", "sampler"),
    [
        ("rank_lr_seq", "ThoroughGPSampler"),
        ("pareto_loss_vram", "ThoroughGPSampler"),
        ("grid_rank", "GridSampler"),
    ],
)
def test_the_sampler_of_a_preset(asked, preset, sampler):
    assert asked(f"sweep={preset}").sampler["_target_"].endswith(sampler)


def test_with_a_pruner_that_predicts_ends_the_sampler_learns_from_these(opened):
    """At length 640 losses fall by 1 from the first rung to the end, at 5120 by 3."""
    study = opened(
        GP,
        "hydra/sweeper/pruner=freeze_thaw",
        "hydra.sweeper.sampler.n_startup_trials=3",
        space=LENGTH,
    )
    for tokens, end in ((640, 4.0), (5120, 2.0), (4800, None), (960, None)):
        study.enqueue({"training.max_seq_tokens": tokens})
        trial = study.ask()
        trial.report(5.0, 4)
        if end is None:
            study.tell(trial, TrialOutcome(Ending.paused, "waits"), {})
        else:
            done(study, trial, end)
    ends = study.optuna.pruner.predict_ends(study.trials())
    assert ends[2] == pytest.approx(2.0, abs=0.5)
    assert ends[3] == pytest.approx(4.0, abs=0.5)
    learnt = _pair_with_values(study.trials(), study.optuna.directions, ends)
    assert {trial.number: values for trial, values in learnt} == {
        number: [end] for number, end in ends.items()
    }
    assert length(study.ask()) > 3000
