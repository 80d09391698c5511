"""Whole runs of a tiny model: what they leave behind, how they end, and that they continue as if
nothing had happened.
"""

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.commands import TinyRuns, command, killed_at

from medexp.errors import (
    ModelError,
    OutputError,
    RunInterrupted,
    TrainingDiverged,
    VramCeilingError,
)
from medexp.system import stopping
from medexp.system.stopping import Terminated
from medexp.training import trainer
from medexp.training.context import TrainContext
from medexp.training.resume import ResumableRun

LONGER = [
    "training.max_steps=6",
    "training.save_steps=2",
    "evaluation.every_steps=3",
    "training.micro_batch=2",
]


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch):
    """interrupted(step, do): the next training in this process does `do` while it logs the step."""

    def arrange(at_step: int, do: Callable[[], None]) -> None:
        real = trainer._make_bridge

        class Interrupter:
            def on_step_end(self, step, _metrics):
                if step == at_step:
                    do()

        def bridge(model, callbacks, count_tokens):
            monkeypatch.setattr(trainer, "_make_bridge", real)
            return real(model, [*callbacks, Interrupter()], count_tokens)

        monkeypatch.setattr(trainer, "_make_bridge", bridge)

    return arrange


def test_a_run_leaves_an_adapter_that_names_its_base_without_a_place(tiny_runs: TinyRuns) -> None:
    result = tiny_runs.train()
    config = json.loads((result.adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert {"adapter_model.safetensors", "tokenizer.json", "run.yaml", "base_model.json"} <= {
        each.name for each in result.adapter.iterdir()
    }


def test_a_run_is_kept_in_mlflow(tiny_runs: TinyRuns) -> None:
    result = tiny_runs.train("lora.r=4")
    run = tiny_runs.client().get_run(result.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["lora.r"] == "4"
    assert run.data.params["training.max_steps"] == "2"
    assert not any(name.startswith("tracking.") for name in run.data.params)
    steps = {"train/loss", "train/grad_norm", "train/learning_rate", "speed/tokens_per_s"}
    assert all(set(tiny_runs.history(result.run_id, name)) == {1, 2} for name in steps)
    assert set(tiny_runs.history(result.run_id, "eval/loss")) == {0, 2}
    assert run.data.metrics["result/loss_after"] == result.outcome.loss_after
    assert {run.data.tags[f"medexp.{name}"] for name in ("model", "hardware", "dataset")} == {
        "smollm2_135m",
        "cpu",
        "clinical_cases",
    }
    inputs = {each.tags[0].value: each.dataset for each in run.inputs.dataset_inputs}
    assert set(inputs) == {"training", "held-out"}
    assert inputs["training"].digest != inputs["held-out"].digest


def test_a_run_reads_well_in_mlflow(tiny_runs: TinyRuns) -> None:
    result = tiny_runs.train("lora.r=4", "training.learning_rate=2e-4", "training.seed=1")
    client = tiny_runs.client()
    run = client.get_run(result.run_id)
    assert run.info.run_name == "r4 lr2e-4 seq800 seed1"
    assert len(run.data.params) < 30
    assert "None" not in run.data.params.values()
    note = run.data.tags["mlflow.note.content"]
    assert [line.partition("**")[2].partition("**")[0] for line in note.splitlines()[:3]] == [
        "FORM",
        "MEDICINE",
        "HARM",
    ]
    before, after = result.outcome.loss_before, result.outcome.loss_after
    assert f"- held-out loss, all: {before:.4g} → {after:.4g}" in note
    assert run.data.metrics["host/peak_gib"] > 0.1
    (output,) = run.outputs.model_outputs
    model = client.get_logged_model(output.model_id)
    assert (model.name, model.source_run_id, model.status.value) == (
        "smollm2_135m-r4",
        result.run_id,
        "READY",
    )
    assert model.params["lora.r"] == "4"
    (kept,) = Path(model.artifact_location.removeprefix("file://")).glob(
        "adapter_model.safetensors"
    )
    artifact = Path(run.info.artifact_uri.removeprefix("file://")) / "adapter" / kept.name
    assert kept.samefile(artifact)  # a model costs no disk


def test_a_run_keeps_its_artifacts(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    result = tiny_runs.train()
    kept = Path(tiny_runs.client().download_artifacts(result.run_id, "", str(tmp_path)))
    assert (kept / "config/composed.yaml").read_text() == "composed: yaml\n"
    assert json.loads((kept / "data/audit.json").read_text())["train"]["kept"] == 6
    assert "torch" in json.loads((kept / "environment.json").read_text())["packages"]
    assert (kept / "adapter/adapter_model.safetensors").is_file()
    table = json.loads((kept / "answers/before_after.json").read_text())
    assert table["columns"] == ["question", "reference", "base", "tuned"]
    assert len(table["data"]) == 2


@pytest.mark.parametrize(
    ("numbers", "exit_code"),
    # a dying parent sends one SIGTERM for each of its threads
    [([signal.SIGINT], 130), ([signal.SIGTERM] * 3, 143)],
)
def test_a_stopped_run_continues_to_the_losses_of_an_unbroken_one(
    tiny_runs: TinyRuns, interrupted, numbers: list[int], exit_code: int
) -> None:
    unbroken = tiny_runs.train(*LONGER, "training.resume=never")
    interrupted(3, lambda: [os.kill(os.getpid(), number) for number in numbers])
    with pytest.raises(RunInterrupted, match="the same command continues it") as stopped:
        tiny_runs.train(*LONGER)
    assert stopped.value.exit_code == exit_code
    broken = tiny_runs.runs()[0]
    assert broken.info.status == "KILLED"
    continued = tiny_runs.train(*LONGER)
    assert continued.run_id == broken.info.run_id
    ended = tiny_runs.client().get_run(continued.run_id)
    assert ended.info.status == "FINISHED"
    assert not {"medexp.reason", "medexp.ended_by"} & set(ended.data.tags)
    assert tiny_runs.history(continued.run_id, "train/loss") == tiny_runs.history(
        unbroken.run_id, "train/loss"
    )
    assert tiny_runs.history(continued.run_id, "eval/loss") == tiny_runs.history(
        unbroken.run_id, "eval/loss"
    )
    assert not list((tiny_runs.root / "mlruns/unfinished").glob("*/checkpoints"))


LAST = [
    "training.max_steps=4",
    "training.save_steps=50",
    "evaluation.every_steps=3",
    "training.micro_batch=2",
]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_in_the_last_step_is_heard(tiny_runs: TinyRuns, interrupted, number: int) -> None:
    interrupted(4, lambda: os.kill(os.getpid(), number))
    with pytest.raises(RunInterrupted, match="after step 4 of 4; the checkpoint is") as stopped:
        tiny_runs.train(*LAST)
    assert stopped.value.exit_code == 128 + number
    assert tiny_runs.runs()[0].info.status == "KILLED"
    assert list((tiny_runs.root / "mlruns/unfinished").glob("*/checkpoints/checkpoint-4"))
    continued = tiny_runs.train(*LAST)
    assert (len(tiny_runs.runs()), tiny_runs.runs()[0].info.status) == (1, "FINISHED")
    assert set(tiny_runs.history(continued.run_id, "train/loss")) == {1, 2, 3, 4}
    assert set(tiny_runs.history(continued.run_id, "eval/loss")) == {0, 3, 4}


def test_a_stop_in_an_evaluation_begins_no_further_step(
    tiny_runs: TinyRuns,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured, unbroken = (
        TrainContext.measure_losses,
        tiny_runs.train(*LAST, "training.resume=never"),
    )
    asked: list[int] = []

    def losses(self: TrainContext) -> object:
        if not asked and self.model.network.training:  # the one before the last step
            asked.append(os.kill(os.getpid(), signal.SIGINT) or 1)
        return measured(self)

    monkeypatch.setattr(TrainContext, "measure_losses", losses)
    with pytest.raises(RunInterrupted, match="after step 3 of 4; the checkpoint is kept"):
        tiny_runs.train(*LAST)
    continued = tiny_runs.train(*LAST)
    for figure in ("train/loss", "eval/loss"):
        assert tiny_runs.history(continued.run_id, figure) == tiny_runs.history(
            unbroken.run_id, figure
        )


@pytest.mark.parametrize(
    ("number", "ends"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)],
)
def test_a_second_signal_ends_a_run_at_once(
    tiny_runs: TinyRuns,
    interrupted,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    ends: type[BaseException],
) -> None:
    monkeypatch.setattr(stopping, "SAME_AGAIN_S", 0.0)

    def twice() -> None:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        raise AssertionError("the second went unheard")

    interrupted(3, twice)
    with pytest.raises(ends):
        tiny_runs.train(*LONGER)
    (broken,) = tiny_runs.runs()
    assert (broken.info.status, broken.data.tags["medexp.reason"]) == ("KILLED", "stopped")
    assert tiny_runs.train(*LONGER).run_id == tiny_runs.runs()[0].info.run_id


def test_a_run_killed_outright_continues_too(tiny_runs: TinyRuns) -> None:
    unbroken = tiny_runs.train(*LONGER, "training.resume=never")
    words = ["-m", "medexp.train", *tiny_runs.overrides(*LONGER)]
    assert killed_at("step 5/6", words, tiny_runs.root) == -signal.SIGKILL
    assert tiny_runs.runs()[0].info.status == "RUNNING"
    status, output = command(*words, cwd=tiny_runs.root)
    assert status == 0, output
    assert "continued from checkpoint-4" in output
    newest = tiny_runs.runs()[0]
    assert (len(tiny_runs.runs()), newest.info.status) == (2, "FINISHED")
    assert tiny_runs.history(newest.info.run_id, "train/loss") == tiny_runs.history(
        unbroken.run_id, "train/loss"
    )
    assert newest.data.metrics["result/loss_after"] == unbroken.outcome.loss_after


def test_work_whose_mlflow_run_was_deleted_goes_on_in_a_new_one(
    tiny_runs: TinyRuns, interrupted
) -> None:
    interrupted(3, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(RunInterrupted):
        tiny_runs.train(*LONGER)
    (deleted,) = tiny_runs.runs()
    tiny_runs.client().delete_run(deleted.info.run_id)
    continued = tiny_runs.train(*LONGER)
    assert continued.run_id != deleted.info.run_id
    # the step under way was finished and kept
    assert set(tiny_runs.history(continued.run_id, "train/loss")) == {4, 5, 6}


def test_a_run_goes_on_when_what_is_not_the_experiment_has_changed(
    tiny_runs: TinyRuns, interrupted
) -> None:
    interrupted(3, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(RunInterrupted):
        tiny_runs.train(
            *LONGER, "training.save_steps=1", "training.resume=never", "evaluation.reuse_base=false"
        )
    continued = tiny_runs.train(*LONGER, "training.save_steps=5", "training.resume=auto")
    assert [run.info.run_id for run in tiny_runs.runs()] == [continued.run_id]


def test_a_run_killed_before_it_was_let_go_has_everything_once(
    tiny_runs: TinyRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ResumableRun, "finish", lambda _: None)
    first = tiny_runs.train()
    monkeypatch.undo()
    assert tiny_runs.train().run_id == first.run_id
    run = tiny_runs.client().get_run(first.run_id)
    kept = Path(run.info.artifact_uri.removeprefix("file://"))
    tables = {each["path"] for each in json.loads(run.data.tags["mlflow.loggedArtifacts"])}
    assert tables == {"answers/before_after.json", "evaluation/per_case.json"}
    assert {len(json.loads((kept / table).read_text())["data"]) for table in tables} == {2}
    assert len(run.outputs.model_outputs) == 1


def test_another_run_marks_a_dead_one_killed(tiny_runs: TinyRuns) -> None:
    killed_at("step 1/6", ["-m", "medexp.train", *tiny_runs.overrides(*LONGER)], tiny_runs.root)
    assert tiny_runs.runs()[0].info.status == "RUNNING"
    tiny_runs.train("lora.r=2")
    assert {run.info.status for run in tiny_runs.runs()} == {"FINISHED", "KILLED"}


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ("training.max_steps=4", r"the training loss is .*lower training\.learning_rate"),
        (
            "training.max_steps=1",
            r"the held-out loss is nan after step 1; lower training\.learning_rate",
        ),
    ],
)
def test_a_loss_that_is_no_number_fails_the_run_and_says_so(
    tiny_runs: TinyRuns, steps: str, said: str
) -> None:
    with pytest.raises(TrainingDiverged, match=said):
        tiny_runs.train(
            steps,
            "training.learning_rate=1e30",
            "training.max_grad_norm=1e30",
            "training.warmup_steps=0",
        )
    assert tiny_runs.runs()[0].info.status == "FAILED"
    assert "TrainingDiverged" in tiny_runs.runs()[0].data.tags["medexp.ended_by"]
    assert tiny_runs.runs()[0].data.tags["medexp.reason"] == "diverged"


def test_out_of_memory_fails_the_run_for_that_reason_and_keeps_the_checkpoint(
    tiny_runs: TinyRuns, interrupted
) -> None:
    def run_out() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    interrupted(5, run_out)
    with pytest.raises(VramCeilingError, match="out of GPU memory while training") as failed:
        tiny_runs.train(*LONGER)
    assert failed.value.exit_code == 3
    assert (tiny_runs.runs()[0].info.status, tiny_runs.runs()[0].data.tags["medexp.reason"]) == (
        "FAILED",
        "vram",
    )
    assert list((tiny_runs.root / "mlruns/unfinished").glob("*/checkpoints/checkpoint-4"))
    assert tiny_runs.train(*LONGER).run_id == tiny_runs.runs()[0].info.run_id


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"),
            "torch does not say why",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (Exception("File too large (os error 27)"), "ulimit -f"),  # tokenizers
    ],
    ids=["torch", "system", "tokenizers"],
)
def test_a_full_disk_is_said_in_a_sentence_and_the_last_whole_checkpoint_is_kept(
    tiny_runs: TinyRuns, monkeypatch: pytest.MonkeyPatch, said: Exception, told: str
) -> None:
    save = torch.save

    def full(value: object, file: object, *more: object, **keywords: object) -> None:
        save(value, file, *more, **keywords)
        if "checkpoint-4" in str(file):
            raise said

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(
        OutputError, match=f"{told}.*continues from checkpoint-2, which is kept,"
    ) as failed:
        tiny_runs.train(*LONGER)
    monkeypatch.undo()
    assert (failed.value.exit_code, "\n" in str(failed.value)) == (2, False)
    assert tiny_runs.runs()[0].info.status == "FAILED"
    assert [
        each.name
        for each in (tiny_runs.root / "mlruns/unfinished").glob("*/checkpoints/checkpoint-*")
    ] == ["checkpoint-2"]
    assert tiny_runs.train(*LONGER).run_id == tiny_runs.runs()[0].info.run_id


def test_the_held_out_loss_does_not_depend_on_the_training_length(tiny_runs: TinyRuns) -> None:
    short, long = (
        tiny_runs.train("training.max_seq_tokens=580"),
        tiny_runs.train("training.max_seq_tokens=640"),
    )
    assert short.outcome.loss_before == long.outcome.loss_before


@pytest.mark.parametrize(
    "way", [[], ["lora.alpha=32"], ["lora.rank_stabilised=true"], ["lora.dora=true"]], ids=str
)
def test_an_adapter_can_be_trained_further(tiny_runs: TinyRuns, way: list[str]) -> None:
    quiet = ["evaluation.answers=0", *way]
    first = tiny_runs.train("training.learning_rate=1e-2", *quiet, name="first")
    assert first.outcome.loss_after < first.outcome.loss_before - 1e-3
    further = tiny_runs.train(
        f"lora.start_from={first.adapter}", "training.learning_rate=1e-12", *quiet, name="further"
    )
    assert further.outcome.loss_after == pytest.approx(first.outcome.loss_after, abs=1e-4)


@pytest.mark.parametrize(
    "way", ["lora.alpha=32", "lora.rank_stabilised=true", "lora.dora=true", "lora.bias=all"]
)
def test_an_adapter_goes_on_at_its_own_scale_or_not_at_all(tiny_runs: TinyRuns, way: str) -> None:
    first = tiny_runs.train(way, "evaluation.answers=0", name="first")
    with pytest.raises(
        ModelError,
        match=f"was trained with {way}; set the same here, or choose another lora.start_from",
    ):
        tiny_runs.train(f"lora.start_from={first.adapter}", name="further")


def test_an_adapter_with_a_scale_of_its_own_for_a_module_is_refused(tiny_runs: TinyRuns) -> None:
    first = tiny_runs.train("evaluation.answers=0", name="first")
    file = first.adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"alpha_pattern": {"q_proj": 64}}))
    with pytest.raises(
        ModelError, match=r"has alpha_pattern=\{'q_proj': 64\}, which medexp does not train"
    ):
        tiny_runs.train(f"lora.start_from={first.adapter}", name="further")


def test_the_same_seed_gives_the_same_run_and_another_one_does_not(tiny_runs: TinyRuns) -> None:
    losses = [
        tiny_runs.history(tiny_runs.train(seed).run_id, "train/loss")
        for seed in ["training.seed=1", "training.seed=1", "training.seed=2"]
    ]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize(
    ("file", "said"),
    [("model.safetensors", "the weights of"), ("tokenizer.json", "the tokenizer of")],
)
def test_a_file_of_the_model_that_is_cut_off_is_one_sentence(
    tiny_runs: TinyRuns, tmp_path: Path, file: str, said: str
) -> None:
    cut = shutil.copytree(tiny_runs.model, tmp_path / "cut")
    os.truncate(cut / file, 1000)
    with pytest.raises(
        ModelError, match=rf"{said} {cut} cannot be read \(.+\); copy the folder again"
    ):
        tiny_runs.train(f"model.path={cut}")
