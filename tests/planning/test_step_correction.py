"""Plans learn from steps that were measured: the very step is believed, others of its kind move."""

from dataclasses import asdict, replace

import pytest

from medexp.config.changes import change_values
from medexp.config.measured_steps import MeasuredStep
from medexp.planning import limits, step_correction
from medexp.planning.budget import compute_budget
from medexp.planning.memory_terms import Levers, Phase
from medexp.planning.step_correction import describe_kind, estimate_share, list_installed_versions
from medexp.planning.step_memory import count_formula_bytes
from medexp.system.units import MIB

LEVERS = Levers(2, 4, 20, True)
# A Granite of this shape: no card was measured with it.
GRANITE = ["model=llama_3_2_3b", "model.shape.family=granite"]


def measured(config, levers, ratio, **changes):
    """A step of `config` with `levers` that took `ratio` of its formula."""
    planned = count_formula_bytes(config, levers)
    step = MeasuredStep(
        describe_kind(config, levers),
        levers.micro_batch,
        levers.micro_batch * config.training.max_seq_tokens,
        planned,
        int(planned * ratio),
        "2026-12-01",
        dict(list_installed_versions()),
    )
    return replace(step, **changes)


def knowing(config, *steps):
    return change_values(config, {"hardware.measured_steps": [*map(asdict, steps)]})


def step_bytes(config, levers):
    budget = compute_budget(config, levers)
    return budget.bytes_in(Phase.training) - budget.bytes_in(Phase.always)


@pytest.fixture(scope="module")
def laptop(resolved):
    return resolved("hardware=rtx4050_6gb")


@pytest.fixture(scope="module")
def granite(resolved):
    return resolved("hardware=rtx4050_6gb", *GRANITE)


@pytest.mark.parametrize("levers", [LEVERS, replace(LEVERS, kept_layers=6)])
def test_the_very_step_is_planned_as_it_was_measured_with_room_for_fragments(laptop, levers):
    step = measured(laptop, levers, 1.1)
    # and of room for fragments, a tensor of hidden states
    more = step.measured_bytes - step.planned_bytes + 2 * 2 * 2048 * 4096
    known = knowing(laptop, step)
    assert step_bytes(known, levers) - step_bytes(laptop, levers) == pytest.approx(more, abs=8)
    sources = {term.source for term in compute_budget(known, levers).terms}
    assert "measured on 2026-12-01" in sources
    # measured again: what was seen last counts
    again = knowing(laptop, step, measured(laptop, levers, 0.9))
    assert step_bytes(again, levers) < step_bytes(laptop, levers)
    # as many tokens in other cases are another step
    other = replace(levers, micro_batch=1, accumulation=8)
    longer = change_values(known, {"training.max_seq_tokens": 4096})
    assert step_bytes(longer, other) < 1.05 * step_bytes(
        change_values(laptop, {"training.max_seq_tokens": 4096}), other
    )


def test_other_steps_move_by_what_is_not_known_of_their_kind(laptop, granite):
    def moved(config, *ratios):
        steps = [measured(config, LEVERS, ratio) for ratio in ratios]
        other = replace(LEVERS, micro_batch=4, accumulation=2)
        return step_bytes(knowing(config, *steps), other) / step_bytes(config, other) - 1

    assert 0 < moved(laptop, 1.2) < 0.07  # a family that was held against cards
    assert moved(laptop, 1.2) < moved(laptop, 1.2, 1.2) < 0.2
    # what its source says is not undercut: less was luck with fragments
    assert moved(laptop, 0.8) == 0
    # one that never was; gradients are in these bytes, and stay
    assert 0.12 < moved(granite, 1.2) < 0.2
    assert moved(granite, 0.7) < -0.2


def test_what_is_kept_says_nothing_of_steps_that_keep_nothing(laptop):
    step = measured(laptop, replace(LEVERS, kept_layers=6), 2.0)
    assert step_bytes(knowing(laptop, step), LEVERS) == step_bytes(laptop, LEVERS)
    # but the other way round, beside the kept layers' own bytes
    kept = replace(LEVERS, kept_layers=6)
    known = knowing(laptop, measured(laptop, LEVERS, 1.3))
    terms = {term.name: term.num_bytes for term in compute_budget(known, kept).terms}
    before = {term.name: term.num_bytes for term in compute_budget(laptop, kept).terms}
    assert terms["layers kept un-recomputed"] == before["layers kept un-recomputed"]
    assert terms["recompute peak of a layer"] > before["recompute peak of a layer"]


@pytest.mark.parametrize(
    "levers",
    [replace(LEVERS, fp8=True), replace(LEVERS, compiled=False)],
)
def test_a_step_of_another_kind_says_nothing(granite, levers):
    known = knowing(granite, measured(granite, levers, 1.5))
    assert step_bytes(known, LEVERS) == step_bytes(granite, LEVERS)


def test_steps_of_other_versions_are_dropped(granite, monkeypatch):
    versions = dict(list_installed_versions())
    old = measured(granite, LEVERS, 1.5, versions=versions | {"torch": "1.0"})
    assert not step_correction.is_current(old)
    formulas = measured(granite, LEVERS, 1.5, versions={"medexp's formulas": "00000000"})
    assert not step_correction.is_current(formulas)
    for step in (old, formulas):
        assert step_bytes(knowing(granite, step), LEVERS) == step_bytes(granite, LEVERS)
    # where a plan is only made, the library may be missing
    elsewhere = measured(granite, LEVERS, 1.5, versions=versions | {"unsloth": "2026.10.9"})
    installed = {name: version for name, version in versions.items() if name != "unsloth"}
    monkeypatch.setattr(step_correction, "list_installed_versions", lambda: installed)
    assert step_correction.is_current(elsewhere)


def test_a_measured_family_leaves_no_more_free_than_others(granite):
    assert limits.error_factor(granite) == pytest.approx(1.03)
    known = knowing(granite, measured(granite, LEVERS, 0.8))
    assert limits.error_factor(known) == pytest.approx(1.01)
    assert not [*limits.remark_on_margin(known)]


def test_long_steps_count_as_much_more_as_they_take():
    short = MeasuredStep("", 1, 512, 100 * MIB, 150 * MIB, "", {})
    long = MeasuredStep("", 4, 8192, 900 * MIB, 900 * MIB, "", {})
    assert estimate_share([short, long], 100.0, 1e-9) == pytest.approx(0.05)
    assert estimate_share([short], 0.1, 0.1) == pytest.approx(0.25)
    assert estimate_share([short] * 3, 0.1, 0.1) == pytest.approx(0.375)


def test_a_search_reads_what_was_measured_once(laptop):
    steps = [measured(laptop, LEVERS, 1.1, tokens=4096 + count) for count in range(100)]
    known = knowing(laptop, *steps)
    assert known.hardware.known_steps is known.hardware.known_steps
    assert list(known.hardware.known_steps) == steps
    # another configuration has steps of its own
    assert knowing(known, steps[0]).hardware.known_steps == (steps[0],)
