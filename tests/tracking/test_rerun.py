"""A finished run made again from what MLflow has kept of it."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from helpers.commands import TinyRuns, command, invoke
from omegaconf import OmegaConf

from medexp.cli.composition import extract_options
from medexp.config.command_options import TrainOptions
from medexp.config.resolve import make_paths_absolute, resolve
from medexp.errors import ConfigError
from medexp.system import machine
from medexp.system.console import Console
from medexp.tracking import finished_run
from medexp.tracking.rerun import OriginalRun, recompose_for_rerun
from medexp.training.context import TrainResult
from medexp.training.run import train


class Trains:
    """`python -m medexp.train` with these words, in this process, in folders that can be thrown
    away.
    """

    def __init__(self, tiny_runs: TinyRuns, compose: Callable[..., Any]):
        self.tiny_runs, self._compose = tiny_runs, compose
        self.said = ""

    def again(self, asked: str, *more: str) -> TrainResult:
        """experiment=from_run run=`asked`."""
        store = [f"tracking.root={self.tiny_runs.root / 'mlruns'}", "tracking.system_metrics=false"]
        return self.train("experiment=from_run", f"run={asked}", *store, *more)

    def train(self, *words: str) -> TrainResult:
        """Return the result of a training, as the command makes it."""
        cfg = self._compose(*words)
        options = extract_options(cfg, "train")
        assert isinstance(options, TrainOptions)
        cfg, subject = recompose_for_rerun(cfg, options, words)
        run = resolve(cfg, machine.read(), self.tiny_runs.root, {})
        yaml = OmegaConf.to_yaml(make_paths_absolute(cfg, self.tiny_runs.root), resolve=True)
        invocation = replace(invoke(self.tiny_runs.root / "out", words, yaml), run=subject)
        return train(run, invocation, Console())

    def tags(self, result: TrainResult) -> dict[str, str]:
        """The tags of its run."""
        return dict(self.tiny_runs.client().get_run(result.run_id).data.tags)


@pytest.fixture(scope="module")
def trains(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_runs_in: Callable[..., TinyRuns],
    compose: Callable[..., Any],
) -> Trains:
    root = tmp_path_factory.mktemp("restored")
    return Trains(tiny_runs_in(root), compose)


@pytest.fixture(scope="module")
def first(trains: Trains) -> TrainResult:
    """A run whose output folder is gone."""
    recipe = (
        "lora.r=4",
        "training.learning_rate=1e-2",
        "training.seed=7",
        "dataset.split_seed=5",
        "evaluation.answers=0",
    )
    result = trains.train(*trains.tiny_runs.overrides(*recipe))
    shutil.rmtree(trains.tiny_runs.root / "out")
    return result


def test_a_run_is_restored_from_mlflow_alone_to_the_same_loss(
    trains: Trains, first: TrainResult, capsys: pytest.CaptureFixture[str]
) -> None:
    again = trains.again(first.run_id)
    assert again.outcome.loss_after == first.outcome.loss_after != first.outcome.loss_before
    assert (
        f"held-out loss {first.outcome.loss_after!r}: the same as run {first.run_id} had, to the"
        " digit" in " ".join(capsys.readouterr().out.split())
    )
    assert trains.tags(again)["medexp.restores"] == first.run_id
    params = trains.tiny_runs.client().get_run(again.run_id).data.params
    assert (params["lora.r"], params["training.seed"], params["model.path"]) == (
        "4",
        "7",
        str(trains.tiny_runs.model),
    )


def test_levers_of_adapter_and_optimizer_are_restored(
    trains: Trains, capsys: pytest.CaptureFixture[str]
) -> None:
    levers = {
        "lora.alpha_ratio": "3.0",
        "lora.init_lora_weights": "gaussian",
        "training.loraplus_lr_ratio": "8.0",
        "training.neftune_noise_alpha": "5.0",
        "training.warmup_ratio": "0.5",
        "training.min_lr_ratio": "0.1",
        "training.adam_beta2": "0.95",
    }
    given = [f"{key}={value}" for key, value in levers.items()]
    nulls = ["lora.alpha=null", "training.warmup_steps=null", "evaluation.answers=0"]
    first = trains.train(*trains.tiny_runs.overrides(*given, *nulls))
    again = trains.again(first.run_id)
    assert again.outcome.loss_after == first.outcome.loss_after
    assert "the same as run" in " ".join(capsys.readouterr().out.split())
    for result in (first, again):
        run = trains.tiny_runs.client().get_run(result.run_id)
        assert {key: run.data.params.get(key) for key in levers} == levers
    named = trains.tiny_runs.client().get_run(first.run_id).info.run_name
    assert "alpha_ratio=3.0 init_lora_weights=gaussian loraplus8.0" in named
    assert "null" not in named


def test_what_the_command_line_names_wins_and_the_difference_is_said(
    trains: Trains, first: TrainResult, capsys: pytest.CaptureFixture[str]
) -> None:
    other = trains.again(first.run_id, "training.seed=8")
    assert trains.tiny_runs.client().get_run(other.run_id).data.params["training.seed"] == "8"
    difference = f"{other.outcome.loss_after - first.outcome.loss_after:+.3g}"
    assert (
        f"differs by {difference} from {first.outcome.loss_after!r} of run {first.run_id}"
        in " ".join(capsys.readouterr().out.split())
    )


def test_the_adapter_that_a_run_started_from_is_restored_too(
    trains: Trains, first: TrainResult
) -> None:
    adapter = trains.tiny_runs.root / "first_adapter"
    kept = finished_run.find_run(
        first.run_id, str(trains.tiny_runs.root / "mlruns"), trains.tiny_runs.root
    ).adapter
    assert kept is not None
    shutil.copytree(kept, adapter)
    went_on = trains.train(
        *trains.tiny_runs.overrides(
            "lora.r=4", f"lora.start_from={adapter}", "evaluation.answers=0"
        )
    )
    shutil.rmtree(adapter)
    again = trains.again(went_on.run_id)
    assert again.outcome.loss_before == went_on.outcome.loss_before
    assert again.outcome.loss_after == went_on.outcome.loss_after


def test_other_held_out_cases_are_said(trains: Trains, first: TrainResult) -> None:
    subject = finished_run.find_run(
        first.run_id, str(trains.tiny_runs.root / "mlruns"), trains.tiny_runs.root
    )
    assert subject.kept is not None
    assert "held-out cases are not those of run" in OriginalRun(subject).sentence(
        3.0, "another digest", ""
    )
    nothing = replace(subject, kept=replace(subject.kept, metrics={}))
    assert "has kept no held-out loss to compare with" in OriginalRun(nothing).sentence(
        3.0, subject.kept.held_out or "", ""
    )
    assert OriginalRun(replace(subject, kept=None)).tags == {"medexp.restores": first.run_id}


def test_training_data_that_was_changed_is_named(
    trains: Trains, first: TrainResult, capsys: pytest.CaptureFixture[str]
) -> None:
    other = trains.again(first.run_id, "dataset.max_cases=6")
    said = " ".join(capsys.readouterr().out.split())
    subject = finished_run.find_run(
        first.run_id, str(trains.tiny_runs.root / "mlruns"), trains.tiny_runs.root
    )
    assert subject.kept is not None
    assert f"of run {first.run_id}: the training data is another (digest" in said
    assert f"there {subject.kept.trained_on})" in said
    assert other.outcome.loss_before == first.outcome.loss_before
    seed = OriginalRun(subject).sentence(
        3.0, subject.kept.held_out or "", subject.kept.trained_on or ""
    )
    assert seed.endswith(f"of run {first.run_id}")


def test_without_the_experiment_a_config_stays_as_it_is(compose: Callable[..., Any]) -> None:
    cfg = compose("lora.r=3")
    assert recompose_for_rerun(cfg, TrainOptions(run=None, from_run=False), ["lora.r=3"]) == (
        cfg,
        None,
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run=abc"], "run=abc is only read with experiment=from_run"),
        (["experiment=from_run"], "experiment=from_run makes a finished run again: give run=ID"),
        (["experiment=from_run", "run=nosuch"], "run=nosuch is neither a folder nor a run in"),
        (
            ["experiment=from_run", "run=last", "debug=fast"],
            "debug=fast has no effect with experiment=from_run",
        ),
        (
            ["-m", "experiment=from_run", "run=last", "lora.r=choice(4,8)"],
            "experiment=from_run makes one run again and cannot be swept",
        ),
    ],
)
def test_bad_input_ends_in_one_sentence_before_anything_heavy(
    tiny_runs: TinyRuns, words: list[str], said: str
) -> None:
    status, output = command(
        "-m",
        "medexp.train",
        *words,
        f"tracking.root={tiny_runs.root / 'mlruns'}",
        cwd=tiny_runs.root,
    )
    assert (status, output.count("\n")) == (2, 1), output
    assert said in output


def test_from_run_refuses_a_run_that_kept_no_config(
    tiny_runs: TinyRuns, compose: Callable[..., Any]
) -> None:
    client = tiny_runs.client()
    run = client.create_run(
        client.create_experiment("medexp", artifact_location=(tiny_runs.root / "a").as_uri())
    )
    words = [
        "experiment=from_run",
        f"run={run.info.run_id}",
        f"tracking.root={tiny_runs.root / 'mlruns'}",
    ]
    cfg = compose(*words)
    options = extract_options(cfg, "train")
    with pytest.raises(finished_run.RunError, match="has no config beside it"):
        recompose_for_rerun(cfg, options, words)
    with pytest.raises(ConfigError, match="give run=ID"):
        recompose_for_rerun(cfg, TrainOptions(run=None, from_run=True), words)
