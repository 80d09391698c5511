"""The probe runs a real step, leaves no trace of it, and plans anew when the card says no."""

import os
import signal
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.commands import TinyRuns

from medexp.config.changes import change_values
from medexp.config.schema import Device, Resume, RunConfig
from medexp.data import loading as data_loading
from medexp.data.encoding import make_vocabulary
from medexp.data.preparation import Prepared, prepare
from medexp.data.split import split_cases
from medexp.errors import HostMemoryError, RunInterrupted, VramCeilingError
from medexp.models import backend, weights
from medexp.models import loading as model_loading
from medexp.models.adapter_model import AdapterModel
from medexp.models.memory_guard import Meter
from medexp.models.tokenizer import load_tokenizer
from medexp.planning import planner
from medexp.planning.memory_terms import Levers, Phase
from medexp.planning.step_time import predict_plan
from medexp.system import machine
from medexp.training import step_measurement
from medexp.training.preflight import (
    PreflightResult,
    find_fitting_plan,
    find_longest_batch,
    run_preflight,
)
from medexp.training.resume import ResumableRun, acquire

BATCHES = [
    "training.plan=fastest",
    "training.micro_batch=4",
    "training.accumulation=1",
    "hardware.replan=2",
    "lora.dropout=0.1",
]
# grouped cases come in another order when the micro-batch is another
IN_TURN = "training.group_by_length=false"


class RefusingCard:
    """A run of the tiny model, whose training steps run out of memory `refusals` times before one
    goes through.
    """

    def __init__(self, tiny_runs: TinyRuns, folder: Path, refusals: int = 0, *more: str):
        self.run = tiny_runs.run(*BATCHES, *more)
        # Only planned for: bytes then count as the card's.
        self.asked = change_values(self.run, {"hardware.device": Device.cuda})
        self.modules = backend.load_backend(self.run.hardware, machine.cache_dir())
        self.found = weights.find_weights(self.run.model)
        self.tokenizer = load_tokenizer(self.found, self.modules)
        self.folder, self.refusals, self.said = folder, refusals, []

    def load(self, config: RunConfig) -> AdapterModel:
        tuned = model_loading.load_model(config, self.found, self.tokenizer, self.modules)
        tuned.network.register_forward_pre_hook(self.refuse)
        return tuned

    def refuse(self, network: torch.nn.Module, _inputs: object) -> None:
        if network.training and self.refusals:
            self.refusals -= 1
            raise torch.OutOfMemoryError("out of memory")

    def ready(self) -> Prepared:
        return prepare(
            self.run,
            split_cases(data_loading.load_cases(self.run.dataset).cases, self.run.dataset),
            make_vocabulary(self.tokenizer, self.run.prompt),
        )

    def run_preflight(self, work: ResumableRun) -> PreflightResult:
        plan = predict_plan(self.asked, Levers(4, 1, compiled=False))
        meter = Meter(self.run.hardware)
        result = run_preflight(
            self.asked, self.run, plan, self.load, self.ready(), meter, work, self.said.append
        )
        self.run = result.config
        return result

    def run_out(self) -> None:
        """Seem to fit, and run out of memory while training."""
        with acquire(self.folder, "probe", Resume.auto) as work:
            self.run_preflight(work)
            raise VramCeilingError(
                "out of GPU memory while training", "training", Phase.training.value
            )


@pytest.fixture
def card(tiny_runs: TinyRuns, tmp_path: Path) -> Callable[..., RefusingCard]:
    return lambda refusals=0, *more: RefusingCard(tiny_runs, tmp_path / "work", refusals, *more)


def test_a_real_step_is_measured_and_leaves_no_trace(card: Callable[..., RefusingCard]) -> None:
    tried = card()
    fresh = [
        each.clone() for each in tried.load(tried.run).network.parameters() if each.requires_grad
    ]
    with acquire(tried.folder, "probe", Resume.auto) as work:
        result = tried.run_preflight(work)
        assert work.load_fitting_levers() == Levers(4, 1, compiled=False)
    after = [each for each in result.model.network.parameters() if each.requires_grad]
    assert all(torch.equal(a, b) for a, b in zip(fresh, after, strict=True))
    assert all(each.grad is None for each in after)
    assert [each.phase for each in result.phases] == [
        Phase.always,
        Phase.evaluation,
        Phase.training,
    ]
    assert result.tried == ()
    assert set(result.metrics()) >= {
        "vram/probe/training/planned_bytes",
        "vram/probe/training/measured_bytes",
    }


def test_a_rehearsed_step_is_learnt_from_unless_the_allocator_gave_back(
    card: Callable[..., RefusingCard], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_measurement, "LEAST_FULL", 0.0)
    tried = card()
    with acquire(tried.folder, "probe", Resume.auto) as work:
        step = tried.run_preflight(work).measured
    longest = max(len(row.input_ids) for row in tried.ready().rows)
    assert step is not None
    assert (step.micro_batch, step.tokens) == (4, 4 * longest)
    assert "dropout" in step.kind
    monkeypatch.setattr(Meter, "retries", lambda _: 1)
    again = card()
    with acquire(again.folder, "again", Resume.auto) as work:
        assert again.run_preflight(work).measured is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_in_the_probes_step_is_heard(
    card: Callable[..., RefusingCard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tried = card()
    loaded = tried.load(tried.run)

    def stop(network: torch.nn.Module, _inputs: object) -> None:
        if network.training:
            os.kill(os.getpid(), number)

    loaded.network.register_forward_pre_hook(stop)
    tried.load = lambda _: loaded  # type: ignore[method-assign]
    with acquire(tried.folder, "probe", Resume.auto) as work:
        with pytest.raises(RunInterrupted, match="the same command begins again") as stopped:
            tried.run_preflight(work)
        assert stopped.value.exit_code == 128 + number
        assert work.load_fitting_levers() is None
    assert not list(tmp_path.glob("medexp-writes-nothing/*"))


def test_a_plan_that_does_not_fit_gives_way_to_a_safer_one(
    card: Callable[..., RefusingCard],
) -> None:
    tried = card(refusals=1)
    with acquire(tried.folder, "probe", Resume.auto) as work:
        result = tried.run_preflight(work)
        assert work.load_fitting_levers() == result.plan.levers
    assert [plan.levers.micro_batch for plan in result.tried] == [4]
    assert result.plan.levers.micro_batch < 4
    assert tried.run.training.micro_batch * tried.run.training.accumulation == 4
    assert tried.run.training.micro_batch == result.plan.levers.micro_batch
    assert "did not fit" in tried.said[0]


def test_where_less_can_be_pinned_activations_stay_on_the_card(
    card: Callable[..., RefusingCard], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried, load, refusals = card(), RefusingCard.load, ["once", "and again"]

    def refused(self: RefusingCard, config: RunConfig) -> AdapterModel:
        if refusals and refusals.pop():
            raise HostMemoryError("the system cannot pin more host memory")
        return load(self, config)

    monkeypatch.setattr(RefusingCard, "load", refused)
    tried.asked = change_values(tried.asked, {"hardware.offload_activations": True})
    with acquire(tried.folder, "probe", Resume.auto) as work:
        with pytest.raises(HostMemoryError):
            tried.run_preflight(work)
        tried.asked = change_values(tried.asked, {"hardware.offload_activations": "auto"})
        result = tried.run_preflight(work)
    assert not result.plan.levers.kept_on_host
    assert len(result.tried) == 1
    assert "cannot pin more host memory; next: " in tried.said[0]


def test_when_nothing_fits_planned_and_measured_stand_side_by_side(
    card: Callable[..., RefusingCard],
) -> None:
    tried = card(refusals=9)
    with acquire(tried.folder, "probe", Resume.auto) as work:
        with pytest.raises(
            VramCeilingError,
            match=(
                r"while taking a training step on the longest batch.*Planned: .* GiB, then .*"
                r" GiB.*measured: "
            ),
        ) as refused:
            tried.run_preflight(work)
        assert work.load_fitting_levers() is None
    assert refused.value.exit_code == 3
    assert 9 - tried.refusals <= tried.run.hardware.replan + 1


def test_a_continued_run_takes_the_plan_it_had_settled_for(
    card: Callable[..., RefusingCard],
) -> None:
    first, second = card(refusals=1), card()
    with acquire(first.folder, "probe", Resume.auto) as work:
        levers = first.run_preflight(work).plan.levers
    with acquire(second.folder, "probe", Resume.auto) as work:
        result = second.run_preflight(work)
    assert result.plan.levers == levers
    assert result.phases == ()
    assert second.run.training.micro_batch == levers.micro_batch


def test_a_run_that_ran_out_later_continues_with_a_safer_plan(
    card: Callable[..., RefusingCard],
) -> None:
    first, second, third = (card(0, IN_TURN) for _ in range(3))
    with pytest.raises(VramCeilingError):
        first.run_out()
    with acquire(second.folder, "probe", Resume.auto) as work:
        result = second.run_preflight(work)
        assert work.load_fitting_levers() == result.plan.levers
    assert result.plan.levers.micro_batch < 4
    assert second.run.training.micro_batch == result.plan.levers.micro_batch
    assert "ran out of memory with this plan; next: " in second.said[0]
    with acquire(third.folder, "probe", Resume.auto) as work:
        assert third.run_preflight(work).plan.levers == result.plan.levers
    assert third.said == []


def test_a_continued_run_keeps_the_order_of_its_cases(card: Callable[..., RefusingCard]) -> None:
    first, second = (
        card(0, "training.group_by_length=true"),
        card(0, "training.group_by_length=true"),
    )
    with pytest.raises(VramCeilingError):
        first.run_out()
    with acquire(second.folder, "probe", Resume.auto) as work:
        assert second.run_preflight(work).plan.levers.micro_batch == 4


def test_a_settled_plan_is_kept_where_this_machine_can_hold_it(
    resolved: Callable[..., RunConfig], tmp_path: Path
) -> None:
    asked = resolved("hardware=rtx4050_6gb", IN_TURN)
    result = planner.choose_plan(asked)[0].levers
    plan = predict_plan(asked, replace(result, micro_batch=1, accumulation=8))
    assert result != plan.levers
    smaller = replace(asked, hardware=replace(asked.hardware, host_ram_gib=3.2))
    in_order = replace(smaller, training=replace(asked.training, group_by_length=True))
    with acquire(tmp_path, "probe", Resume.auto) as work:
        assert find_fitting_plan(asked, plan, work) is None
        work.remember_fitting_levers(result)
        kept = find_fitting_plan(asked, plan, work)
        assert kept is not None
        assert kept.levers == result
        assert find_fitting_plan(smaller, plan, work) is None
        kept = find_fitting_plan(in_order, plan, work)
        assert kept is not None
        assert kept.levers == result


def test_the_longest_batch_counts_its_padding(card: Callable[..., RefusingCard]) -> None:
    rows = card().ready().rows
    batch = find_longest_batch(rows, 2)
    padded = [
        2 * max(len(row.input_ids) for row in rows[start : start + 2])
        for start in range(0, len(rows), 2)
    ]
    assert 2 * max(len(row.input_ids) for row in batch) == max(padded)
