"""What a step takes is written down as what it says of the formulas."""

from dataclasses import replace

import pytest
from helpers.commands import TOKENS

from medexp.config.changes import change_values
from medexp.data.encoding import EncodedCase
from medexp.planning import planner
from medexp.planning.budget import compute_budget
from medexp.planning.memory_terms import Levers, Phase
from medexp.planning.step_correction import find_measured, list_installed_versions
from medexp.system import machine
from medexp.training import step_measurement
from medexp.training.step_measurement import PARTS, describe_rehearsal, describe_step, measure_steps

LEVERS = Levers(2, 4, 20, True, kept_layers=3)


def rows(*lengths):
    return [EncodedCase([1] * length, [1] * length, 1) for length in lengths]


@pytest.fixture(scope="module")
def laptop(resolved):
    return resolved("hardware=rtx4050_6gb")


def test_a_peak_as_planned_says_that_the_formulas_are_right(laptop):
    asked_nothing = change_values(laptop, {"evaluation.answers": 0})
    peak = compute_budget(asked_nothing, LEVERS).bytes_in(Phase.training)
    step = describe_step(laptop, LEVERS, peak)
    assert step.measured_bytes == step.planned_bytes
    assert (step.micro_batch, step.tokens) == (2, 4096)
    assert step.versions == list_installed_versions()
    more = describe_step(laptop, LEVERS, peak + 1000)
    assert more.measured_bytes == step.measured_bytes + 1000
    known = change_values(laptop, {"hardware.measured_steps": [vars(more)]})
    assert find_measured(known, LEVERS, 4096, more.planned_bytes) == more
    # what was learnt is not learnt from
    assert describe_step(known, LEVERS, peak) == step


def test_a_rehearsal_is_of_the_lengths_that_it_had(laptop):
    step = describe_rehearsal(laptop, LEVERS, rows(1000, 960), 5 * 2**30)
    assert (step.micro_batch, step.tokens) == (2, 2000)
    alone = describe_rehearsal(laptop, LEVERS, rows(1000), 5 * 2**30)
    assert (alone.micro_batch, alone.tokens) == (1, 1000)
    assert describe_rehearsal(laptop, LEVERS, rows(1000, 700), 5 * 2**30) is None


def test_a_long_and_a_short_step_of_a_model_of_random_weights(
    resolved, no_card, tmp_path, monkeypatch
):
    """Without a card nothing is held on one: the figures are those of the formulas."""
    monkeypatch.setenv("MEDEXP_CACHE", str(tmp_path))
    small = {"layers": 6, "hidden": 64, "heads": 4, "kv_heads": 2, "head_dim": 16, "ffn": 128}
    config = resolved(
        "hardware=cpu",
        *(f"model.shape.{name}={value}" for name, value in small.items()),
        f"model.shape.vocab={TOKENS}",
        "training.max_seq_tokens=128",
        on=no_card,
    )
    trained = []
    fit = step_measurement.trainer.fit

    def fit_and_tell(model, rows, run, *rest):
        trained.append((model.network.config.num_hidden_layers, run.training.micro_batch))
        assert {len(row.input_ids) for row in rows} == {run.training.max_seq_tokens}
        return fit(model, rows, run, *rest)

    monkeypatch.setattr(step_measurement.trainer, "fit", fit_and_tell)
    done = []
    long, short = measure_steps(config, lambda: done.append(1))
    planned = planner.choose_plan(config)[0].levers.micro_batch
    assert (long.micro_batch, long.tokens) == (planned, planned * 128)
    assert short.tokens * step_measurement.SHORTER == long.tokens
    # the second length once before it counts
    assert [cases for _, cases in trained] == [planned, short.micro_batch, short.micro_batch]
    assert {layers for layers, _ in trained} == {4}
    assert len(done) == len(PARTS)
    assert not [*tmp_path.glob("random-*")]


def test_what_was_measured_is_kept_for_this_card(laptop, tmp_path, monkeypatch, large_card):
    monkeypatch.setenv("MEDEXP_CACHE", str(tmp_path))
    monkeypatch.setattr(machine, "read", lambda: large_card)
    step = describe_step(laptop, replace(LEVERS, kept_layers=0), 5 * 2**30)
    step_measurement.remember_steps([step])
    assert machine.read_measured_steps("H200") == (vars(step),)
