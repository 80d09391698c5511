"""Whole sweeps of the tiny model: what they leave, and that no ending loses anything."""

import json
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from helpers.commands import command

from medexp.sweep.search import metric_names as known_metrics
from medexp.tracking import finished_run


def test_a_sweep_from_the_command_to_the_best_run_again(sweeps):
    # The plan of 40,000 tokens takes over 0.9 GiB of host memory, that of 580 takes under 0.75.
    words = [
        "training.max_seq_tokens=choice(580,40000,640)",
        "hardware.vram_ceiling_gib=0.75",
        "sweep.n_trials=3",
    ]
    status, output = sweeps.run(*words)
    assert status == 0, output
    trials = sweeps.trials()
    started = {folder.name for folder in sweeps.folder.glob("[0-9]*")}
    done = [trial for trial in trials if trial.user_attrs["ending"] == "done"]
    refused = [trial for trial in trials if trial.user_attrs["ending"] == "infeasible"]
    # every point that fits, once
    assert {trial.params["training.max_seq_tokens"] for trial in done} == {580, 640}
    assert {str(trial.number) for trial in done} == started
    assert all(
        trial.params["training.max_seq_tokens"] == 40000 and trial.constraints["vram_bytes"] > 0
        for trial in refused
    )
    assert refused
    assert f"{len(refused)} proposals could not fit" in output
    _in_mlflow(sweeps, done)
    best = min(done, key=lambda trial: trial.value)
    again, printed = command(
        "-m", "medexp.train", "--config-dir", str(sweeps.folder), "experiment=best",
        f"tracking.root={sweeps.root / 'mlruns'}", "tracking.system_metrics=false", cwd=sweeps.root,
    )  # fmt: skip
    assert again == 0, printed
    newest = sweeps.tiny_runs.runs()[0]
    assert newest.data.metrics["result/loss_after"] == best.value
    status, output = sweeps.run(*words)
    assert (status, len(sweeps.trials())) == (0, len(trials)), output
    status, output = sweeps.run(*words[:-1], "sweep.n_trials=1")
    assert status == 2
    assert (
        "sweep.n_trials=1 is a total and study s has 2 finished trials already: nothing to do"
        in output
    )


def _in_mlflow(sweeps, done) -> None:
    runs = sweeps.tiny_runs.runs()
    (parent,) = [run for run in runs if run.info.run_name == "s"]
    nested = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert {run.info.run_id for run in nested} == {
        trial.user_attrs["mlflow_run_id"] for trial in done
    }
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.info.run_name for run in nested} == {
        f"{trial.number}: seq{trial.params['training.max_seq_tokens']}" for trial in done
    }
    assert [
        name
        for run in nested
        for name in run.data.metrics
        if known_metrics.find_metric_problem(name)
    ] == []
    assert parent.data.metrics["best/result/loss_after"] == min(trial.value for trial in done)
    assert parent.data.tags["medexp.direction"] == "minimize"  # what medexp.compare puts first
    kept = Path(
        sweeps.tiny_runs.client().download_artifacts(parent.info.run_id, "", str(sweeps.root))
    )
    assert json.loads((kept / "infeasible_proposals.json").read_text())["over_by_gib"][0] > 0
    assert (kept / "charts/history.png").stat().st_size > 5000
    assert "plotly" in (kept / "charts/sweep.html").read_text().lower()
    assert (kept / "best.yaml").read_text() == (sweeps.folder / "best.yaml").read_text()
    best = min(done, key=lambda run: run.value)
    assert (
        f"Best so far: **seq{best.params['training.max_seq_tokens']}**"
        in parent.data.tags["mlflow.note.content"]
    )
    registered = finished_run.find_run(
        "models:/s@best", str(sweeps.root / "mlruns"), sweeps.root
    ).kept
    assert registered is not None
    assert registered.run_id == best.user_attrs["mlflow_run_id"]


def test_a_sweep_over_ranks_keeps_the_scale(sweeps):
    status, output = sweeps.run(
        "lora.r=choice(2,4)",
        "lora.alpha=null",
        "lora.alpha_ratio=2",
        "training.loraplus_lr_ratio=choice(4,16)",
        "hydra/sweeper/sampler=grid",
        "sweep.n_trials=4",
        "sweep.final=true",
        "sweep.final_steps=3",
        "dataset.validation=2",
    )
    assert status == 0, output
    _has_its_winner(sweeps, output)
    trials = [run for run in sweeps.tiny_runs.runs() if "lora.alpha_ratio" in run.data.params]
    tried = {
        (run.data.params["lora.r"], run.data.params["training.loraplus_lr_ratio"]) for run in trials
    }
    assert tried == {(rank, ratio) for rank in ("2", "4") for ratio in ("4.0", "16.0")}
    scales = set()
    for file in sweeps.folder.rglob("adapter_config.json"):
        config = json.loads(file.read_text())
        scales.add(config["lora_alpha"] / config["r"])
    assert scales == {2.0}


def _has_its_winner(sweeps, output) -> None:
    runs = {run.info.run_name.partition(":")[0]: run for run in sweeps.tiny_runs.runs()}
    (final,) = [run for name, run in runs.items() if name.startswith("final of")]
    trial, parent = runs[final.data.tags["medexp.final_of_trial"]], runs["s"]
    assert trial.info.run_id == parent.data.tags["best.run_id"]
    printed = " ".join(output.replace("│", " ").split())
    assert "settings over 3 steps, training.seed=3407, on the test part: result/loss" in printed
    assert (trial.data.metrics["result/steps"], final.data.metrics["result/steps"]) == (2, 3)
    assert trial.data.metrics["sweep/steps"] == 2
    assert parent.data.metrics["sweep/steps"] == 4 * 2 + 3
    assert parent.data.metrics["sweep/elapsed_s"] > 4 * trial.data.metrics["result/elapsed_s"]
    # Only the winner has opened the test part.
    openings = (sweeps.root / "mlruns/test_openings.jsonl").read_text().splitlines()
    assert [json.loads(line)["run"] for line in openings] == [final.info.run_id]
    best = finished_run.find_run("models:/s@best", str(sweeps.root / "mlruns"), sweeps.root).kept
    assert best is not None
    assert best.run_id == final.info.run_id


def test_no_ending_loses_anything(sweeps):
    words = [
        "lora.r=choice(4,8)",
        "sweep.n_trials=1",
        "training.max_steps=24",  # enough for the kill to come before the end
        "training.save_steps=2",
        "evaluation.every_steps=50",
    ]
    process = sweeps.start(*words)
    sweeps.until("0/progress.json", '"step": 3')
    sweeps.kill(process)
    # its trial hears of it, keeps its step and ends
    sweeps.until("0/outcome.json", "stopped by SIGTERM after step")

    process = sweeps.start(*words)
    sweeps.until("1/progress.json")
    os.kill(process.pid, signal.SIGSTOP)
    os.kill(sweeps.pid(1), signal.SIGKILL)
    sweeps.kill(process)  # both: nobody is left to say a word

    process = sweeps.start(*words)
    sweeps.until("2/progress.json")
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 143, output
    assert (
        "stopped with 0 of 1 trials done; everything is kept, the same command continues" in output
    )
    assert {run.info.status for run in sweeps.tiny_runs.runs()} == {"KILLED"}

    status, output = sweeps.run(*words)
    assert status == 0, output
    assert sweeps.endings() == ["stopped", "died", "stopped", "done"]
    assert len({trial.params["lora.r"] for trial in sweeps.trials()}) == 1
    assert [trial.user_attrs.get("continues") for trial in sweeps.trials()] == [None, 0, 1, 2]
    assert all(
        "continued from checkpoint-" in (sweeps.folder / f"{number}/trial.log").read_text()
        for number in (1, 2, 3)
    )
    run, parent = sorted(sweeps.tiny_runs.runs(), key=lambda run: run.info.run_name == "s")
    assert set(sweeps.tiny_runs.history(run.info.run_id, "train/loss")) == set(range(1, 25))
    assert {run.info.status, parent.info.status} == {"FINISHED"}


def test_a_promoted_trial_that_is_killed_goes_on_where_it_had_paused(sweeps):
    words = [
        "lora.r=choice(4,8)", "sweep.n_trials=1", "hydra/sweeper/sampler=grid",
        "hydra/sweeper/pruner=halving", "training.max_steps=5", "training.save_steps=50",
        "evaluation.every_steps=2",
    ]  # fmt: skip
    process = sweeps.start(*words)
    sweeps.until("1/process.json")
    sweeps.kill(process)
    with suppress(ProcessLookupError):  # it hears of the sweeper's end, too
        os.kill(sweeps.pid(1), signal.SIGKILL)
    status, output = sweeps.run(*words)
    assert status == 0, output
    endings = sweeps.endings()
    assert (endings[0], endings[-1]) == ("paused", "done")
    last = sweeps.trials()[-1]
    assert set(last.intermediate_values) == {2, 4}
    log = (sweeps.folder / str(last.number) / "trial.log").read_text()
    assert "continued from checkpoint-2" in log
    run_id = last.user_attrs["mlflow_run_id"]
    assert set(sweeps.tiny_runs.history(run_id, "train/loss")) == {1, 2, 3, 4, 5}


def test_a_second_ctrl_c_ends_at_once_and_the_same_command_goes_on(sweeps):
    words = [
        "lora.r=choice(4,8)",
        "sweep.n_trials=1",
        "training.max_steps=4000",
        "training.save_steps=2",
    ]
    process = sweeps.start(*words)
    sweeps.until("0/progress.json", '"step": 3')
    trial = sweeps.pid(0)
    os.kill(trial, signal.SIGSTOP)  # it cannot hear the first one
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert not Path(f"/proc/{trial}").exists()
    assert sweeps.endings()[0] == "stopped"  # and uses up no trial
    process = sweeps.start(*words)
    sweeps.until("1/trial.log", "continued from checkpoint-")
    sweeps.kill(process)


OWN_SPACE = """
def more(cfg, trial):
    if trial.params["lora.r"] == 8:
        trial.suggest_categorical("lora.rank_stabilised", [True])
"""


def test_two_objectives_repeated_runs_and_a_space_of_one_s_own(sweeps):
    preset = [
        "sweep=pareto_loss_vram",
        "lora.r=choice(4,8)",
        # The preset's alpha follows the rank, which a rank-stabilised scale does not allow.
        "lora.alpha=16",
        "lora.alpha_ratio=null",
        "training.max_seq_tokens=choice(580,640)",
    ]
    (sweeps.root / "space_of_mine.py").write_text(OWN_SPACE)
    options = [
        "hydra.sweeper.repeats=2",
        "hydra.sweeper.n_jobs=2",
        "hydra.sweeper.custom_search_space=space_of_mine.more",
    ]
    process = sweeps.start(
        *preset, *options, "sweep.n_trials=2", "hydra/sweeper/sampler=random",
        "training.max_steps=2", PYTHONPATH=f"{Path(__file__).parents[2]}:{sweeps.root}",
    )  # fmt: skip
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "Pareto front" in output
    runs = {
        run.info.run_name.partition(":")[0]: run
        for run in sweeps.tiny_runs.runs()
        if run.info.run_name != "s"
    }
    assert set(runs) == {"0-1", "0-2", "1-1", "1-2"}
    for trial in sweeps.trials():
        of_trial = [run.data for name, run in runs.items() if name.startswith(f"{trial.number}-")]
        assert len({run.params["training.seed"] for run in of_trial}) == 2
        loss = sum(run.metrics["result/loss_after"] for run in of_trial) / 2
        assert trial.values == [
            pytest.approx(loss),
            pytest.approx(trial.user_attrs["planned_bytes"] / 2**30),
        ]
        assert ("lora.rank_stabilised" in trial.params) == (trial.params["lora.r"] == 8)
    assert (sweeps.folder / "charts/pareto_front.png").stat().st_size > 5000
    best = finished_run.find_run("models:/s@best", str(sweeps.root / "mlruns"), sweeps.root)
    assert best.adapter is not None  # although the preset has trials keep none in MLflow
    assert (best.adapter / "adapter_model.safetensors").is_file()


def test_a_trial_that_dies_fails_alone_and_a_hopeless_one_is_pruned(sweeps):
    prune = ["hydra/sweeper/pruner=threshold", "hydra.sweeper.pruner.upper=0.1"]
    process = sweeps.start(
        "lora.r=choice(4,8)",
        "sweep.n_trials=2",
        "training.max_steps=400",
        "evaluation.every_steps=2",
        *prune,
    )
    sweeps.until("0/process.json")
    os.kill(sweeps.pid(0), signal.SIGKILL)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert sweeps.endings() == ["crashed", "pruned"]
    assert "killed by SIGKILL" in sweeps.trials()[0].user_attrs["why"]
    (run,) = [run for run in sweeps.tiny_runs.runs() if run.info.run_name != "s"]
    assert (run.info.status, run.data.tags["medexp.reason"]) == ("KILLED", "pruned")
    assert not list((sweeps.root / "mlruns/unfinished").glob("*/checkpoints"))


def test_a_loss_that_is_no_number_is_a_failure_with_its_reason(sweeps):
    diverging = [
        "training.learning_rate=choice(1e30,2e30)",
        "training.max_grad_norm=1e30",
        "training.max_steps=4",
    ]
    status, output = sweeps.run("sweep.n_trials=1", *diverging)
    assert status == 6, output
    assert (
        "1 of 1 trials failed, hydra.sweeper.max_failure_rate=0.5 of 1 allows 0. The last one,"
        " diverged: the training loss is" in output
    )
    assert sweeps.endings() == ["diverged"]


def test_two_sweepers_share_a_study_and_one_goes_on_when_the_other_is_killed(sweeps, postgresql):
    words = ["lora.r=range(2,40)", "sweep.n_trials=2", f"hydra.sweeper.storage={postgresql}"]
    first = sweeps.start(*words)
    sweeps.until("0/process.json")
    # it must not be done before it is killed, however slow this machine is
    os.kill(sweeps.pid(0), signal.SIGSTOP)
    second = sweeps.start(*words)
    sweeps.until("1/process.json")
    sweeps.kill(first)
    os.kill(sweeps.pid(0), signal.SIGKILL)
    output, _ = second.communicate(timeout=300)
    assert second.returncode == 0, output
    endings = sweeps.endings(postgresql)
    assert endings.count("done") == 2
    assert endings[0] == "died"
    assert set(endings) <= {"done", "died", "surplus"}
    trials = sweeps.trials(postgresql)
    (again,) = [trial for trial in trials if trial.user_attrs.get("continues") == 0]
    assert (again.params, again.user_attrs["ending"]) == (trials[0].params, "done")


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 12 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        os.getuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)], check=False
        ).returncode
    ):
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_an_end_in_one_sentence_and_the_sweep_goes_on_when_there_is_room(
    sweeps, small_disk
):
    words = [
        "lora.r=choice(4,8)",
        "sweep.n_trials=1",
        f"hydra.sweep.dir={small_disk}",
        "training.max_steps=8",
        "training.save_steps=2",
    ]
    process = sweeps.start(*words)
    sweeps.until(f"{small_disk}/s/0/progress.json", '"step": 3')
    with suppress(OSError), (small_disk / "filler").open("wb") as filler:
        while True:
            filler.write(b"0" * 4096)
            filler.flush()
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 2, output
    assert f"the disk of {small_disk}/s is full" in output
    assert "Traceback" not in output
    (small_disk / "filler").unlink()
    status, output = sweeps.run(*words)
    assert status == 0, output
    assert "continued from checkpoint-" in (small_disk / "s/1/trial.log").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lora.rank=choice(4,8)"], "lora.rank does not exist; it is lora.r"),
        (["lora.r=int(interval(0,8))"], "the sweep would try lora.r=0 is out of range"),
        (["lora.r=range(8,8)"], "the range is empty"),
        (
            ["lora.r=choice(4,8)", "hydra.sweeper.n_jobs=0"],
            "hydra.sweeper.n_jobs=0 is out of range: allowed is at least 1",
        ),
        (
            ["lora.r=choice(4,8)", "hydra.sweeper.direction=down"],
            "hydra.sweeper.direction=down is not allowed",
        ),
        (
            ["lora.r=choice(4,8)", "hydra.sweeper.storage=nosuch://x"],
            "the study's storage nosuch://x does not answer",
        ),
        (
            ["lora.r=choice(4,8)", "hydra.sweeper.custom_search_space=no.such"],
            "custom_search_space=no.such cannot be imported",
        ),
        (
            ["sweep=rank_lr"],
            (
                "sweep=rank_lr does not exist; there are grid_rank, pareto_loss_vram, rank_lr_seq,"
                " seeds"
            ),
        ),
        (["hardware=rtx4050_6gb", "lora.r=choice(4,8)"], "needs a CUDA card"),
    ],
)
def test_bad_input_ends_in_one_sentence_before_anything_starts(sweeps, words, said):
    status, output = sweeps.run(*words)
    assert (status, output.count("\n")) == (2, 1), output
    assert said in output
    assert not list(sweeps.root.glob("multirun/*/[0-9]*"))


def test_nothing_that_fits_is_an_end_that_names_the_term(sweeps):
    status, output = sweeps.run(
        "lora.r=choice(4,8)", "hardware.vram_ceiling_gib=0.2", "hydra/sweeper/sampler=grid"
    )
    assert status == 6, output
    assert "nothing in this space fits: 2 proposals were planned, none was started" in output
    assert "largest term: what malloc keeps" in output
    assert not list(sweeps.folder.glob("[0-9]*"))
