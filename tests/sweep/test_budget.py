"""What trials cost, and which may not start any more."""

import os

import pytest

from medexp.errors import ConfigError
from medexp.sweep.budget import Reserve, TrialCosts, measure_lost_s
from medexp.sweep.reporting import currency
from medexp.sweep.search.options import check_options
from medexp.sweep.search.proposal import Proposal
from medexp.sweep.study.history import ELAPSED, PLANNED_S, STEPS
from medexp.sweep.study.trial_files import Ending, TrialOutcome
from medexp.system.units import parse_duration

LOSS = "result/loss_after"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("8h", 28800), ("90min", 5400), ("1h30min", 5400), ("3600", 3600), ("1.5d", 129600)],
)
def test_a_duration_is_read_as_people_write_it(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["8 hours", "h", "-5", "1e3", "5m", "", "8h30"])
def test_other_text_is_no_duration(asked, text):
    with pytest.raises(ValueError, match="write it as 8h, 90min, 1h30min or 3600"):
        parse_duration(text)


def test_a_budget_that_is_none_is_refused(asked):
    with pytest.raises(ConfigError, match=r"sweep\.budget: 'eight' is no duration"):
        asked("sweep.budget=eight")
    with pytest.raises(ConfigError, match=r"sweep\.budget=0 is out of range"):
        asked("sweep.budget=0")
    assert asked("sweep.budget=2h").budget_s == 7200
    assert check_options(vars(asked())).budget_s is None


def _finished(study, elapsed_s, **notes):
    trial = study.ask()
    outcome = TrialOutcome(Ending.done, "", {LOSS: 1.0}, elapsed_s=elapsed_s)
    study.tell(trial, outcome, {}, notes)


def test_what_was_planned_is_corrected_by_what_was_measured(opened, resolved, no_card):
    study = opened("hydra.sweeper.repeats=2", "sweep.budget=1h")
    costs = TrialCosts(study)
    config = resolved("training.max_steps=10", on=no_card)
    on_cpu, on_card = Proposal((), config), Proposal((), config, step_s=2.0)
    assert costs.plan_s(on_cpu) is None
    assert costs.plan_s(on_card) == 2 * 10 * 2.0
    # A step took 3 s where 2 were planned, and a run 40 s beside its steps.
    _finished(study, 140.0, step_s=3.0, beside_s=40.0, planned_step_s=2.0)
    assert costs.plan_s(on_cpu) == costs.plan_s(on_card) == 2 * (10 * 3.0 + 40)
    assert costs.plan_s(Proposal((), config, step_s=4.0)) == 2 * (10 * 6.0 + 40)
    assert costs.spent_s() == 140


def test_what_is_kept_back_for_the_final_run_no_trial_takes(opened, resolved, no_card):
    study = opened("sweep.budget=300")
    costs = TrialCosts(study)
    proposal = Proposal((), resolved("training.max_steps=10", on=no_card))
    _finished(study, 70.0, step_s=3.0, beside_s=40.0)
    assert costs.explain_excess(study.ask(), proposal) == ""
    costs.reserve = Reserve(steps=60, runs=1)
    assert "3 min 50 s are left, 3 min 40 s of it for the final run" in costs.explain_excess(
        study.ask(), proposal
    )


def test_a_trial_that_would_take_more_than_is_left_waits_for_a_larger_budget(stubs):
    stubs.ends = lambda _: TrialOutcome(
        Ending.done, "", {LOSS: 1.0, "result/steps": 60.0, "result/training_s": 600.0}
    )
    words = ["lora.r=choice(4,8)", "sweep.n_trials=2", "hydra/sweeper/sampler=grid"]
    study = stubs.run(*words, "sweep.budget=5min")
    assert study.count_done() == 1
    (said,) = [text for text in stubs.said if text.startswith("sweep.budget=5min")]
    assert "trial 1 would take 10 min 00 s, so no more trials start" in said
    study.close()
    study = stubs.run(*words, "sweep.budget=1h")
    assert sorted(stubs.points()) == [4, 8]
    assert study.count_done() == 2


def test_the_cost_of_a_study_counts_the_steps_of_a_cut_trial_once(opened):
    study = opened()
    first = study.ask()
    study.tell(first, TrialOutcome(Ending.stopped, elapsed_s=20.0), {}, {STEPS: 6, PLANNED_S: 50.0})
    study.enqueue(study.reload(first).params, continues=study.reload(first))
    study.tell(study.ask(), TrialOutcome(Ending.done, "", {LOSS: 1.0}, elapsed_s=30.0), {},
               {STEPS: 12})  # fmt: skip
    cost = currency.sum_study_cost(study)
    assert (cost.elapsed_s, cost.steps, cost.planned_s) == (50.0, 12, 50.0)
    assert study.trials()[0].user_attrs[ELAPSED] == 20.0
    assert "50 s, 12 steps; 20 s of it planned as 50 s" in currency.cost_rows(study)[0][1]


def test_a_run_that_ended_without_a_word_took_the_time_to_its_last_file(opened, tmp_path):
    study = opened()
    study.folder = tmp_path
    trial = study.ask()
    folder = tmp_path / "0"
    folder.mkdir()
    trial.set_user_attr("folder", str(folder))
    for name, second in (("process.json", 100), ("trial.log", 160)):
        (folder / name).write_text("{}")
        os.utime(folder / name, (second, second))
    assert measure_lost_s(study, trial) == 60
