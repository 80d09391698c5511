"""The winner of a sweep: what it is trained with, and that no ending loses it."""

import pytest

from medexp.errors import SweepFailed
from medexp.sweep.reporting import winner
from medexp.sweep.study.final_results import FinalResult, load_final_results
from medexp.sweep.study.trial_files import Ending, TrialOutcome

LOSS = "result/loss_after"
PRESET = ["sweep=grid_rank", "lora.r=choice(4,8)", "sweep.n_trials=2", "sweep.final=true"]


def _loss_by_rank(params):
    return TrialOutcome(Ending.done, "", {LOSS: 1 + params["lora.r"] / 100})


def test_the_winner_has_the_length_of_the_run_without_the_preset(stubs):
    stubs.ends = _loss_by_rank
    study = stubs.run(*PRESET, "training.learning_rate=0.001", "evaluation.every_steps=7")
    trials, (final,) = stubs.started[:2], stubs.started[2:]
    assert {params["lora.r"] for params in trials} == {4, 8}
    # What the preset makes short is as without it; what was chosen and what was asked for stays.
    assert final["lora.r"] == 4
    assert (final["training.max_steps"], final["training.warmup_steps"]) == (60, 5)
    assert (final["evaluation.answers"], final["tracking.log_adapter"]) == (8, True)
    assert (final["training.learning_rate"], final["evaluation.every_steps"]) == (1e-3, 7)
    assert final["sweep"] == "grid_rank"
    assert "dataset.validation" not in final
    (result,) = load_final_results(study).values()
    assert (result.ending, result.seed) == ("done", 3407)
    assert study.folder_of(study.best_trials()[0]).parent == stubs.root / "multirun/s"


def test_seeds_and_steps_of_the_winner_may_be_asked_for_and_are_trained_once(stubs):
    stubs.ends = _loss_by_rank
    words = [*PRESET, "sweep.final_steps=30", "sweep.final_seeds=2"]
    stubs.run(*words).close()
    finals = stubs.started[2:]
    assert [params.get("training.seed") for params in finals] == [None, 3408]
    assert [params["training.max_steps"] for params in finals] == [30, 30]
    stubs.run(*words[:-1], "sweep.final_seeds=3")
    assert [params.get("training.seed") for params in stubs.started[4:]] == [3409]


def test_a_winner_that_fails_is_told_and_tried_again(stubs):
    ends = iter([TrialOutcome(Ending.crashed, "killed by SIGKILL")])
    stubs.ends = lambda params: (
        next(ends, _loss_by_rank(params)) if "training.max_steps" in params
        else _loss_by_rank(params)
    )  # fmt: skip
    with pytest.raises(SweepFailed, match="the final run ended, crashed: killed by SIGKILL"):
        stubs.run(*PRESET)
    (result,) = load_final_results(stubs.run(*PRESET)).values()
    assert len(stubs.started) == 4
    assert result.is_done


def test_what_the_winner_came_to_is_one_sentence(opened):
    results = [
        FinalResult(2, 3407 + place, f"f{place}", "done", "run", 60, 9.0,
                    {LOSS: loss, "result/loss_before": 3.9})
        for place, loss in enumerate((3.0, 3.2))
    ]  # fmt: skip
    assert winner.describe_final_results(opened(), results) == (
        "trial 2's settings over 60 steps, training.seed=3407, 3408, on the test part:"
        " result/loss_after 3.1000 on average, standard deviation 0.1414 (result/loss_before"
        " 3.9000)"
    )
    assert winner.describe_final_results(opened(), []) == ""
