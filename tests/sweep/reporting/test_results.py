"""What is said of a study, and the preset that runs its best again."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import hydra
import pytest
import yaml
from omegaconf import OmegaConf

from medexp.config.registration import register_with_hydra
from medexp.config.schema import Tracking
from medexp.config.shipped import find_conf_dir
from medexp.sweep.reporting import best_preset, results
from medexp.sweep.reporting import live_table as board
from medexp.sweep.search import labels
from medexp.sweep.search.search_space import Choice, IntRange, SearchSpace
from medexp.sweep.study.trial_files import Ending, TrialOutcome


@pytest.fixture
def composed():
    """composed(*overrides): what Hydra composes, its own node included."""

    def made(*overrides, folder=None):
        register_with_hydra()
        with hydra.initialize_config_dir(str(find_conf_dir()), version_base="1.3"):
            path = [f"hydra.searchpath=[file://{folder}]"] if folder else []
            return hydra.compose("train", [*overrides, *path], return_hydra_config=True)

    return made


@pytest.mark.parametrize(
    "overrides",
    [
        ["lora.r=8"],
        ["sweep=rank_lr_seq", "lora.r=8", "training.learning_rate=0.00123456789"],
        [
            "hardware=rtx4050_6gb",
            "lora=attention_only",
            "training.max_seq_tokens=4096",
            "prompt=r1_reasoning",
        ],
        [
            "hardware=rtx4050_6gb",
            "dataset=clinical_cases",
            "lora.target_modules=[q_proj,v_proj]",
            "training.epochs=1",
            "training.max_steps=null",
        ],
        [
            "debug=fast",
            "hardware.vram_ceiling_gib=0.5",
            "dataset.columns.reasoning=null",
            "prompt=direct",
        ],
    ],
)
def test_the_preset_composes_to_the_very_run(composed, resolved, tmp_path, large_card, overrides):
    best_preset.write_preset(
        best_preset.format_preset(
            composed(*overrides),
            lambda hardware: composed(f"hardware={hardware}"),
            "Question: which?",
        ),
        tmp_path,
    )
    again = composed("experiment=best", folder=tmp_path)
    wanted = composed(*overrides)
    groups = ("model", "lora", "dataset", "prompt", "training", "evaluation", "hardware")
    assert {group: again[group] for group in groups} == {group: wanted[group] for group in groups}


def test_the_preset_holds_what_differs_and_nothing_else(composed):
    text = best_preset.format_preset(
        composed("lora.r=8", "tracking.experiment=mine"),
        lambda hardware: composed(f"hardware={hardware}"),
        "Question: which?",
    )
    assert text.startswith("# @package _global_\n# Question: which?\n")
    assert yaml.safe_load(text) == {"defaults": [{"override /hardware": "cpu"}], "lora": {"r": 8}}


@pytest.mark.parametrize(
    ("space", "choices", "name"),
    [
        ({"lora.r": Choice((1,))}, {"sweep": "rank_lr_seq"}, "rank_lr_seq-cpu"),
        ({"lora.r": Choice((1,)), "training.seed": IntRange(1, 2)}, {}, "lora_r-training_seed-cpu"),
        ({"lora": Choice(("a",))}, {"sweep": None}, "lora-cpu"),
    ],
)
def test_a_study_is_named_for_what_it_asks(resolved, no_card, space, choices, name):
    assert labels.default_study_name(SearchSpace(space), choices, resolved(on=no_card)) == name


def test_a_study_that_starts_afresh_gets_the_next_name(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s-2").mkdir()
    assert (labels.find_unused_name("s", tmp_path), labels.find_unused_name("t", tmp_path)) == (
        "s-3",
        "t",
    )


def test_the_mean_of_repeats():
    made = results.average_outcomes(
        [
            TrialOutcome(Ending.done, "", {"a": 1.0, "b": 1.0}, "x", 2.0),
            TrialOutcome(Ending.done, "", {"a": 3.0}, "y", 4.0),
        ]
    )
    assert made == TrialOutcome(Ending.done, "", {"a": 2.0}, "y", 6.0)


def test_runs_that_differ_by_their_seed_have_a_mean_and_a_deviation(opened):
    study = opened(space=SearchSpace({"training.seed": Choice((1, 2, 3))}))
    for loss in (2.0, 4.0):
        assert results.compute_seed_statistics(study) is None
        study.tell(study.ask(), TrialOutcome(Ending.done, "", {"result/loss_after": loss}), {})
    assert results.compute_seed_statistics(study) == pytest.approx((3.0, 2**0.5))
    assert results.compute_seed_statistics(opened(name="other")) is None


@pytest.mark.parametrize(
    ("losses", "beaten", "first"),
    [
        (
            [3.0, 2.0, 2.5],
            "2 others; the next best, trial 2 (r=3), had 2.5000",
            "trial 0 (r=1) had 3.0000",
        ),
        (
            [2.0, 3.0],
            "1 other; the next best, trial 1 (r=2), had 3.0000",
            "is the best: nothing that was tried beat it",
        ),
        ([2.0, 1.0], "1 other; the next best, trial 0 (r=1), had 2.0000", None),
    ],
)
def test_the_best_is_held_against_the_run_as_configured(opened, losses, beaten, first):
    study = opened(space=SearchSpace({"lora.r": Choice((1, 2, 3))}))
    for rank, loss in enumerate(losses, 1):
        study.enqueue({"lora.r": rank})
        study.tell(study.ask(), TrialOutcome(Ending.done, "", {"result/loss_after": loss}), {})
    said = dict(results._comparison_rows(study, study.best_trials()))
    assert (said["it beat"], said.get("the first")) == (beaten, first)


def test_a_row_says_what_a_trial_came_to(opened):
    study = opened(
        space=SearchSpace({"lora.r": Choice((4,)), "training.learning_rate": Choice((0.00012345,))})
    )
    first, second = study.ask(), study.ask()
    study.tell(
        first,
        TrialOutcome(Ending.done, "", {"result/loss_after": 3.14159}, elapsed_s=61),
        {},
        {"measured_bytes": 2**30, "planned_s": 40.0},
    )
    study.tell(second, TrialOutcome(Ending.crashed, "killed by SIGKILL"), {})
    assert [board.make_row(trial) for trial in study.trials()] == [
        (
            "0",
            "r=4, learning_rate=0.000123",
            "",
            "1.00",
            "3.1416",
            "done",
            "",
            "40 s",
            "1 min 01 s",
        ),
        ("1", "r=4, learning_rate=0.000123", "", "", "", "crashed: killed by SIGKILL", "", "", ""),
    ]


def test_the_presets_of_a_sweep_fit_the_hardware(composed):
    cpu, card = composed("sweep=rank_lr_seq"), composed("sweep=rank_lr_seq", "hardware=rtx4050_6gb")
    assert (
        OmegaConf.to_container(cpu.hydra.sweeper.params, resolve=True)["training.max_seq_tokens"]
        == "range(480, 801, 160)"
    )
    assert (
        OmegaConf.to_container(card.hydra.sweeper.params, resolve=True)["training.max_seq_tokens"]
        == "range(1024, 16385, 1024)"
    )
    assert cpu.hydra.sweeper.n_trials == 8
    # What takes as long as a quarter of a trial, and chooses nothing.
    assert (cpu.evaluation.answers, cpu.evaluation.likelihoods) == (0, False)


def test_sweepers_that_begin_at_once_share_one_run_in_mlflow(opened, tmp_path):
    where = Tracking(
        str(tmp_path / "mlruns"), "e", None, system_metrics=False, log_adapter=False, tags={}
    )
    studies, both = [opened(), opened()], Barrier(2, timeout=60)

    def begin(study):
        both.wait()
        with results.open_parent_run(where, study, tmp_path, print) as parent:
            both.wait()  # neither has ended before the other began
            return parent.run_id

    with ThreadPoolExecutor(2) as pool:
        assert len(set(pool.map(begin, studies))) == 1
