"""The Python API: light to import, and the same as the commands."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.commands import TinyRuns

import medexp
from medexp.errors import ConfigError, MachineError, RunError


def test_the_api_is_these_names() -> None:
    assert set(medexp.__all__) == {"Experiment", "LoadedRun", "compare_runs", "compose", "load_run"}
    assert all(callable(getattr(medexp, name)) for name in medexp.__all__)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = medexp.trian


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import medexp", ("torch", "hydra", "omegaconf", "mlflow", "rich")),
        ('import medexp; medexp.compose("hardware=rtx4050_6gb").plan()', ("torch", "mlflow")),
    ],
    ids=["import", "plan"],
)
def test_what_needs_no_torch_does_not_import_it(code: str, absent: tuple[str, ...]) -> None:
    seen = f"{code}; import sys; print([name for name in {absent} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", seen], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stdout.strip().endswith("[]"), done.stdout + done.stderr


def test_an_experiment_is_composed_as_on_the_command_line() -> None:
    experiment = medexp.compose("hardware=rtx4050_6gb", "lora.r=8")
    assert experiment.config.lora.r == 8
    assert experiment.config.model.name == "deepseek_r1_distill_llama_8b"
    assert experiment.overrides == ("hardware=rtx4050_6gb", "lora.r=8")
    assert 0 < experiment.plan().budget.peak_bytes <= 5.25 * 2**30


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["lora.r=0"], r"lora\.r=0 is out of range: allowed is at least 1"),
        (["lora.rr=8"], r"lora\.rr"),
        (["model=smollm"], "smollm2_135m"),
        (["lora.r"], "lora.r"),
    ],
)
def test_a_mistake_is_an_error_with_the_command_s_sentence(
    overrides: list[str], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        medexp.compose(*overrides)


def test_training_needs_the_card_that_planning_does_not() -> None:
    with pytest.raises(MachineError, match="needs a CUDA card"):
        medexp.compose("hardware=rtx4050_6gb").train()


def test_a_run_that_is_not_there_is_refused_when_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match="holds no runs yet"):
        medexp.load_run("last")


@pytest.mark.slow
def test_a_run_is_trained_asked_measured_exported_and_compared(
    tiny_runs: TinyRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_runs.root)
    results = [
        medexp.compose(
            *tiny_runs.overrides("training.max_steps=2", f"training.seed={seed}")
        ).train()
        for seed in (1, 2)
    ]
    first = results[0]
    assert first.adapter.parent.parent.parent == tiny_runs.root / "outputs"

    run = medexp.load_run(first.run_id)
    reply = run.ask("A child has a barking cough. What now?", "ask.max_new_tokens=4")
    assert reply.is_complete
    assert reply.tokens <= 4
    assert run.ask(reply.question, "ask.max_new_tokens=4", base=True).base

    scorecard = run.evaluate("evaluate.rescore=true")
    assert scorecard.metrics()["eval/loss_answer/after"] == first.metrics["eval/loss_answer/after"]
    exported = run.export("adapter")
    assert (exported / "adapter_model.safetensors").is_file()

    comparison = medexp.compare_runs([result.run_id for result in results])
    assert comparison.as_dict()["runs"][1]["mlflow_run_id"] == results[1].run_id
    assert "training.seed" in comparison.differences
