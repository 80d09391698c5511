"""The study: what counts, what is told, how it continues, and who was first where several ask at
once.
"""

import multiprocessing
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medexp.config.changes import change_values
from medexp.config.flatten import flatten
from medexp.config.shipped import find_conf_dir
from medexp.errors import ConfigError
from medexp.sweep import fixed_part
from medexp.sweep.search.proposal import VRAM
from medexp.sweep.search.search_space import Choice, FloatRange, IntRange, SearchSpace
from medexp.sweep.study import history as history_module
from medexp.sweep.study.history import ending_of
from medexp.sweep.study.trial_files import Ending, TrialOutcome
from medexp.system import process_identity as alive
from medexp.system.units import GIB

LOSS = "result/loss_after"
SAMPLERS = sorted(file.stem for file in (find_conf_dir() / "hydra/sweeper/sampler").glob("*.yaml"))
PRUNERS = sorted(file.stem for file in (find_conf_dir() / "hydra/sweeper/pruner").glob("*.yaml"))
FINITE = SearchSpace({"lora.r": Choice((4, 8)), "training.max_seq_tokens": IntRange(128, 384, 128)})


def told(study, ending=Ending.done, loss=1.0, violations=None):
    trial = study.ask()
    study.tell(trial, TrialOutcome(ending, "why", {LOSS: loss}), violations or {})
    return trial


@pytest.mark.parametrize(
    ("ending", "state", "counts"),
    [
        (Ending.done, "COMPLETE", True),
        (Ending.pruned, "PRUNED", True),
        (Ending.vram, "PRUNED", True),
        (Ending.diverged, "FAIL", True),
        (Ending.crashed, "FAIL", True),
        (Ending.timeout, "FAIL", True),
        (Ending.infeasible, "PRUNED", False),
        (Ending.copied, "COMPLETE", False),
        (Ending.stopped, "FAIL", False),
        (Ending.died, "FAIL", False),
        (Ending.surplus, "FAIL", False),
    ],
)
def test_what_optuna_is_told_and_what_counts(opened, ending, state, counts):
    study = opened()
    told(study, ending)
    (trial,) = study.trials()
    assert (trial.state.name, ending_of(trial), study.count_done()) == (state, ending, int(counts))


def test_a_sampler_is_told_by_how_much_a_proposal_does_not_fit(opened):
    study = opened()
    told(study, Ending.infeasible, violations={VRAM: 123.0})
    assert study.trials()[0].constraints == {VRAM: 123.0}


def test_the_best_is_feasible(opened):
    study = opened()
    told(study, loss=1.0, violations={VRAM: 5.0})
    best = told(study, loss=2.0, violations={VRAM: -5.0})
    assert [trial.number for trial in study.best_trials()] == [best.number]


def test_a_study_goes_on_with_its_own_settings_alone(opened, resolved):
    study, base = opened(), resolved("hardware=cpu")
    fixed_part.check_unchanged(study, base)
    again = change_values(
        base,
        {
            "evaluation.reuse_base": not base.evaluation.reuse_base,
            "training.save_steps": base.training.save_steps + 1,
            # One of the study's dimensions.
            "lora.r": base.lora.r + 1,
        },
    )
    fixed_part.check_unchanged(study, again)
    again = change_values(again, {"lora.alpha": again.lora.alpha + 1})
    with pytest.raises(
        ConfigError,
        match=(
            rf"begun with other settings: lora\.alpha={again.lora.alpha} \(was {base.lora.alpha}\);"
        ),
    ):
        fixed_part.check_unchanged(study, again)


def test_a_study_of_an_older_medexp_goes_on(opened, resolved, no_card):
    study = opened()
    before, now = (
        resolved("hardware=cpu", on=replace(no_card, ram_bytes=ram * GIB)) for ram in (8, 16)
    )
    kept = {
        name: value for name, value in flatten(before).items() if name not in study.space.dimensions
    }
    kept |= {
        "evaluation.reuse_base": True,
        "hydra.sweeper.objective": list(study.options.objectives),
    }
    # the project was moved since
    kept |= {"dataset.path": f"/elsewhere/{Path(str(kept['dataset.path'])).name}"}
    study.optuna.set_user_attr("base", kept)
    fixed_part.check_unchanged(study, now)
    fixed_part.check_unchanged(study, before)
    other = resolved("hardware=cpu", "dataset=local", "dataset.path=other.csv", on=no_card)
    with pytest.raises(ConfigError, match=r"begun with other settings: .*dataset\.name=local"):
        fixed_part.check_unchanged(study, other)


def test_a_study_goes_on_with_more_memory_but_not_with_another_ceiling(opened, resolved, no_card):
    study = opened()
    for ram in (8, 16):
        fixed_part.check_unchanged(
            study, resolved("hardware=cpu", on=replace(no_card, ram_bytes=ram * GIB))
        )
    with pytest.raises(ConfigError, match=r"hardware\.vram_ceiling_gib=4\.0 \(was None\)"):
        fixed_part.check_unchanged(
            study, resolved("hardware=cpu", "hardware.vram_ceiling_gib=4", on=no_card)
        )


def test_the_axes_of_plots_are_called_by_their_metric(opened):
    assert opened("hydra.sweeper.objective=eval/loss").optuna.metric_names == ["eval/loss"]


def test_the_best_of_two_objectives_is_a_front(opened):
    study = opened("hydra.sweeper.objective=[a,b]", "hydra.sweeper.direction=[minimize,maximize]")
    for a, b in [(1, 1), (2, 2), (3, 1), (1, 0.5)]:
        study.tell(study.ask(), TrialOutcome(Ending.done, "", {"a": a, "b": b}), {})
    assert sorted(trial.number for trial in study.best_trials()) == [0, 1]


def test_an_objective_that_is_not_logged_is_refused_with_what_is(opened):
    study = opened("hydra.sweeper.objective=result/los")
    with pytest.raises(
        ConfigError,
        match=(
            r"objective: result/los is not logged by a run; did you mean result/loss_after\?;"
            r" there are"
        ),
    ):
        told(study)


def test_a_study_goes_on_where_it_was_with_other_draws(opened):
    first = opened()
    drawn = [told(first).params for _ in range(3)]
    again = opened()
    assert again.count_done() == 3
    later = [told(again).params for _ in range(3)]
    assert [trial.number for trial in again.trials()] == list(range(6))
    assert not any(trial in drawn for trial in later)


def test_the_same_seed_draws_the_same(opened, tmp_path):
    one, other = opened(url=f"sqlite:///{tmp_path}/a.db"), opened(url=f"sqlite:///{tmp_path}/b.db")
    assert [told(one).params for _ in range(3)] == [told(other).params for _ in range(3)]


@pytest.mark.parametrize("url", ["sqlite:///{}/x.db", "{}/x.journal"])
def test_sqlite_and_a_journal_file_both_keep_a_study(opened, tmp_path, url):
    told(opened(url=url.format(tmp_path)))
    assert opened(url=url.format(tmp_path)).count_done() == 1


def test_another_direction_is_refused(opened):
    opened()
    with pytest.raises(
        ConfigError,
        match=r"study s has direction minimize and hydra\.sweeper\.direction is maximize",
    ):
        opened("hydra.sweeper.direction=maximize")


def test_another_number_of_objectives_is_refused(opened):
    opened()
    two = [
        "hydra.sweeper.objective=[result/loss_after,sweep/peak_gib]",
        "hydra.sweeper.direction=minimize",
    ]
    with pytest.raises(
        ConfigError,
        match=r"study s has direction minimize and hydra\.sweeper\.direction is minimize, minimize",
    ):
        opened(*two)


def test_as_many_directions_as_objectives_are_asked_for(opened):
    with pytest.raises(ConfigError, match="has 2 entries and"):
        opened("hydra.sweeper.direction=[minimize,maximize]")


def test_a_sampler_inside_another_goes_on_with_other_draws_too(opened):
    words = [
        "hydra/sweeper/sampler=partial_fixed",
        "hydra.sweeper.sampler.fixed_params={lora.r:16}",
    ]
    drawn = [told(opened(*words)).params for _ in range(3)]
    assert {values["lora.r"] for values in drawn} == {16}
    assert len({values["training.learning_rate"] for values in drawn}) == 3


@pytest.mark.parametrize("now", [Choice((4, 8, 32)), IntRange(4, 16)])
def test_a_categorical_that_changed_is_refused(opened, now):
    told(opened(space=SearchSpace({"lora.r": Choice((4, 8, 16))})))
    with pytest.raises(
        ConfigError, match=r"was begun with lora\.r from choice\(4, 8, 16\) and is now asked for"
    ):
        opened(space=SearchSpace({"lora.r": now}))


def test_a_range_may_grow(opened):
    told(opened(space=SearchSpace({"lora.r": IntRange(4, 16)})))
    assert opened(space=SearchSpace({"lora.r": IntRange(4, 64)})).count_done() == 1


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws_from_a_space(opened, sampler):
    study = opened(f"hydra/sweeper/sampler={sampler}", space=FINITE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for loss in (3.0, 2.0, 1.0):
            params = told(study, loss=loss).params
    assert params["lora.r"] in (4, 8)
    assert params["training.max_seq_tokens"] in (128, 256, 384)


@pytest.mark.parametrize("pruner", PRUNERS)
def test_every_pruner_hears_reports(opened, pruner):
    study = opened(f"hydra/sweeper/pruner={pruner}", "sweep.n_trials=9")
    verdicts = []
    for offset in (0.0, 0.0, 0.0, 0.0, 5.0):
        trial = study.ask()
        for step in range(4):
            trial.report(1.0 + offset + 0.001 * step, step)
            verdicts.append(trial.should_prune())
        study.tell(trial, TrialOutcome(Ending.done, "", {LOSS: 1.0 + offset}), {})
    # With halving the first trial waits for others, at the rungs 1 and 3.
    pauses = pruner == "halving"
    assert verdicts[:4] == [False, pauses, False, pauses]
    if pruner in {"median", "percentile"}:
        assert verdicts[-4:] == [True] * 4


@pytest.mark.parametrize("sampler", ["grid", "brute_force"])
def test_a_grid_tries_every_point_once_and_ends(opened, sampler):
    study = opened(f"hydra/sweeper/sampler={sampler}", space=FINITE)
    count = 0
    while not study.is_exhausted():
        told(study)
        count += 1
    assert count == 6
    assert opened(f"hydra/sweeper/sampler={sampler}", space=FINITE).is_exhausted()


def test_a_grid_needs_a_finite_space(opened):
    with pytest.raises(ConfigError, match=r"training\.learning_rate has no grid"):
        opened(
            "hydra/sweeper/sampler=grid",
            space=SearchSpace({"training.learning_rate": FloatRange(1e-5, 1e-3)}),
        )


def test_an_option_that_a_sampler_does_not_take_is_refused(opened):
    with pytest.raises(
        ConfigError, match=r"hydra\.sweeper\.sampler=optuna\.samplers\.TPESampler cannot be made"
    ):
        opened("+hydra.sweeper.sampler.sead=1")


def test_a_finished_point_is_known_again(opened):
    study = opened(space=SearchSpace({"lora.r": Choice((4,))}))
    told(study)
    assert study.find_twin(study.ask()).number == 0


def test_a_trial_that_was_cut_short_is_tried_next_with_its_values(opened):
    study = opened()
    cut = study.ask()
    study.tell(cut, TrialOutcome(Ending.died, "killed"), {})
    study.enqueue(study.trials()[0].params, continues=study.trials()[0])
    again = study.ask()
    assert again.params == cut.params
    assert (study.trials()[1].user_attrs["continues"], study.trials()[1].user_attrs["attempt"]) == (
        0,
        2,
    )


def test_a_running_trial_is_left_over_once_its_process_is_gone(opened):
    study = opened()
    mine = study.ask()
    assert study.list_orphans() == []
    # its number belongs to another now
    mine.set_user_attr("sweeper", study.trials()[0].user_attrs["sweeper"] | {"began": 1.0})
    assert [trial.number for trial in study.list_orphans()] == [0]


def test_a_running_trial_of_another_machine_is_left_over_when_it_is_silent(opened, monkeypatch):
    study = opened("hydra.sweeper.heartbeat_s=1")
    trial = study.ask()
    trial.set_user_attr("sweeper", {"host": "elsewhere", "pid": 1, "began": 1.0})
    study.heartbeat([trial._trial_id])
    assert study.list_orphans() == []
    import time

    time.sleep(5.5)
    assert [trial.number for trial in study.list_orphans()] == [0]


def test_the_last_one_asked_for_at_once_is_one_too_many(opened):
    study = opened("sweep.n_trials=2")
    first, second, third = study.ask(), study.ask(), study.ask()
    assert [study.is_surplus(trial) for trial in (first, second, third)] == [False, False, True]
    study.tell(first, TrialOutcome(Ending.infeasible, "too long"), {VRAM: 1.0})
    assert not study.is_surplus(third)


SHARED = [
    "hydra/sweeper/sampler=random",
    "lora.r=range(2,40)",
    "hardware.vram_ceiling_gib=2.2",
    "training.max_seq_tokens=640",
    "sweep.n_trials=12",
]
SHARED += ["hardware.dtype=bfloat16"]  # some of these ranks fit, on every processor


def _sweep(
    url: str, started: "multiprocessing.Queue[tuple[int, int]]", folder: str, together: Any
) -> None:
    """One of several sweepers: the whole of it but its trials, which take a moment and come to what
    their rank says.
    """
    import time

    from tests.sweep.conftest import Stubs

    stubs = Stubs(pytest.MonkeyPatch(), Path(folder))
    launch = stubs.launch

    def begun(job_overrides: Any, initial_job_idx: int) -> Any:
        launch(job_overrides, initial_job_idx)
        started.put((initial_job_idx, stubs.points()[-1]))
        time.sleep(0.2)
        return []

    stubs.launch = begun  # type: ignore[method-assign]
    together.wait(300)
    stubs.run(*SHARED, f"hydra.sweeper.storage={url}").close()


@pytest.fixture(params=["sqlite", "journal", "postgresql"])
def shared_url(request, tmp_path):
    if request.param == "postgresql":
        return request.getfixturevalue("postgresql")
    return {"sqlite": f"sqlite:///{tmp_path}/shared.db", "journal": f"{tmp_path}/shared.journal"}[
        request.param
    ]


def test_several_sweepers_lose_no_trial_and_start_none_twice(shared_url, opened, tmp_path: Path):
    space = SearchSpace({"lora.r": IntRange(2, 39)})
    opened(*SHARED[:1], "sweep.n_trials=12", space=space, url=shared_url)  # its tables, once
    context = multiprocessing.get_context("spawn")
    started, together = context.Queue(), context.Barrier(2)
    workers = [
        context.Process(target=_sweep, args=(shared_url, started, str(tmp_path), together))
        for _ in range(2)
    ]
    for thread in workers:
        thread.start()
    for thread in workers:
        thread.join(240)
        assert thread.exitcode == 0
    study = opened("sweep.n_trials=12", space=space, url=shared_url)
    assert study.count_done() == study.count_ended(Ending.done) == 12
    assert study.count_pending() == 0
    assert study.count_ended(Ending.infeasible) > 0  # they came in between
    begun = [started.get() for _ in range(12)]
    assert started.empty()
    done = [
        (trial.number, trial.params["lora.r"])
        for trial in study.trials()
        if ending_of(trial) is Ending.done
    ]
    assert sorted(begun) == done
    assert len({rank for _, rank in done}) == 12  # no point twice


def test_sweepers_that_begin_together_draw_apart_and_the_earlier_of_two_that_agree_runs(
    opened, monkeypatch
):
    one = opened("hydra/sweeper/sampler=random")
    monkeypatch.setattr(
        history_module,
        "describe_this_process",
        lambda: alive.describe_this_process() | {"host": "elsewhere"},
    )
    other = opened("hydra/sweeper/sampler=random")
    first, second = one.ask(), other.ask()
    assert first.params != second.params
    other.enqueue(first.params, continues=one.reload(first))
    third = other.ask()
    assert other.find_twin(third).number == first.number
    assert one.find_twin(first) is None
    other.tell_twin(third, one.reload(first))
    assert ending_of(other.trials()[2]) is Ending.surplus


def test_the_default_point_is_not_queued_twice(opened):
    study = opened()
    for handle in (study, opened()):
        handle.enqueue({"lora.r": 16, "training.learning_rate": 1e-4})
    assert study.count_waiting() == 1


def test_what_a_pruned_trial_reported_is_said_of_its_copy(opened):
    study = opened(space=SearchSpace({"lora.r": Choice((4,))}))
    first = study.ask()
    first.report(2.5, 3)
    study.tell(first, TrialOutcome(Ending.pruned, "behind"), {VRAM: -1.0})
    again = study.ask()
    study.tell_twin(again, study.find_twin(again))
    _, copied = study.trials()
    assert (copied.state.name, copied.intermediate_values, copied.constraints) == (
        "PRUNED",
        {3: 2.5},
        {VRAM: -1.0},
    )
    assert study.count_done() == 1


def test_repeats_with_other_seeds_choose_nothing(opened):
    assert opened().chooses
    seeds = SearchSpace({"training.seed": IntRange(1, 3)}, [])
    assert not opened(space=seeds, name="seeds").chooses
