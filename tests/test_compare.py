"""Finished runs of the tiny model compared by the command: a real MLflow store, real records, and
every way to ask wrongly.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import TinyRuns, command, invoke
from omegaconf import OmegaConf

from medexp.cli.composition import extract_options
from medexp.compare import compare, list_run_names
from medexp.comparison import loading as runs
from medexp.comparison.comparison import RunComparison
from medexp.config.command_options import CompareOptions
from medexp.config.resolve import resolve
from medexp.config.schema import RunConfig
from medexp.errors import BadInput, ConfigError, DataError, OutputError, RunError
from medexp.models import adapter_files
from medexp.system import machine
from medexp.system.console import Console
from medexp.training.context import TrainResult
from medexp.training.run import train

OTHER_CASES = "dataset.split_seed=7"


@dataclass
class Kept:
    """Finished runs in one store: plain, of another rank, and of other held-out cases without
    answers.
    """

    tiny_runs: TinyRuns
    compose: Callable[..., Any]
    plain: TrainResult
    ranked: TrainResult
    other: TrainResult

    def options(self, *words: str) -> tuple[RunConfig, CompareOptions]:
        """What the command line makes of `words`."""
        quick = [
            f"tracking.root={self.tiny_runs.root / 'mlruns'}",
            f"compare.file={self.tiny_runs.root / 'compare.html'}",
            *words,
        ]
        cfg = self.compose(*quick, root="compare")
        options = extract_options(cfg, "compare")
        assert isinstance(options, CompareOptions)
        return resolve(cfg, machine.read(), Path.cwd(), {}, needs_card=False), options

    def compare(self, *words: str) -> RunComparison:
        """`python -m medexp.compare words...`."""
        return compare(*self.options(*words), Console())

    def runs(self, *results: TrainResult | str) -> str:
        """run=[...] of these runs."""
        return (
            f"run=[{','.join(each if isinstance(each, str) else each.run_id for each in results)}]"
        )

    @property
    def page(self) -> str:
        """The page that was written last."""
        return (self.tiny_runs.root / "compare.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def kept(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_runs_in: Callable[..., TinyRuns],
    resolved: Callable[..., RunConfig],
    compose: Callable[..., Any],
) -> Kept:
    root = tmp_path_factory.mktemp("compared")
    tiny_runs = tiny_runs_in(root)

    def made(name: str, *more: str) -> TrainResult:
        words = tiny_runs.overrides(
            "evaluation.answers=2",
            "training.learning_rate=1e-2",
            f"tracking.run_name={name}",
            *more,
        )
        yaml = OmegaConf.to_yaml(compose(*words), resolve=True)
        return train(
            resolved(*words, on=machine.read()),
            invoke(root / name, words, yaml),
            Console(),
        )

    others = made("ranked", "lora.r=4"), made("elsewhere", OTHER_CASES, "evaluation.answers=0")
    return Kept(tiny_runs, compose, made("plain"), *others)


@pytest.fixture(scope="module")
def study(kept: Kept) -> str:
    """A study in the store as a sweep leaves it: three finished trials and one that was pruned,
    made of the runs that are there.
    """
    client = kept.tiny_runs.client()
    experiment = client.get_run(kept.plain.run_id).info.experiment_id
    tags = {
        "medexp.study": "ranks",
        "medexp.objective": "result/loss_after",
        "medexp.direction": "minimize",
    }
    parent = client.create_run(experiment, run_name="ranks", tags=tags)
    for number, (loss, status) in enumerate(
        [(3.5, "FINISHED"), (3.1, "FINISHED"), (3.3, "FINISHED"), (2.0, "KILLED")]
    ):
        of_trial = {"medexp.study": "ranks", "mlflow.parentRunId": parent.info.run_id}
        trial = client.create_run(experiment, run_name=f"trial {number}", tags=of_trial)
        client.log_metric(trial.info.run_id, "result/loss_after", loss)
        for name in ("evaluation/record.json", "config/composed.yaml"):
            source = client.download_artifacts(
                [kept.plain.run_id, kept.ranked.run_id][number % 2], name
            )
            client.log_artifact(trial.info.run_id, source, name.partition("/")[0])
        client.set_terminated(trial.info.run_id, status)
    return "ranks"


def test_two_runs_are_paired_case_by_case(kept: Kept, capsys: pytest.CaptureFixture[str]) -> None:
    found = kept.compare(kept.runs(kept.plain, kept.ranked))
    (against,) = found.against_reference
    loss = against.find_contrast("loss_completion")
    assert loss is not None
    assert loss.comparison is not None
    client = kept.tiny_runs.client()
    records = [
        json.loads(
            Path(client.download_artifacts(each.run_id, "evaluation/record.json")).read_text()
        )
        for each in (kept.plain, kept.ranked)
    ]
    losses = [each["tuned_losses"] for each in records]
    means = [
        sum(loss["nats"] for loss in each) / sum(loss["tokens"] for loss in each) for each in losses
    ]
    assert (loss.comparison.before, loss.comparison.after) == pytest.approx(means)
    assert records[0]["held_out"] == records[1]["held_out"]
    assert (against.shared_cases.held_out, against.shared_cases.answered) == ((2, 2, 2), (2, 2, 2))
    assert set(found.differences) == {"lora.r"}
    printed = capsys.readouterr().out
    for expected in (
        "Against A",
        "What changed in each",
        "lora.r",
        kept.plain.run_id,
        "parameters trained",
        "Held out: ",
        "A: ",
    ):
        assert expected in printed
    assert kept.page.count('class="case"') == 2
    assert "<title>Compared: plain, ranked</title>" in kept.page


def test_what_a_run_took_comes_with_it(kept: Kept) -> None:
    plain, ranked = (
        each.cost
        for each in kept.compare(kept.runs(kept.plain, kept.ranked), "compare.answers=0").runs
    )
    assert (plain.trained, ranked.trained) == (
        kept.plain.outcome.trainable,
        kept.ranked.outcome.trainable,
    )
    assert plain.trained == 4 * (ranked.trained or 0)
    assert (plain.steps, plain.loss_after) == (2, kept.plain.outcome.loss_after)
    assert plain.elapsed_s is not None
    assert (plain.measured_bytes, plain.energy_wh) == (None, None)


def test_other_held_out_cases_are_not_paired(
    kept: Kept, capsys: pytest.CaptureFixture[str]
) -> None:
    found = kept.compare(kept.runs(kept.plain, kept.other))
    assert found.num_comparisons == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert (
        "B: no question was answered (evaluation.answers=0); compared by losses alone." in printed
    )
    assert (
        "B against A: other held-out cases (2 and 2, none in common): no loss is paired." in printed
    )
    assert "dataset.split_seed" in found.differences


def test_a_folder_with_a_record_beside_it_is_as_good_as_its_id(kept: Kept, tmp_path: Path) -> None:
    by_id = kept.compare(kept.runs(kept.plain, kept.ranked))
    by_folder = kept.compare(kept.runs(str(kept.plain.adapter), str(kept.ranked.adapter.parent)))
    assert by_folder.against_reference[0].contrasts == by_id.against_reference[0].contrasts
    assert by_folder.differences == by_id.differences
    assert by_folder.runs[0].cost.trained == by_id.runs[0].cost.trained
    bare = shutil.copytree(kept.ranked.adapter, tmp_path / "adapter")
    found = kept.compare(kept.runs(kept.plain, kept.ranked, str(bare)))
    assert found.runs[2].missing.startswith(
        "no evaluation/record.json beside the adapter; measure it first: python -m medexp.eval"
    )
    assert len(found.against_reference) == 1


def test_last_is_the_newest_and_not_to_be_given_twice(kept: Kept) -> None:
    assert kept.compare(kept.runs("last", kept.ranked)).runs[0].run_id == kept.plain.run_id
    with pytest.raises(
        RunError, match=rf"run= names a run twice \({kept.plain.run_id} and last are the same run\)"
    ):
        kept.compare(kept.runs(kept.plain, "last"))
    with pytest.raises(
        RunError, match=rf"run= names a run twice \({kept.plain.run_id}\); give each once"
    ):
        kept.compare(kept.runs(kept.plain, kept.plain))


def test_a_run_that_failed_is_shown_and_not_compared(
    kept: Kept, capsys: pytest.CaptureFixture[str]
) -> None:
    client = kept.tiny_runs.client()
    experiment = client.get_run(kept.plain.run_id).info.experiment_id
    failed = client.create_run(
        experiment,
        run_name="failed",
        tags={"medexp.ended_by": "VramCeilingError: [red]too[/red] much\nand more"},
    )
    assert (
        "still running" in kept.compare(kept.runs(kept.plain, failed.info.run_id)).runs[1].missing
    )
    client.set_terminated(failed.info.run_id, "FAILED")
    found = kept.compare(kept.runs(failed.info.run_id, kept.plain, kept.ranked))
    assert found.reference is found.runs[1]
    printed = " ".join(capsys.readouterr().out.split())
    assert (
        "A: failed before its answers were stored (VramCeilingError: [red]too[/red] much)"
        in printed
    )
    client.set_terminated(failed.info.run_id, "FINISHED")
    found = kept.compare(kept.runs(failed.info.run_id, kept.plain))
    assert found.runs[0].missing.startswith(
        "no stored answers (evaluation/record.json); measure it: python -m medexp.evaluate"
    )
    assert "Nothing is compared case by case" in " ".join(capsys.readouterr().out.split())


def test_an_evaluation_has_the_cost_of_the_run_it_measured(kept: Kept) -> None:
    client = kept.tiny_runs.client()
    experiment = client.get_run(kept.plain.run_id).info.experiment_id
    tags = {"medexp.evaluates": kept.plain.run_id, "mlflow.parentRunId": kept.plain.run_id}
    again = client.create_run(experiment, run_name="evaluate plain", tags=tags).info.run_id
    client.log_artifact(
        again, client.download_artifacts(kept.plain.run_id, "evaluation/record.json"), "evaluation"
    )
    client.set_terminated(again)
    first, second = kept.compare(kept.runs(kept.plain, again)).runs
    assert second.cost == first.cost


def test_a_card_s_memory_and_energy_are_read(kept: Kept) -> None:
    client = kept.tiny_runs.client()
    experiment = client.get_run(kept.plain.run_id).info.experiment_id
    run_id = client.create_run(experiment, tags={"medexp.vram_ceiling_gib": "5.25"}).info.run_id
    for name, value in {"vram/planned_bytes": 5e9, "vram/measured_bytes": 4e9}.items():
        client.log_metric(run_id, name, value)
    for second in (0, 30, 60):
        client.log_metric(run_id, "system/gpu_0_power_usage_watts", 60.0, timestamp=1000 * second)
    unplanned = client.create_run(experiment).info.run_id
    client.log_metric(unplanned, "vram/peak_gib", 2.0)
    client.log_metric(unplanned, "system/gpu_0_power_usage_watts", 60.0)
    client.log_metric(unplanned, "system/gpu_1_power_usage_watts", 60.0)
    first, second_cost = (each.cost for each in kept.compare(kept.runs(run_id, unplanned)).runs)
    assert (first.planned_bytes, first.measured_bytes, first.energy_wh) == (
        5 * 10**9,
        4 * 10**9,
        1.0,
    )
    assert first.ceiling_bytes == int(5.25 * 2**30)
    # of two cards nobody knows which
    assert (second_cost.measured_bytes, second_cost.energy_wh) == (2 * 2**30, None)
    assert "VRAM, of 5.25 GiB allowed" in kept.page


def test_other_training_answers_in_the_same_file_are_a_difference(
    kept: Kept, capsys: pytest.CaptureFixture[str]
) -> None:
    file = kept.tiny_runs.root / "cases.csv"
    words = [
        "dataset=local",
        f"dataset.path={file}",
        "dataset.held_out=2",
        "evaluation.answers=0",
        "training.max_steps=1",
    ]

    def trained(answer: str) -> str:
        rows = [f"Question {at}?,{answer if at > 5 else 'Rest.'} Number {at}." for at in range(40)]
        file.write_text("Question,Response\n" + "\n".join(rows))
        overrides = kept.tiny_runs.overrides(
            *words, "prompt=direct", "dataset.columns.reasoning=null", "dataset.overlong=drop"
        )
        yaml = OmegaConf.to_yaml(kept.compose(*overrides), resolve=True)
        made = train(
            kept.tiny_runs.resolved(*overrides, on=machine.read()),
            invoke(kept.tiny_runs.root / answer, overrides, yaml),
            Console(),
        )
        return made.run_id

    first, second = trained("Rest."), trained("Run.")
    found = kept.compare(kept.runs(first, second))
    assert list(found.differences) == ["training data"]
    assert len({*found.differences["training data"]}) == 2
    assert "different: 1." in " ".join(capsys.readouterr().out.split())
    assert "training data" in kept.page


def test_the_levers_are_those_of_the_plan(kept: Kept) -> None:
    client, plain = kept.tiny_runs.client(), kept.plain.run_id
    planned = client.create_run(client.get_run(plain).info.experiment_id).info.run_id
    client.log_text(
        planned,
        (kept.tiny_runs.root / "plain" / "adapter" / "run.yaml").read_text(),
        "config/composed.yaml",
    )
    for param, value in {"vram.micro_batch": "4", "vram.tile_mlp": "True"}.items():
        client.log_param(planned, param, value)
    list_run_names, took = (each.settings for each in kept.compare(kept.runs(plain, planned)).runs)
    assert (list_run_names["training.micro_batch"], list_run_names["hardware.tile_mlp"]) == (
        "1",
        "false",
    )
    assert (took["training.micro_batch"], took["hardware.tile_mlp"]) == ("4", "true")


def test_a_study_is_its_finished_trials_best_first(
    kept: Kept, study: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = kept.compare(f"study={study}")
    assert found.title == "Study ranks: all 3 finished trials by result/loss_after, best first"
    assert [each.name for each in found.runs] == ["trial 1", "trial 2", "trial 0"]
    assert [each.cost.loss_after for each in found.runs] == [3.1, 3.3, 3.5]
    assert "optimistically biased" in found.caution
    counts = (kept.ranked.outcome.trainable, kept.plain.outcome.trainable)
    # no trial has kept its adapter
    assert [each.cost.trained for each in found.runs] == [counts[0], counts[1], counts[1]]
    monkeypatch.setattr(runs, "MOST", 2)
    assert kept.compare(f"study={study}").title.startswith(
        "Study ranks: the best 2 of 3 finished trials"
    )


def test_a_study_that_is_maximised_has_its_largest_first(kept: Kept, study: str) -> None:
    client = kept.tiny_runs.client()
    (parent,) = [each for each in kept.tiny_runs.runs() if each.data.tags.get("medexp.objective")]
    client.set_tag(parent.info.run_id, "medexp.direction", "maximize")
    assert [each.name for each in kept.compare(f"study={study}").runs] == [
        "trial 0",
        "trial 2",
        "trial 1",
    ]
    client.set_tag(parent.info.run_id, "medexp.direction", "minimize")


def test_unknown_studies_are_answered_with_those_there_are(kept: Kept, study: str) -> None:
    with pytest.raises(
        RunError, match=r"study=rank is not in .*; there are ranks; did you mean ranks\?"
    ):
        kept.compare("study=rank")
    with pytest.raises(RunError, match="study=it's is not in"):
        kept.compare('study="it\'s"')


def test_a_study_needs_two_finished_trials(kept: Kept) -> None:
    client = kept.tiny_runs.client()
    experiment = client.get_run(kept.plain.run_id).info.experiment_id
    parent = client.create_run(
        experiment, tags={"medexp.study": "lonely", "medexp.objective": "result/loss_after"}
    ).info.run_id
    client.set_terminated(parent)
    with pytest.raises(
        RunError, match="study=lonely has 0 finished trials with result/loss_after and 2 are needed"
    ):
        kept.compare("study=lonely")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "there is nothing to compare: give 'run="),
        (["run=abc"], "run= names 1 run; 2 to 12 can be compared, as in 'run="),
        (["run=[abc]"], "run= names 1 run; 2 to 12"),
        ([f"run=[{','.join('abcdefghijklm')}]"], "run= names 13 runs; 2 to 12"),
        (["run=[a,b]", "study=s"], "run and study are both given"),
    ],
)
def test_too_few_too_many_or_both_are_refused(kept: Kept, words: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence.replace("[", r"\[")):
        list_run_names(kept.options(*words)[1])


def test_unknown_runs_and_broken_records_are_refused(kept: Kept) -> None:
    with pytest.raises(RunError, match="run=0123abc is neither a folder nor a run in"):
        kept.compare(kept.runs(kept.plain, "0123abc"))
    file = (
        Path(kept.tiny_runs.client().download_artifacts(kept.ranked.run_id, ""))
        / "evaluation/record.json"
    )
    whole = file.read_text()
    file.write_text(whole[:50])
    with pytest.raises(
        DataError,
        match=f"evaluation/record.json of run {kept.ranked.run_id} is not a stored evaluation",
    ):
        kept.compare(kept.runs(kept.plain, kept.ranked))
    file.write_text(whole)


def test_the_page_must_be_a_file(kept: Kept) -> None:
    with pytest.raises(OutputError, match="is a folder; give the name of a file"):
        kept.compare(kept.runs(kept.plain, kept.ranked), f"compare.file={kept.tiny_runs.root}")
    with pytest.raises(
        OutputError, match=r"compare.html cannot be written \(.*\); set compare.file=FILE"
    ):
        kept.compare(
            kept.runs(kept.plain, kept.ranked),
            f"compare.file={kept.plain.adapter}/adapter_config.json/compare.html",
        )
    with pytest.raises(BadInput, match=r"compare\.answers=-1 is out of range"):
        kept.options("compare.answers=-1")


def test_an_adapter_without_safetensors_is_not_counted(tmp_path: Path) -> None:
    assert adapter_files.count_parameters(tmp_path) is None


def test_the_page_can_be_opened_at_once(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    kept.compare(kept.runs(kept.plain, kept.ranked), "compare.open=true", "compare.answers=0")
    assert opened == [(kept.tiny_runs.root / "compare.html").as_uri()]


def test_the_command_gives_programs_plain_values_and_leaves_nothing_else(
    kept: Kept, tmp_path: Path
) -> None:
    words = [
        "-m",
        "medexp.compare",
        kept.runs(kept.plain, kept.ranked),
        f"tracking.root={kept.tiny_runs.root / 'mlruns'}",
    ]
    status, output = command(
        *words, "compare.format=json", "compare.file=new/compare.html", cwd=tmp_path
    )
    assert status == 0
    found = json.loads(output[output.index("{") : output.rindex("}") + 1])
    assert found["settings"] == {"lora.r": {"A": "16", "B": "4"}}
    assert Path(found["page"]) == tmp_path / "new" / "compare.html"
    assert [each.name for each in tmp_path.iterdir()] == ["new"]


def test_the_command_ends_bad_input_with_2_and_no_folder(kept: Kept, tmp_path: Path) -> None:
    status, output = command(
        "-m", "medexp.compare", "run=[a,b]", "compare.format=html", cwd=tmp_path
    )
    assert (status, "compare.format=html is not allowed; allowed are table, json" in output) == (
        2,
        True,
    )
    status, output = command(
        "-m",
        "medexp.compare",
        "run=solo",
        f"tracking.root={kept.tiny_runs.root / 'mlruns'}",
        cwd=tmp_path,
    )
    assert (status, output.startswith("medexp: run= names 1 run")) == (2, True)
    assert list(tmp_path.iterdir()) == []
