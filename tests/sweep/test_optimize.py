"""Which trials a sweep starts, which it does not, and how it ends: with everything real but the
trials.
"""

import math
import os
import shutil
import socket
from pathlib import Path

import pytest
import yaml

from medexp.errors import BadInput, ConfigError, SweepFailed, TrialPaused
from medexp.sweep import optimize as trials_module
from medexp.sweep.study import history as history_module
from medexp.sweep.study.history import ending_of, values_of
from medexp.sweep.study.storage import default_url
from medexp.sweep.study.trial_files import Ending, TrialOutcome, read_trial_spec
from medexp.sweep.workers.trial import TrialContext
from medexp.system.process_identity import describe_this_process

LOSS = "result/loss_after"


def endings(study) -> list[str]:
    return [ending_of(trial).value for trial in study.trials()]


def loss(value: float) -> TrialOutcome:
    return TrialOutcome(Ending.done, "", {LOSS: value})


def test_a_real_interval_of_one_point_is_tried_once(stubs):
    stubs.run("training.learning_rate=interval(1e-3,1e-3)", "sweep.n_trials=2")
    assert len(stubs.started) == 1
    assert [
        message
        for message in stubs.said
        if "every point was tried, so the sweep ends with 1 of 2 trials" in message
    ]


def test_a_sampler_that_proposes_nothing_new_ends_the_sweep(stubs, monkeypatch):
    monkeypatch.setattr(trials_module, "MAX_FRUITLESS_PROPOSALS", 6)
    fixed = ["hydra/sweeper/sampler=partial_fixed", "hydra.sweeper.sampler.fixed_params={lora.r:8}"]
    study = stubs.run(
        "lora.r=choice(8,32)", "training.max_seq_tokens=choice(480,640)", "sweep.n_trials=4", *fixed
    )
    assert sorted(stubs.points("training.max_seq_tokens")) == [480, 640]
    assert endings(study).count("copied") >= 6
    assert any(
        "nothing new is proposed: the last 6 points had all been tried before" in message
        for message in stubs.said
    )


@pytest.mark.parametrize("ending", [Ending.diverged, Ending.pruned])
def test_what_would_end_so_again_is_not_tried_again(stubs, opened, ending):
    stubs.ends = lambda _: TrialOutcome(ending, "why")
    study = stubs.run(
        "lora.r=choice(4,8,16,32)",
        "sweep.n_trials=4",
        "hydra/sweeper/sampler=random",
        "hydra.sweeper.max_failure_rate=1",
    )
    assert sorted(stubs.points()) == [4, 8, 16, 32]
    assert {trial.state.name for trial in study.trials() if ending_of(trial) is Ending.copied} <= {
        "FAIL",
        "PRUNED",
    }


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_an_objective_that_is_no_number_is_a_divergence_and_the_sweep_goes_on(stubs, wrong):
    stubs.ends = lambda params: loss(wrong if params["lora.r"] == 8 else 1.0)
    study = stubs.run("lora.r=choice(4,8)", "sweep.n_trials=2", "hydra/sweeper/sampler=grid")
    assert sorted(endings(study)) == ["diverged", "done"]
    (failed,) = [trial for trial in study.trials() if ending_of(trial) is Ending.diverged]
    assert failed.user_attrs["why"] == f"{LOSS} is {wrong}"


def test_a_trial_wedged_by_an_objective_that_is_no_number_is_taken_up(stubs):
    words = ["lora.r=choice(4,8)", "sweep.n_trials=2", "hydra/sweeper/sampler=grid"]
    study = stubs.run("lora.r=choice(4,8)", "sweep.n_trials=1", "hydra/sweeper/sampler=grid")
    left = study.ask()
    folder = stubs.root / "multirun/s/1"
    folder.mkdir()
    loss(math.nan).write(folder)
    left.set_user_attr("folder", str(folder))
    left.set_user_attr("sweeper", describe_this_process() | {"began": 1.0})
    study.close()
    assert endings(stubs.run(*words)) == ["done", "diverged"]


def test_a_range_that_moved_has_points_of_its_own(stubs):
    stubs.run("lora.r=range(4,7)", "sweep.n_trials=3", "hydra/sweeper/sampler=random")
    study = stubs.run("lora.r=range(8,11)", "sweep.n_trials=6", "hydra/sweeper/sampler=random")
    assert sorted(stubs.points()) == [4, 5, 6, 8, 9, 10]
    assert study.count_done() == 6


def test_a_grid_goes_on_where_it_was_and_loses_no_point(stubs):
    words = ["lora.r=range(4,10)", "hydra/sweeper/sampler=grid"]
    study = stubs.run(*words, "sweep.n_trials=2")
    study.tell(
        study.ask(), TrialOutcome(Ending.surplus, "another sweeper had asked for the last one"), {}
    )
    cut = study.ask()
    study.tell(cut, TrialOutcome(Ending.stopped), {})
    study.enqueue(study.reload(cut).params, continues=study.reload(cut))
    study.close()
    stubs.run(*words, "sweep.n_trials=4")
    study = stubs.run(*words, "sweep.n_trials=6")
    assert sorted(stubs.points()) == [4, 5, 6, 7, 8, 9]
    assert study.count_ended(Ending.copied) == 0


def test_a_prefix_of_an_override_is_no_part_of_its_name(stubs):
    study = stubs.run("++lora.r=choice(4,8)", "sweep.n_trials=2")
    assert {key for trial in study.trials() for key in trial.params} == {"lora.r"}
    assert sorted(stubs.points()) == [4, 8]


def test_what_varies_may_be_what_the_fixed_part_is_missing(stubs):
    stubs.run("training.max_steps=null", "training.epochs=choice(1,2)", "sweep.n_trials=2")
    assert sorted(stubs.points("training.epochs")) == [1, 2]


def test_the_run_as_configured_comes_first_outside_the_space_too(stubs):
    ends = iter([TrialOutcome(Ending.stopped, "Ctrl-C")])
    stubs.ends = lambda params: next(ends, loss(1 + params.get("lora.r", 0) / 100))
    study = stubs.run(
        "lora.r=choice(4,8)",
        "sweep.n_trials=2",
        "sweep.configured_first=true",
        "hydra/sweeper/sampler=grid",
    )
    assert [params.get("lora.r") for params in stubs.started[:2]] == [None, None]
    assert {params["lora.r"] for params in stubs.started[2:]} == {4, 8}
    assert endings(study) == ["stopped", "done", "done", "done"]
    assert study.count_done() == 2
    # Samplers read the space off completed trials, and this one has no parameters.
    (best,) = study.best_trials()
    assert (best.number, best.state.name, values_of(best)) == (1, "FAIL", [1.0])
    assert "lora" not in yaml.safe_load((stubs.root / "multirun/s/best.yaml").read_text())
    assert any("lies outside the space: it is trial 0, beside the 2" in it for it in stubs.said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["hydra.sweeper.objective=result/los"],
         "result/los is no metric of a run; did you mean result/loss"),
        (["hydra.sweeper.objective=[result/loss_after,eval/structur]"],
         "eval/structur is no metric of a run"),
        (["sweep=rank_lr_seq", "hydra.sweeper.objective=eval/diagnosis_likelihood/after"],
         "evaluation.likelihoods=false; set evaluation.likelihoods=true"),
        (["sweep=rank_lr_seq", "hydra.sweeper.constraints={eval/must_not_say/after:0.1}"],
         "hydra.sweeper.constraints: no trial measures eval/must_not_say/after, as evaluation."),
        (["hydra.sweeper.constraints={hots/peak_gib:1}"],
         "hydra.sweeper.constraints: hots/peak_gib is no metric"),
        (["hydra/launcher=basic"], "hydra/launcher=basic runs trials inside the sweep itself"),
        (["hydra.sweeper.study_name=../up"], "study_name=../up leads out of"),
        (["hydra/sweeper/sampler=brute_force", "training.learning_rate=interval(1e-4,1e-3)"],
         "has no end of points"),
        (
            ["hydra/sweeper/sampler=cmaes",
             "hydra.sweeper.objective=[result/loss_after,sweep/peak_gib]"],
            "CmaEsSampler has one objective and hydra.sweeper.objective has 2",
        ),
        (["hydra.sweeper.storage=sqlite://"], "is memory of this process"),
        (["hydra.sweeper.storage=:memory:"], "is memory of this process"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_before_anything_starts(stubs, words, said):
    with pytest.raises(BadInput) as refused:
        stubs.run("lora.r=choice(4,8)", "sweep.n_trials=2", *words)
    assert said in str(refused.value)
    assert stubs.started == []


@pytest.mark.parametrize(
    "asked",
    [
        "hydra.sweeper.objective=vram/measured_byte",
        "hydra.sweeper.constraints={vram/measured_byte:1}",
    ],
)
def test_a_metric_that_turns_out_not_to_be_logged_leaves_a_study_that_can_be_used(stubs, asked):
    with pytest.raises(ConfigError, match="vram/measured_byte is not logged by a run"):
        stubs.run("lora.r=choice(4,8)", "sweep.n_trials=2", asked)
    assert len(stubs.started) == 1
    study = stubs.run("lora.r=choice(4,8)", "sweep.n_trials=2")
    assert endings(study).count("done") == 2
    assert all(trial.state.is_finished() for trial in study.trials())
    with pytest.raises(ConfigError, match=r"hydra\.sweeper\.objective=\['eval/loss'\]"):
        stubs.run("lora.r=choice(4,8)", "sweep.n_trials=4", "hydra.sweeper.objective=eval/loss")


def test_a_constraint_that_is_logged_is_kept(stubs):
    stubs.ends = lambda params: TrialOutcome(
        Ending.done, "", {LOSS: 1 / params["lora.r"], "host/peak_gib": float(params["lora.r"])}
    )
    study = stubs.run(
        "lora.r=choice(4,8)", "sweep.n_trials=2", "hydra.sweeper.constraints={host/peak_gib:5}"
    )
    assert [trial.params["lora.r"] for trial in study.best_trials()] == [4]


def test_a_sweep_that_failed_fails_again(stubs):
    stubs.ends = lambda _: TrialOutcome(Ending.crashed, "killed by SIGSEGV")
    for _ in range(2):
        with pytest.raises(SweepFailed, match=r"2 of 2 trials failed.*crashed: killed by SIGSEGV"):
            stubs.run("lora.r=choice(4,8)", "sweep.n_trials=2")
    assert len(stubs.started) == 2


def test_every_point_has_seeds_of_its_own_when_the_seed_varies_and_runs_repeat(stubs):
    stubs.run("training.seed=choice(10,20)", "sweep.n_trials=2", "hydra.sweeper.repeats=2")
    assert sorted(stubs.points("training.seed")) == [10, 11, 20, 21]
    assert "(the mean of 2 runs" in (stubs.root / "multirun/s/best.yaml").read_text()


def test_an_outcome_of_an_earlier_attempt_is_not_believed_through_any_launcher(stubs):
    folder = stubs.root / "multirun/s/0"
    folder.mkdir(parents=True)
    loss(0.5).write(folder)
    stubs.launch = lambda *_, **__: []  # it loses the job
    with pytest.raises(SweepFailed, match="no result came back"):
        stubs.run("lora.r=choice(4,8)", "sweep.n_trials=1")


def test_a_study_that_starts_afresh_has_a_name_that_its_storage_has_not(stubs, tmp_path):
    words = [
        "lora.r=choice(4,8)",
        "sweep.n_trials=2",
        f"hydra.sweeper.storage=sqlite:///{tmp_path}/x.db",
    ]
    stubs.run(*words)
    study = stubs.run(*words, "hydra.sweep.dir=elsewhere", "hydra.sweeper.resume=never")
    assert (study.name, len(stubs.started)) == ("s-2", 4)


@pytest.mark.skipif(os.name == "nt", reason="has no such modes")
def test_what_holds_the_storage_s_password_is_for_this_user_alone(stubs):
    stubs.run("lora.r=choice(4,8)", "sweep.n_trials=1")
    assert oct((stubs.root / "multirun/s/multirun.yaml").stat().st_mode & 0o777) == "0o600"


@pytest.mark.parametrize("kept_in", ["{}/x.journal", "sqlite:///{}/x.db"])
def test_a_trial_of_a_machine_that_is_gone_is_waited_for_in_words_and_tried_again(
    stubs, kept_in, monkeypatch
):
    url = kept_in.format(stubs.root)
    words = [
        "lora.r=choice(4,8)",
        "sweep.n_trials=2",
        f"hydra.sweeper.storage={url}",
        "hydra.sweeper.heartbeat_s=1",
    ]
    study = stubs.run(*words[:1], "sweep.n_trials=1", *words[2:])
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(
            history_module,
            "describe_this_process",
            lambda: {"host": "elsewhere", "pid": 7, "began": 1.0},
        )
        study._this_sweeper = history_module.describe_this_process()
        study.ask()  # and dies before its first beat
    assert socket.gethostname() != "elsewhere"
    study.close()
    is_stale = history_module.StudyHistory._is_orphan

    def is_waited_for() -> bool:
        return any(
            "waiting for trial 1, which process 7 on elsewhere has begun" in message
            for message in stubs.said
        )

    # A slow machine would find the trial stale already when it first looks.
    monkeypatch.setattr(
        history_module.StudyHistory,
        "_is_orphan",
        lambda self, trial: is_waited_for() and is_stale(self, trial),
    )
    again = stubs.run(*words)
    assert again.count_done() == 2
    assert is_waited_for()


@pytest.mark.parametrize("name", ["50% done?", "p%41q", "a#b {c}"])
def test_a_folder_of_any_name_holds_a_study(stubs, name, monkeypatch):
    folder = stubs.root / name
    folder.mkdir()
    monkeypatch.chdir(folder)
    stubs.root = folder
    stubs.run("lora.r=choice(4,8)", "sweep.n_trials=1")
    assert (folder / "multirun/s/study.db").is_file()
    assert default_url(folder / "multirun/s").startswith("sqlite:///")


def test_samplers_without_an_end_are_stopped_in_time(stubs, monkeypatch):
    monkeypatch.setattr(trials_module, "MAX_FRUITLESS_PROPOSALS", 5)
    (stubs.root / "fewer_points.py").write_text(
        "def more(cfg, trial):\n    trial.suggest_categorical('lora.r', [4, 8])\n"
    )
    monkeypatch.syspath_prepend(str(stubs.root))
    stubs.run(
        "hydra.sweeper.custom_search_space=fewer_points.more",
        "sweep.n_trials=5",
        "hydra/sweeper/sampler=random",
    )
    assert sorted(stubs.points()) == [4, 8]


def test_a_study_goes_on_where_it_was_moved_to(stubs, tmp_path, monkeypatch):
    words = ["lora.r=choice(4,8,16)", "dataset.path=cases.jsonl", "hydra/sweeper/sampler=grid"]
    stubs.root = tmp_path / "old"
    stubs.root.mkdir()
    monkeypatch.chdir(stubs.root)
    study = stubs.run(*words, "sweep.n_trials=1")
    left = study.ask()
    folder = stubs.root / "multirun" / "s" / str(left.number)
    folder.mkdir()
    left.set_user_attr("sweeper", describe_this_process() | {"began": 1.0})  # its process is gone
    left.set_user_attr("folder", str(folder))
    loss(0.5).write(folder)
    study.close()
    shutil.copytree(stubs.root, tmp_path / "new")
    loss(0.7).write(folder)  # what becomes of it there is nothing to the copy
    stubs.root = tmp_path / "new"
    monkeypatch.chdir(stubs.root)
    study = stubs.run(*words, "sweep.n_trials=3")
    assert endings(study).count("done") == 3
    assert study.trials()[left.number].value == 0.5
    assert {path.name for path in (tmp_path / "old" / "multirun" / "s").iterdir()} < {
        path.name for path in (tmp_path / "new" / "multirun" / "s").iterdir()
    }


def test_the_best_preset_names_files_that_are_found_from_anywhere(stubs, tmp_path, compose):
    (stubs.root / "my cases").mkdir()
    path = "dataset.path='my cases/mine.jsonl'"
    stubs.run(
        "lora.r=choice(4,8)", "sweep.n_trials=2", path, "lora.start_from=adapter", "dataset=local"
    )
    text = (stubs.root / "multirun" / "s" / "best.yaml").read_text()
    best = yaml.safe_load(text)
    assert best["dataset"]["path"] == str(stubs.root / "my cases" / "mine.jsonl")
    assert best["lora"]["start_from"] == str(stubs.root / "adapter")
    assert "clinical_cases.jsonl" not in text


def test_repeats_that_are_finished_count_when_a_trial_is_continued(stubs):
    seeds: list[int | None] = []

    def ends(params):
        seeds.append(params.get("training.seed"))  # the first repeat has that of the config
        is_cut = seeds.count(seeds[-1]) == 1 and seeds[-1] is not None
        return (
            TrialOutcome(Ending.stopped, "stopped by SIGTERM")
            if is_cut
            else loss(float(len(seeds)))
        )

    stubs.ends = ends
    study = stubs.run("lora.r=choice(4,8)", "sweep.n_trials=1", "hydra.sweeper.repeats=3")
    first, second, third = seeds[0], *sorted({seed for seed in seeds if seed is not None})
    assert seeds == [first, second, second, third, third]
    assert endings(study) == ["stopped", "stopped", "done"]
    last = study.trials()[-1]
    assert last.value == (1.0 + 3.0 + 5.0) / 3
    assert last.user_attrs["folder"].endswith("multirun/s/2-3")
    assert last.user_attrs["attempt"] == 1


def test_repeats_that_were_all_finished_start_nothing(stubs):
    words = ["lora.r=choice(4,8)", "hydra.sweeper.repeats=2", "hydra/sweeper/sampler=grid"]
    study = stubs.run(*words, "sweep.n_trials=1")
    left = study.ask()
    for repeat in (1, 2):
        folder = stubs.root / f"multirun/s/1-{repeat}"
        folder.mkdir()
        loss(0.5).write(folder)
    left.set_user_attr("folder", str(stubs.root / "multirun/s/1-2"))
    left.set_user_attr("sweeper", describe_this_process() | {"began": 1.0})
    study.close()
    started = len(stubs.started)
    study = stubs.run(*words, "sweep.n_trials=2")
    assert len(stubs.started) == started
    assert (endings(study), study.trials()[-1].value) == (["done", "died", "done"], 0.5)


def test_a_continued_trial_hands_on_what_it_reported_to_the_pruner(stubs):
    def ends(params):
        folder = Path(params["hydra.sweep.dir"]) / str(params["hydra.sweep.subdir"])
        part = TrialContext(read_trial_spec(folder), folder)
        part.report(4 if stubs.started[:-1] else 2, 0.5)
        return (
            loss(0.5) if stubs.started[:-1] else TrialOutcome(Ending.stopped, "stopped by SIGTERM")
        )

    stubs.ends = ends
    study = stubs.run("lora.r=choice(4,8)", "sweep.n_trials=1")
    assert [trial.intermediate_values for trial in study.trials()] == [{2: 0.5}, {2: 0.5, 4: 0.5}]


HALVED = ["lora.r=range(4,11)", "hydra/sweeper/sampler=grid", "hydra/sweeper/pruner=halving"]
LAST_STEP = 20


def train_in_parts(stubs) -> list[tuple[int, int]]:
    """Have trials train two steps at a time from where they paused; returns the (rank, step) that
    were trained, in order. The higher the rank, the lower its loss at any step.
    """
    trained: list[tuple[int, int]] = []

    def ends(params):
        folder = Path(params["hydra.sweep.dir"]) / str(params["hydra.sweep.subdir"])
        part, rank = TrialContext(read_trial_spec(folder), folder), params["lora.r"]
        checkpoint = max((step for other, step in trained if other == rank), default=0)
        try:
            part.resume(checkpoint)
            for step in range(checkpoint + 2, LAST_STEP + 2, 2):
                trained.append((rank, step))
                if step < LAST_STEP:
                    part.report(step, 5.0 - rank / 10 - step / 100)
        except TrialPaused as pause:
            return TrialOutcome(Ending.paused, str(pause))
        return loss(5.0 - rank / 10)

    stubs.ends = ends
    return trained


def test_trials_pause_at_rungs_and_the_best_go_on_where_they_were(stubs):
    trained = train_in_parts(stubs)
    study = stubs.run(*HALVED, "sweep.n_trials=3")
    # Where nothing else is left to do the best of every rung goes on.
    assert (endings(study).count("done"), len(study.list_paused())) == (1, 2)
    study.close()
    study = stubs.run(*HALVED, "sweep.n_trials=7")
    assert len(trained) == len(set(trained))
    reached = {rank: max(step for other, step in trained if other == rank) for rank in range(4, 11)}
    # Rungs are the steps 2, 6 and 18.
    assert set(reached.values()) <= {2, 6, 18, LAST_STEP}
    assert (reached[10], study.best_trials()[0].params["lora.r"]) == (LAST_STEP, 10)
    assert (study.count_done(), endings(study).count("copied")) == (7, 0)
    assert {trial.state.name for trial in study.trials()} == {"PRUNED", "COMPLETE"}
    for trial in study.trials():
        assert set(trial.intermediate_values) == {
            step
            for rank, step in trained
            if rank == trial.params["lora.r"] and step <= trial.last_step
        }


def test_trials_freeze_where_another_is_worth_more_and_thaw(stubs):
    trained = train_in_parts(stubs)
    words = [*HALVED, "hydra/sweeper/pruner=freeze_thaw"]
    study = stubs.run(*words, "sweep.n_trials=7")
    assert len(trained) == len(set(trained))
    reached = {rank: max(step for other, step in trained if other == rank) for rank in range(4, 11)}
    # The first one ends, to measure the others by; the best ends.
    assert set(reached.values()) <= {2, 6, 18, LAST_STEP}
    assert reached[study.trials()[0].params["lora.r"]] == LAST_STEP
    assert (reached[10], study.best_trials()[0].params["lora.r"]) == (LAST_STEP, 10)
    assert min(reached.values()) == 2
    assert (study.count_done(), endings(study).count("copied")) == (7, 0)


def test_a_trial_that_was_killed_as_it_paused_pauses_where_it_was(stubs):
    trained = train_in_parts(stubs)
    parts, killed = stubs.ends, []

    def ends(params):
        outcome = parts(params)
        if outcome.ending is Ending.paused and not killed:
            killed.append(params["lora.r"])
            return TrialOutcome(Ending.stopped, "its checkpoint was written, and no word came")
        return outcome

    stubs.ends = ends
    study = stubs.run(*HALVED, "sweep.n_trials=1")
    assert endings(study) == ["stopped", "paused", "paused", "paused", "done"]
    assert study.trials()[1].params["lora.r"] == killed[0]
    assert len(trained) == len(set(trained))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["hydra.sweeper.repeats=2"], "hydra.sweeper.repeats is 2"),
        (["hydra.sweeper.objective=[result/loss_after,sweep/peak_gib]"], "hydra.sweeper.objective"),
        (["hydra.sweeper.pruner.reduction_factor=1"], "reduction_factor=1 has to be 2 or more"),
    ],
)
@pytest.mark.parametrize("pruner", ["halving", "freeze_thaw"])
def test_pausing_refuses_what_does_not_report(stubs, pruner, words, said):
    with pytest.raises(ConfigError, match=said):
        stubs.run(*HALVED, f"hydra/sweeper/pruner={pruner}", "sweep.n_trials=3", *words)
    assert stubs.started == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["hydra.sweeper.objective=result/tokens_per_s"], r"result/tokens_per_s and not result/"),
        (["hydra.sweeper.pruner.max_new=0"], "max_new=0 has to be 1 or more"),
    ],
)
def test_freezing_needs_the_loss_as_the_objective(stubs, words, said):
    with pytest.raises(ConfigError, match=said):
        stubs.run(*HALVED, "hydra/sweeper/pruner=freeze_thaw", "sweep.n_trials=3", *words)
    assert stubs.started == []
