"""Several cards take the steps of one: here two processes over gloo, on a CPU."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from helpers.commands import TinyRuns, command

from medexp.config.schema import RunConfig
from medexp.data.encoding import EncodedCase
from medexp.errors import RunInterrupted
from medexp.evaluation.losses import measure_case_losses
from medexp.models.adapter_model import AdapterModel
from medexp.models.ranks import share_cores
from medexp.system.machine import Machine
from medexp.training import preflight, run, trainer

# Cases are of several lengths: one card cuts its part of a step into more micro-batches than the
# other.
RUN = [
    "hardware.dtype=float32",
    "lora.dropout=0",
    "training.max_steps=4",
    "training.micro_batch=2",
    "training.accumulation=3",
    "training.batch_by=tokens",
    "training.save_steps=1",
    "dataset.max_cases=24",
    "dataset.held_out=2",
    "evaluation.every_steps=1",
    "evaluation.batch_size=1",
    "evaluation.answers=2",
    "evaluation.max_new_tokens=4",
]
TWO = "hardware.cards=2"
# What the machine does, and not the training.
OF_THE_MACHINE = ("speed/", "host/", "result/tokens_per_s", "result/elapsed", "result/training_s")


@pytest.mark.parametrize("said", [None, "3"])
def test_each_process_has_its_part_of_the_cores_unless_the_user_says_how_many(
    monkeypatch: pytest.MonkeyPatch, said: str | None
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        take_back = share_cores(2)
        assert torch.get_num_threads() == (4 if said else 2)
        # accelerate warns and takes another number where it is not there.
        assert os.environ["OMP_NUM_THREADS"] == (said or "2")
        take_back()
        assert (torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")) == (4, said)
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def at_step(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[int, Callable[[AdapterModel], None]], None]:
    """at_step(step, do): the next training in this process calls `do(model)` while it logs the
    step.
    """
    real = trainer._make_bridge

    def arrange(step: int, do: Callable[[AdapterModel], None]) -> None:
        def bridge(model, callbacks, count_tokens):
            class Interrupter:
                def on_step_end(self, at: int, _metrics: object) -> None:
                    if at == step:
                        do(model)

            monkeypatch.setattr(trainer, "_make_bridge", real)
            return real(model, [*callbacks, Interrupter()], count_tokens)

        monkeypatch.setattr(trainer, "_make_bridge", bridge)

    return arrange


@pytest.fixture
def rehearsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest step is tried before another card joins, as on cards, whose memory is planned."""
    real, bridge = run._load_model, trainer._make_bridge

    def load(request, config, session, prepared, *rest):
        model, preflight_result = real(request, config, session, prepared, *rest)
        with pytest.MonkeyPatch.context() as during, model.restoring_weights():
            # Ctrl-C comes in the training itself.
            during.setattr(trainer, "_make_bridge", bridge)
            preflight.take_longest_step(config, model, prepared)
        return model, preflight_result

    monkeypatch.setattr(run, "_load_model", load)


def list_other_ranks() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if "medexp.models.rank_process" in child.cmdline()
    ]


def press_ctrl_c(_model: AdapterModel) -> None:
    signal.raise_signal(signal.SIGINT)


def move_and_press_ctrl_c(model: AdapterModel) -> None:
    """Put other weights into the model and its own back, as the best step's are: on both cards."""
    cases = [EncodedCase([1, 5, 6, 7], [1, 5, 6, 7], prompt_tokens=1)] * 8
    kept, own = model.copy_weights(), measure_case_losses(model, cases, batch_size=1)
    model.load_weights([value + 0.1 for value in kept])
    other = measure_case_losses(model, cases, batch_size=1)
    model.load_weights(kept)
    assert measure_case_losses(model, cases, batch_size=1) == own
    assert own[0] != other[0]
    assert (len(set(own)), len(set(other))) == (1, 1)
    press_ctrl_c(model)


def kill_other_rank(_model: AdapterModel) -> None:
    (other,) = list_other_ranks()
    os.kill(other.pid, signal.SIGKILL)


def test_a_run_on_two_cards_then_one_and_so_on_is_that_on_one_card(
    tiny_runs_in: Callable[..., TinyRuns],
    tmp_path: Path,
    at_step: Callable[..., None],
    rehearsed: None,
) -> None:
    several, one = tmp_path / "several", tmp_path / "one"
    several.mkdir()
    one.mkdir()
    runs, alone = tiny_runs_in(several), tiny_runs_in(one)
    at_step(1, move_and_press_ctrl_c)
    with pytest.raises(RunInterrupted, match="after step 1 of 4; the checkpoint is kept"):
        runs.train(*RUN, TWO)
    at_step(2, press_ctrl_c)
    with pytest.raises(RunInterrupted, match="after step 2 of 4"):
        runs.train(*RUN)
    at_step(3, kill_other_rank)
    with pytest.raises(RunInterrupted, match=r"card 2 was ended by SIGKILL.*continues") as killed:
        runs.train(*RUN, TWO)
    assert killed.value.exit_code == 128 + signal.SIGKILL
    result, expected = runs.train(*RUN), alone.train(*RUN)
    assert not list_other_ranks()
    assert "WORLD_SIZE" not in os.environ

    (run,) = runs.runs()
    assert run.info.status == "FINISHED"
    for name in ("train/loss", "train/grad_norm", "train/learning_rate", "eval/loss"):
        history = runs.history(result.run_id, name)
        assert len(history) >= 4
        assert history == pytest.approx(alone.history(expected.run_id, name), rel=1e-5), name
    metrics = {
        name: value
        for name, value in expected.metrics.items()
        if not name.startswith(OF_THE_MACHINE)
    }
    assert len(metrics) > 20
    assert {name: result.metrics[name] for name in metrics} == pytest.approx(
        metrics, rel=1e-4, abs=1e-5
    )


def test_a_launcher_in_front_is_refused(
    problems: Callable[..., tuple[str, ...]], no_card: Machine, tmp_path: Path
) -> None:
    (said,) = problems("hardware=cpu", TWO, on=replace(no_card, launched=2))
    assert "leave the launcher out, and set hardware.cards=2" in said
    status, output = command("-m", "medexp.train", cwd=tmp_path, WORLD_SIZE="2", RANK="1")
    assert status == 2
    assert output.startswith("medexp: torchrun")
    assert output.count("\n") == 1


def test_cards_that_are_not_there_or_not_alike_or_unsloths_are_refused(
    problems: Callable[..., tuple[str, ...]],
    resolved: Callable[..., RunConfig],
    large_card: Machine,
) -> None:
    on_card = ("hardware=h200_141gb", "hardware.engine=transformers", TWO)
    (said,) = problems(*on_card)
    assert said.startswith("hardware.cards=2 and the driver shows 1;")
    one = large_card.gpus[0]
    pair = replace(large_card, gpus=(one, one))
    assert resolved(*on_card, on=pair).hardware.cards == 2
    (said,) = problems(*on_card, on=replace(large_card, gpus=(one, replace(one, name="T4"))))
    assert "H200 and T4" in said
    (said,) = problems("hardware=h200_141gb", TWO, on=pair)
    assert "set hardware.engine=transformers" in said
