"""The winner of a sweep: what it is trained with, and that no ending loses it."""

import pytest

from medexp.errors import SweepFailed
from medexp.sweep.reporting import winner
from medexp.sweep.study.final_results import FinalResult, load_final_results
from medexp.sweep.study.trial_files import Ending, TrialOutcome

LOSS = "result/loss_after"
PRESET = ["sweep=grid_rank", "lora.r=choice(4,8)", "sweep.n_trials=2", "sweep.final=true"]


def test_the_winner_has_the_length_of_the_run_without_the_preset_and_is_not_lost(stubs):
    ends = iter([TrialOutcome(Ending.crashed, "killed by SIGKILL")])

    def end(params):
        done = TrialOutcome(Ending.done, "", {LOSS: 1 + params["lora.r"] / 100})
        # The preset gives trials their length, and overrides give it to the final run.
        return next(ends, done) if "training.max_steps" in params else done

    stubs.ends = end
    words = [*PRESET, "training.learning_rate=0.001", "evaluation.every_steps=7"]
    with pytest.raises(SweepFailed, match="the final run ended, crashed: killed by SIGKILL"):
        stubs.run(*words)
    study = stubs.run(*words)
    final = stubs.started[3]
    assert final == stubs.started[2]
    # What the preset makes short is as without it; what was chosen and what was asked for stays.
    assert final["lora.r"] == 4
    assert (final["training.max_steps"], final["training.warmup_steps"]) == (60, 5)
    assert (final["evaluation.answers"], final["tracking.log_adapter"]) == (8, True)
    assert final["evaluation.likelihoods"] is True
    assert (final["training.learning_rate"], final["evaluation.every_steps"]) == (1e-3, 7)
    assert final["sweep"] == "grid_rank"
    assert "dataset.validation" not in final
    (result,) = load_final_results(study).values()
    assert (result.is_done, result.seed) == (True, 3407)
    study.close()
    # Another seed is trained, and the first is not trained again.
    stubs.run(*words, "sweep.final_seeds=2")
    assert [params.get("training.seed") for params in stubs.started[4:]] == [3408]


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
