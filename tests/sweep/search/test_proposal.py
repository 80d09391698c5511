"""What a proposal takes is known before anything starts."""

from pathlib import Path

import pytest

from medexp.config.registration import register_with_hydra
from medexp.config.shipped import find_conf_dir
from medexp.planning import feasibility, limits, planner
from medexp.sweep.search.proposal import CONFIG, VRAM, make_proposal, plan_proposal
from medexp.system.units import GIB, bytes_of_gib

CARD = ["hardware=rtx4050_6gb"]


@pytest.fixture
def proposal(resolved):
    return lambda *overrides: plan_proposal(overrides, resolved(*overrides))


def test_what_fits_is_the_plan_a_run_would_take(proposal, resolved):
    made = proposal(*CARD)
    chosen, _ = planner.choose_plan(resolved(*CARD))
    assert made.fits
    assert made.planned_bytes == chosen.budget.peak_bytes
    assert made.violations == {VRAM: made.planned_bytes - bytes_of_gib(5.25)}
    assert made.step_s == chosen.step_s


def test_what_does_not_fit_says_by_how_many_bytes_and_which_term(proposal, resolved):
    overrides = [*CARD, "training.max_seq_tokens=65536"]
    made = proposal(*overrides)
    least = min(
        plan.budget.peak_bytes
        for plan in planner.rank_plans(resolved(*overrides), last_resorts=True)
    )
    assert not made.fits
    assert made.violations[VRAM] == pytest.approx(
        least * (1 + limits.MARGIN) - bytes_of_gib(5.25), abs=2
    )
    assert "largest term: recompute peak of a layer" in made.why
    assert "hardware.vram_ceiling_gib is 5.25" in made.why


def test_the_violation_grows_with_the_length(proposal):
    over = [
        proposal(*CARD, f"training.max_seq_tokens={seq}").violations[VRAM]
        for seq in (40960, 49152, 65536)
    ]
    assert over == sorted(over)
    assert min(over) > 0


@pytest.mark.parametrize("seq", range(20480, 22017, 512))
def test_the_edge_is_where_the_planner_has_it(proposal, resolved, seq):
    longest = feasibility.find_longest_that_fits(resolved(*CARD))
    assert proposal(*CARD, f"training.max_seq_tokens={seq}").fits == (seq <= longest)


def test_a_cpu_has_no_ceiling_unless_one_is_set(proposal):
    free = proposal("hardware=cpu")
    assert free.fits
    assert free.violations == {}
    assert free.planned_bytes > 0
    # A preset of a CPU has no rates, and what its plan says of time is an order alone.
    assert free.step_s is None
    assert not proposal(
        "hardware=cpu", f"hardware.vram_ceiling_gib={free.planned_bytes / GIB / 2:.3f}"
    ).fits


def test_a_point_that_breaks_a_rule_is_a_violation_not_an_error(compose, no_card, monkeypatch):
    import hydra

    def whole(overrides):
        register_with_hydra()
        with hydra.initialize_config_dir(str(find_conf_dir()), version_base="1.3"):
            return hydra.compose("train", list(overrides), return_hydra_config=True)

    made = make_proposal(
        ["hardware=cpu", "training.optimizer=adamw_8bit"], whole, no_card, Path("/tmp")
    )
    assert made.violations == {CONFIG: 1.0}
    assert "runs on CUDA only" in made.why
