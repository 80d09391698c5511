"""What MLflow shows of a sweep while it runs, and how long the rest is said to take."""

import datetime
import json
import time

import pytest

from medexp.config.schema import Tracking
from medexp.sweep.reporting import live_page, progress, results
from medexp.sweep.reporting.live_page import LivePage
from medexp.sweep.search.search_space import Choice, SearchSpace
from medexp.sweep.study.trial_files import Ending, TrialOutcome

RANKS = SearchSpace({"lora.r": Choice((1, 2, 3, 4))})
LOSS = "result/loss_after"


def tell(study, rank, loss=None, elapsed_s=60.0, ending=Ending.done):
    study.enqueue({"lora.r": rank})
    metrics = {} if loss is None else {LOSS: loss}
    study.tell(study.ask(), TrialOutcome(ending, "", metrics, elapsed_s=elapsed_s), {})


@pytest.fixture
def page_of(opened, tmp_path):
    """page_of(*overrides): a study, its page, and a function that reads MLflow's run of it."""
    opens = []

    def made(*overrides):
        study = opened(*overrides, space=RANKS)
        study.folder = tmp_path
        where = Tracking(str(tmp_path / "mlruns"), "e", None, False, log_adapter=False, tags={})
        opens.append(results.open_parent_run(where, study, tmp_path, print))
        parent = opens[-1].__enter__()
        return study, LivePage(parent, study), lambda: parent._client.get_run(parent.run_id).data

    yield made
    for opening in opens:
        opening.__exit__(None, None, None)


def test_the_board_names_what_runs_and_ranks_what_has_ended(page_of, tmp_path):
    study, page, read = page_of("hydra.sweeper.n_trials=4")
    tell(study, 1, 3.0)
    tell(study, 2, 2.0)
    tell(study, 3, ending=Ending.crashed)
    study.enqueue({"lora.r": 4})
    running = study.ask()
    running.report(2.5, 10)
    running.set_user_attr("folder", "3")
    (tmp_path / "3").mkdir()
    (tmp_path / "3" / "progress.json").write_text(json.dumps({"step": 12, "steps": 60}))
    page.refresh()
    said = read().tags["mlflow.note.content"].splitlines()
    assert said[0].startswith("**Under way: 3 of 4 trials, ")
    assert read().tags["medexp.progress"] in said[0]
    assert said[4].startswith("- trial 3, r=4: step 12/60, 2.5000 at 10, 0")
    assert said[8:11] == [
        "- trial 1, r=2: **2.0000**, done, 1 min 00 s",
        "- trial 0, r=1: **3.0000**, done, 1 min 00 s",
        "- trial 2, r=3: crashed, 1 min 00 s",
    ]


def test_the_best_so_far_is_a_curve_over_the_trials_done(page_of):
    study, page, read = page_of("hydra.sweeper.n_trials=4")
    for rank, loss in enumerate([3.0, 2.0, 2.5], 1):
        tell(study, rank, loss)
        page.refresh(at_once=True)
    history = page._parent.read_history(f"best/{LOSS}")
    assert history == [(1, 3.0), (2, 2.0), (3, 2.0)]
    assert read().metrics["trials/done"] == 3


def test_a_sweep_that_has_ended_says_no_time_to_go(page_of):
    study, page, read = page_of("hydra.sweeper.n_trials=4")
    tell(study, 1, 3.0)
    page.refresh()
    assert "to go" in read().tags["medexp.progress"]
    results.log_results(page._parent, study, None)
    assert read().tags["medexp.progress"] == "1 of 4 trials"
    assert read().tags["mlflow.note.content"].startswith("Best so far: **r1**")


def test_what_has_not_changed_is_not_written_again(page_of, monkeypatch):
    study, page, _ = page_of("hydra.sweeper.n_trials=4")
    tell(study, 1, 3.0)
    page.refresh()
    monkeypatch.setattr(page._parent, "set_description", pytest.fail)
    page.refresh(at_once=True)
    # Nor is the study read more often than that.
    tell(study, 2, 2.0)
    page.refresh()
    monkeypatch.undo()
    monkeypatch.setattr(live_page, "REFRESH_S", 0.0)
    page.refresh(at_once=True)
    assert page._num_ended == 2


def test_the_rest_lasts_as_long_as_those_before_less_what_runs_already(opened, monkeypatch):
    study = opened("hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=2", space=RANKS)
    assert progress.estimate_left_s(study, study.trials()) is None
    tell(study, 1, 3.0, elapsed_s=100.0)
    assert progress.estimate_left_s(study, study.trials()) == pytest.approx(150.0)
    study.enqueue({"lora.r": 2})
    study.ask()
    began = study.trials()[-1].datetime_start
    after = began + datetime.timedelta(seconds=40)
    monkeypatch.setattr(time, "time", after.timestamp)
    assert progress.estimate_left_s(study, study.trials()) == pytest.approx(130.0)
    assert progress.format_progress(study, study.trials()) == "1 of 4 trials, 2 min 10 s to go"


def test_a_budget_that_is_spent_sooner_ends_it_sooner(opened):
    study = opened("hydra.sweeper.n_trials=30", "hydra.sweeper.budget=250s", space=RANKS)
    tell(study, 1, 3.0, elapsed_s=100.0)
    assert progress.estimate_left_s(study, study.trials()) == pytest.approx(150.0)
    tell(study, 2, 3.0, elapsed_s=200.0)
    assert progress.estimate_left_s(study, study.trials()) == 0
